"""The network against itself: plain, cached, scanned, packed, sharded."""

import dataclasses
import math
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigrec_jax.config import LoraConfig
from bigrec_jax.devices import sharding
from bigrec_jax.models import hf_import, kv_cache, lora, stacking
from bigrec_jax.models.llama.config import RopeScaling
from tests.models import common

TOLERANCE = 1e-4
LORA = LoraConfig(3, 6.0, 0.1, ("q_proj", "v_proj", "down_proj"))


unstack = jax.jit(stacking.unstack_layers)
stack = jax.jit(stacking.stack_layers)


def adapter(config, on=None):
  return common.noisy_adapter(config, LORA, on)


@pytest.mark.parametrize("kind", list(common.KINDS))
def test_logits_equal_committed_numbers_of_hugging_face(kind):
  # Made by tests/models/test_hf_parity.py, which checks them where torch is.
  config = common.KINDS[kind]
  path = pathlib.Path(__file__).parent / "golden" / "logits.npz"
  ours = common.forward(
    common.build(config),
    {"params": common.noisy_params(config)},
    *common.batch(),
  )
  with np.load(path) as golden:
    np.testing.assert_allclose(ours[0, -4:], golden[kind], atol=TOLERANCE)


@pytest.fixture(scope="module", params=["whole", "prefix", "per_layer"])
def decoded(request):
  """Beams decoded with the cache, and the texts that they stand for."""
  config = common.KINDS["llama3"]
  model = common.build(config, LORA)
  variables = {"params": common.noisy_params(config), "lora": adapter(config)}
  generator = np.random.default_rng(3)
  users, beams, steps = 2, 3, 4
  tokens = generator.integers(0, common.VOCAB, (users, 9)).astype(np.int32)
  tokens[:, :4] = tokens[0, :4]  # A header common to all prompts.
  lengths = np.array([9, 6], np.int32)
  unrolled, single = model, variables
  if request.param == "per_layer":
    unrolled = model.clone(scan_layers=False)
    single = {name: unstack(tree) for name, tree in variables.items()}
  prefill = jax.jit(
    lambda *args: unrolled.apply(single, *args, method="prefill")
  )
  if request.param != "whole":
    _, header = prefill(tokens[:1, :4], np.array([4], np.int32))
    _, prompt = prefill(tokens[:, 4:], lengths - 4, header.as_prefix())
  else:
    _, prompt = prefill(tokens, lengths)
  decode = jax.jit(lambda *args: unrolled.apply(single, *args, method="decode"))
  suffix = kv_cache.init_suffix(prompt, beams, steps)
  written = np.zeros((users, beams, 0), np.int32)
  seen = []
  for step in range(steps):
    new = generator.integers(0, common.VOCAB, (users, beams)).astype(np.int32)
    hidden, suffix = decode(new, np.full(users, step, np.int32), prompt, suffix)
    written = np.concatenate([written, new[:, :, None]], axis=2)
    for user in range(users):
      for beam in range(beams):
        text = [*tokens[user, : lengths[user]], *written[user, beam]]
        seen.append((text, np.asarray(hidden)[user, beam]))
    parents = generator.integers(0, beams, (users, beams)).astype(np.int32)
    suffix = suffix.reorder(jnp.asarray(parents))
    written = np.take_along_axis(written, parents[:, :, None], axis=1)
  return model, variables, seen


def test_cached_decode_equals_full_forward_for_every_beam(decoded):
  model, variables, seen = decoded
  rows, width = len(seen), max(len(text) for text, _ in seen)
  tokens = np.zeros((rows, width), np.int32)
  segments = np.zeros((rows, width), np.int32)
  for row, (text, _) in enumerate(seen):
    tokens[row, : len(text)] = text
    segments[row, : len(text)] = 1
  positions = np.tile(np.arange(width, dtype=np.int32), (rows, 1))
  full = jax.jit(lambda *args: model.apply(variables, *args, True))(
    tokens, positions, segments
  )
  last = [full[row, len(text) - 1] for row, (text, _) in enumerate(seen)]
  np.testing.assert_allclose(
    np.stack([hidden for _, hidden in seen]), np.stack(last), atol=TOLERANCE
  )


def test_decoding_copies_no_keys_for_the_heads_that_share_them():
  config = common.LLAMA  # Two queries a key head.
  model = common.build(config).clone(scan_layers=False)
  variables = {"params": unstack(common.noisy_params(config))}
  users, beams, slots, size = 2, 3, 37, config.head_dim
  _, prompt = model.apply(
    variables,
    np.zeros((users, slots), np.int32),
    np.full(users, slots, np.int32),
    method="prefill",
  )
  suffix = kv_cache.init_suffix(prompt, beams, 5)
  given = np.zeros((users, beams), np.int32), np.zeros(users, np.int32)
  decode = jax.jit(lambda *args: model.apply(variables, *args, method="decode"))
  text = decode.lower(*given, prompt, suffix).compile().as_text()
  shapes = [
    [int(size) for size in dims.split(",")]
    for dims in set(re.findall(r"f32\[([\d,]+)\]", text))
  ]
  of_keys = [x for x in shapes if slots in x and size in x]
  assert of_keys
  once = users * config.num_key_value_heads * slots * size
  assert max(math.prod(x) for x in of_keys) <= once


def test_prefill_equals_full_forward():
  config = common.LLAMA
  model = common.build(config)
  variables = {"params": common.noisy_params(config)}
  tokens, positions, segments = common.batch()
  full = common.forward(model, variables, tokens, positions, segments)
  lengths = np.full(3, 13, np.int32)

  @jax.jit
  def prefill(variables, tokens, lengths):
    hidden, cache = model.apply(variables, tokens, lengths, method="prefill")
    return model.apply(variables, hidden, method="logits"), cache

  logits, cache = prefill(variables, tokens, lengths)
  np.testing.assert_allclose(logits, full, atol=1e-5)
  assert cache.k.shape == (3, 3, 2, 6, 13)  # [L, B, K, H, S]
  assert cache.v.shape == (3, 3, 2, 13, 6)  # [L, B, K, S, H]


def test_scanned_layers_equal_layers_one_by_one():
  config = common.LLAMA
  stacked = {
    "params": common.noisy_params(config),
    "lora": adapter(config),
  }
  single = {name: unstack(tree) for name, tree in stacked.items()}
  assert set(single["lora"]) == {"layers_0", "layers_1", "layers_2"}
  back = stack(single["params"])
  jax.tree.map(np.testing.assert_array_equal, back, stacked["params"])
  inputs = common.batch()
  ours = common.forward(
    common.build(config, LORA, scan_layers=False), single, *inputs
  )
  expected = common.forward(common.build(config, LORA), stacked, *inputs)
  np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_initial_weights_do_not_depend_on_scanning_or_mesh():
  config = dataclasses.replace(common.LLAMA, num_hidden_layers=2)
  single = hf_import.init_base(config, 3, "float32", common.mesh(), False)
  spread = hf_import.init_base(config, 3, "float32", common.mesh(2, 2, 2))
  jax.tree.map(np.testing.assert_array_equal, stack(single), spread)
  kernel = spread["layers"]["mlp"]["up_proj"]["kernel"]
  assert np.std(kernel) == pytest.approx(0.02, rel=0.1)
  assert np.abs(kernel[0] - kernel[1]).max() > 0.01
  assert (np.asarray(spread["norm"]["scale"]) == 1).all()


def test_table_of_weights_is_what_linen_declares():
  for config in (common.LLAMA, common.KINDS["llama_bias_linear"]):
    for scan in (True, False):
      model = common.build(config, LORA, scan_layers=scan)
      shapes = jax.eval_shape(
        lambda model=model: model.init(jax.random.key(0), *common.batch(), True)
      )
      table = {
        "params": hf_import.abstract_base(
          config, "float32", common.mesh(), scan
        ),
        "lora": lora.abstract(config, LORA, common.mesh(), scan),
      }
      one = lambda leaf: (leaf.shape, leaf.dtype)  # noqa: E731
      assert jax.tree.map(one, shapes) == jax.tree.map(one, table)


def test_fresh_adapter_leaves_the_base_as_it_is():
  config = common.LLAMA
  params = common.noisy_params(config)
  fresh = lora.init(config, LORA, 1, common.mesh())
  inputs = common.batch()
  base = common.forward(common.build(config), {"params": params}, *inputs)
  with_adapter = common.forward(
    common.build(config, LORA), {"params": params, "lora": fresh}, *inputs
  )
  np.testing.assert_array_equal(with_adapter, base)


def test_packed_segments_equal_separate_rows():
  config = common.LLAMA
  model = common.build(config, LORA)
  variables = {"params": common.noisy_params(config), "lora": adapter(config)}
  tokens, _, _ = common.batch(rows=1, length=13)
  cuts = [(0, 5), (5, 11)]  # And two tokens of padding.
  packed = [np.zeros((1, 13), np.int32) for _ in range(2)]
  rows = [np.zeros((2, 13), np.int32) for _ in range(3)]
  for number, (first, last) in enumerate(cuts):
    size = last - first
    packed[0][0, first:last] = np.arange(size)
    packed[1][0, first:last] = number + 1
    rows[0][number, :size] = tokens[0, first:last]
    rows[1][number, :size] = np.arange(size)
    rows[2][number, :size] = 1
  together = common.forward(model, variables, tokens, *packed)
  apart = common.forward(model, variables, *rows)
  for number, (first, last) in enumerate(cuts):
    np.testing.assert_allclose(
      together[0, first:last], apart[number, : last - first], atol=1e-5
    )
  assert np.isfinite(together).all()


def loss_and_gradient(model, params, tree, inputs):
  """A scalar and its LoRA gradient, compiled."""

  @jax.jit
  def run(params, tree, inputs):
    def loss(tree):
      variables = {"params": params, "lora": tree}
      hidden = model.apply(variables, *inputs, True)
      logits = model.apply(variables, hidden, method="logits")
      picked = jax.nn.log_softmax(logits)[..., 7]
      return -jnp.mean(picked), logits

    (_, logits), gradient = jax.value_and_grad(loss, has_aux=True)(tree)
    return logits, gradient

  return jax.tree.map(np.asarray, run(params, tree, inputs))


@pytest.fixture(scope="module")
def unsharded():
  config = common.KINDS["qwen2"]
  inputs = common.batch(rows=8)
  return loss_and_gradient(
    common.build(config, LORA),
    common.noisy_params(config),
    adapter(config),
    inputs,
  )


def assert_close(ours, expected):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ours, expected
  )


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2), (1, 8, 1)])
def test_sharded_equals_unsharded(shape, unsharded):
  config, on = common.KINDS["qwen2"], common.mesh(*shape)
  model = common.build(config, LORA, on=on)
  params, tree = common.noisy_params(config, on), adapter(config, on)
  inputs = sharding.put_batch(on, common.batch(rows=8))
  assert_close(loss_and_gradient(model, params, tree, inputs), unsharded)
  kernel = params["layers"]["mlp"]["up_proj"]["kernel"]  # [3, 24, 40]
  local = kernel.addressable_shards[0].data.shape
  assert local == (3, 24 // shape[1], 40 // shape[2])


@pytest.mark.parametrize("remat", ["full", "dots"])
def test_remat_changes_no_gradient(remat, unsharded):
  config = common.KINDS["qwen2"]
  ours = loss_and_gradient(
    common.build(config, LORA, remat=remat),
    common.noisy_params(config),
    adapter(config),
    common.batch(rows=8),
  )
  assert_close(ours, unsharded)


def test_dropout_differs_by_layer_and_key_and_keeps_the_mean():
  config = dataclasses.replace(common.LLAMA, num_hidden_layers=2)
  half = dataclasses.replace(LORA, dropout=0.5)
  model = common.build(config, half)
  params = common.noisy_params(config)
  tree = common.noisy_adapter(config, half)
  inputs = common.batch()

  @jax.jit
  def run(key):
    return model.apply(
      {"params": params, "lora": tree}, *inputs, False, rngs={"dropout": key}
    )

  first, again = run(jax.random.key(0)), run(jax.random.key(0))
  other = run(jax.random.key(1))
  np.testing.assert_array_equal(first, again)
  assert np.abs(first - other).max() > 1e-2


CHANGED = {
  "model_type": "mistral",
  "vocab_size": 67,
  "hidden_size": 28,
  "intermediate_size": 44,
  "num_hidden_layers": 2,
  "num_attention_heads": 6,
  "num_key_value_heads": 4,
  "head_dim": 8,
  "max_position_embeddings": 64,
  "rms_norm_eps": 0.1,
  "rope_theta": 100.0,
  "rope_scaling": RopeScaling("linear", 4.0),
  "tie_word_embeddings": True,
  "qkv_bias": True,
  "o_bias": True,
  "mlp_bias": True,
  "initializer_range": 0.5,
  "bos_token_id": 3,
  "eos_token_ids": (5, 6),
  "pad_token_id": 4,
}


def test_every_config_field_changes_the_exported_config():
  fields = {field.name for field in dataclasses.fields(common.LLAMA)}
  assert fields == set(CHANGED)
  for name, value in CHANGED.items():
    if name in ("o_bias", "qkv_bias"):
      continue  # config.json has one key for both.
    changed = dataclasses.replace(common.LLAMA, **{name: value})
    assert changed.to_hf("float32") != common.LLAMA.to_hf("float32"), name


SHAPES = [
  name
  for name in CHANGED
  if name.endswith(("size", "heads", "bias", "dim", "layers", "embeddings"))
  and name != "max_position_embeddings"
]


@pytest.mark.parametrize("name", SHAPES)
def test_field_changes_the_weights(name):
  def shapes(config):
    tree = hf_import.abstract_base(config, "float32", common.mesh())
    return jax.tree.map(lambda leaf: leaf.shape, tree)

  changed = dataclasses.replace(common.LLAMA, **{name: CHANGED[name]})
  assert shapes(changed) != shapes(common.LLAMA)


@pytest.mark.parametrize("name", ["rms_norm_eps", "rope_theta", "rope_scaling"])
def test_field_changes_the_logits(name):
  params = {"params": common.noisy_params(common.LLAMA)}
  changed = dataclasses.replace(common.LLAMA, **{name: CHANGED[name]})
  inputs = common.batch()
  before = common.forward(common.build(common.LLAMA), params, *inputs)
  after = common.forward(common.build(changed), params, *inputs)
  assert np.abs(before - after).max() > 1e-2


def test_bfloat16_base_with_float32_adapter_stays_near_float32():
  config = common.LLAMA
  params = common.noisy_params(config)
  low = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
  tree = adapter(config)
  inputs = common.batch()
  wide = common.forward(
    common.build(config, LORA), {"params": params, "lora": tree}, *inputs
  )
  model = common.build(config, LORA, dtype="bfloat16")
  hidden = jax.eval_shape(
    lambda: model.apply({"params": low, "lora": tree}, *inputs, True)
  )
  assert hidden.dtype == jnp.bfloat16
  narrow = common.forward(model, {"params": low, "lora": tree}, *inputs)
  assert narrow.dtype == np.float32
  # 8 bits of mantissa, of which each of the 3 layers may lose one.
  error = np.sqrt(np.mean(np.square(narrow - wide)) / np.mean(np.square(wide)))
  assert error < 2**-5
