"""Equality with transformers and peft on tiny random weights, no download."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigrec_jax.config import LoraConfig
from bigrec_jax.models import (
  hf_export,
  hf_import,
  lora,
  modules,
  registry,
)
from bigrec_jax.models.llama import layers
from tests.models import common

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TOLERANCE = 1e-4


def saved(path: pathlib.Path, kind: str):
  """A noisy base of a kind, written, and the Hugging Face model of it."""
  config = common.KINDS[kind]
  params = common.noisy_params(config)
  hf_export.save_base(path, config, params, None)
  model = transformers.AutoModelForCausalLM.from_pretrained(
    path, attn_implementation="eager", dtype=torch.float32
  )
  return config, params, model.eval()


def hf_logits(model, tokens, mask=None):
  with torch.no_grad():
    tokens = torch.from_numpy(np.asarray(tokens, np.int64))
    if mask is not None:
      mask = torch.from_numpy(np.asarray(mask, np.int64))
    return model(input_ids=tokens, attention_mask=mask).logits.float().numpy()


@pytest.mark.parametrize("kind", list(common.KINDS))
def test_logits_equal(kind, tmp_path):
  config, params, reference = saved(tmp_path / "m", kind)
  assert type(reference).__name__ == config.to_hf("float32")["architectures"][0]
  tokens, positions, segments = common.batch(length=37)
  ours = common.forward(
    common.build(config), {"params": params}, tokens, positions, segments
  )
  theirs = hf_logits(reference, tokens)
  assert np.abs(theirs).max() > 0.5  # Else equality says little.
  np.testing.assert_allclose(ours, theirs, atol=TOLERANCE, rtol=TOLERANCE)


def test_bfloat16_is_as_near_to_float32_as_hugging_face(tmp_path):
  config, params, reference = saved(tmp_path / "m", "qwen2")
  inputs = common.batch(length=37)
  exact = hf_logits(reference, inputs[0])
  low = hf_logits(reference.to(torch.bfloat16), inputs[0])
  ours = common.forward(
    common.build(config, dtype="bfloat16"),
    {"params": jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)},
    *inputs,
  )
  ours_error = np.sqrt(np.mean(np.square(ours - exact)))
  theirs_error = np.sqrt(np.mean(np.square(low - exact)))
  assert ours_error < 1.2 * theirs_error


def test_left_padding_of_hugging_face_equals_our_right_padding(tmp_path):
  config, params, reference = saved(tmp_path / "m", "llama3")
  tokens, positions, segments = common.batch(rows=2, length=11)
  lengths = [11, 6]
  left = np.zeros((2, 11), np.int32)
  mask = np.zeros((2, 11), np.int32)
  for row, length in enumerate(lengths):
    left[row, 11 - length :] = tokens[row, :length]
    mask[row, 11 - length :] = 1
    segments[row, length:] = 0
  ours = common.forward(
    common.build(config), {"params": params}, tokens, positions, segments
  )
  theirs = hf_logits(reference, left, mask)
  for row, length in enumerate(lengths):
    np.testing.assert_allclose(
      ours[row, :length], theirs[row, 11 - length :], atol=TOLERANCE
    )


def test_modules_equal(tmp_path):
  config, params, reference = saved(tmp_path / "m", "llama_bias_linear")
  first = jax.tree.map(lambda x: x[0], params["layers"])
  own = reference.model.layers[0]
  x = np.random.default_rng(5).normal(size=(2, 7, 24)).astype(np.float32)
  positions = np.tile(np.arange(7, dtype=np.int32), (2, 1))
  xt, pt = torch.from_numpy(x), torch.from_numpy(positions.astype(np.int64))
  cos, sin = layers.rotary_tables(jnp.asarray(positions), config)
  with torch.no_grad():
    angles = reference.model.rotary_emb(xt, pt)
    causal = torch.full((7, 7), -1e30).triu(1)[None, None]
    keywords = {"position_embeddings": angles, "attention_mask": causal}
    expected = {
      "norm": own.input_layernorm(xt).numpy(),
      "attention": own.self_attn(xt, **keywords)[0].numpy(),
      "mlp": own.mlp(xt).numpy(),
      "layer": own(xt, **keywords).numpy(),
    }
  half = config.head_dim // 2
  np.testing.assert_allclose(cos, angles[0][..., :half].numpy(), atol=1e-5)
  np.testing.assert_allclose(sin, angles[1][..., half:].numpy(), atol=1e-5)

  dtype = jnp.dtype("float32")
  context = layers.Context(cos, sin, jnp.ones((2, 7), jnp.int32))
  arguments = (config, None, dtype, "xla", None)
  past = layers.Past()
  ours = {
    "norm": modules.RMSNorm(config.rms_norm_eps, dtype).apply(
      {"params": first["input_layernorm"]}, x
    ),
    "attention": layers.Attention(*arguments).apply(
      {"params": first["self_attn"]}, x, past, context, None
    )[0],
    "mlp": layers.Mlp(config, None, dtype, None).apply(
      {"params": first["mlp"]}, x, None
    ),
    "layer": layers.Layer(*arguments).apply(
      {"params": first}, x, past, context, None
    )[0],
  }
  for name, value in ours.items():
    tolerance = 1e-5 if name == "norm" else TOLERANCE
    np.testing.assert_allclose(
      value, expected[name], atol=tolerance, err_msg=name
    )


@pytest.mark.parametrize("kind", ["llama3", "qwen2"])
def test_loads_what_transformers_writes(kind, tmp_path):
  config, _, reference = saved(tmp_path / "ours", kind)
  # A version-5 config.json (rope_parameters, dtype), in several shards.
  reference.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
  assert (tmp_path / "theirs" / "model.safetensors.index.json").is_file()
  read, params = hf_import.load_base(
    tmp_path / "theirs", common.model_config(), common.mesh(2, 2, 2)
  )
  compared = (
    "rope_theta",
    "rope_scaling",
    "head_dim",
    "qkv_bias",
    "vocab_size",
  )
  for name in compared:
    assert getattr(read, name) == getattr(config, name)
  tokens, positions, segments = common.batch(rows=4)
  model = common.build(read, on=common.mesh(2, 2, 2))
  ours = common.forward(model, {"params": params}, tokens, positions, segments)
  np.testing.assert_allclose(ours, hf_logits(reference, tokens), atol=TOLERANCE)


def test_soft_tokens_equal_inputs_embeds(tmp_path):
  config, params, reference = saved(tmp_path / "m", "llama3")
  tokens, positions, segments = common.batch(length=11)
  model, variables = common.build(config), {"params": params}
  soft = np.random.default_rng(4).normal(0, 0.5, (3, 11, config.hidden_size))
  is_soft = np.zeros((3, 11, 1), np.bool_)
  is_soft[:, 2:5] = True
  embeddings = model.apply(variables, tokens, method="embed")
  mixed = jnp.where(is_soft, soft.astype(np.float32), embeddings)
  with torch.no_grad():
    theirs = reference(inputs_embeds=torch.from_numpy(np.asarray(mixed)))
  theirs = theirs.logits.numpy()
  assert np.abs(theirs - hf_logits(reference, tokens)).max() > 0.5
  ours = common.forward(model, variables, mixed, positions, segments)
  np.testing.assert_allclose(ours, theirs, atol=TOLERANCE)
  # Prompts of other lengths: what comes after them is not seen.
  lengths = np.array([11, 7, 9], np.int32)
  hidden, cache = model.apply(variables, mixed, lengths, method="prefill")
  ours = model.apply(variables, hidden, method="logits")
  assert cache.lengths.tolist() == lengths.tolist()
  for row, length in enumerate(lengths):
    np.testing.assert_allclose(
      ours[row, :length], theirs[row, :length], atol=TOLERANCE
    )


ADAPTED = LoraConfig(3, 6.5, 0.05, ("q_proj", "o_proj", "down_proj"))


def test_our_adapter_loads_in_peft(tmp_path):
  peft = pytest.importorskip("peft")
  config, params, reference = saved(tmp_path / "base", "qwen2")
  tree = common.noisy_adapter(config, ADAPTED)
  hf_export.save_adapter(
    tmp_path / "a", config, ADAPTED, tree, str(tmp_path / "base")
  )
  theirs = peft.PeftModel.from_pretrained(reference, tmp_path / "a").eval()
  tokens, positions, segments = common.batch()
  variables = {"params": params, "lora": tree}
  ours = common.forward(
    common.build(config, ADAPTED), variables, tokens, positions, segments
  )
  base = common.forward(
    common.build(config), {"params": params}, tokens, positions, segments
  )
  assert np.abs(ours - base).max() > 0.1
  np.testing.assert_allclose(
    ours, hf_logits(theirs, tokens), atol=TOLERANCE, rtol=TOLERANCE
  )


@pytest.mark.parametrize(
  "targets", [["q_proj", "mlp.up_proj"], r".*\.(k|v)_proj", "all-linear"]
)
def test_adapter_of_peft_loads_here(targets, tmp_path):
  peft = pytest.importorskip("peft")
  config, params, reference = saved(tmp_path / "base", "llama")
  settings = peft.LoraConfig(
    r=2,
    lora_alpha=5,
    target_modules=targets,
    task_type="CAUSAL_LM",
    init_lora_weights=False,
  )
  theirs = peft.get_peft_model(reference, settings).eval()
  theirs.save_pretrained(tmp_path / "a")
  read, tree = hf_import.load_adapter(tmp_path / "a", config)
  tokens, positions, segments = common.batch()
  variables = {"params": params, "lora": tree}
  ours = common.forward(
    common.build(config, read), variables, tokens, positions, segments
  )
  np.testing.assert_allclose(
    ours, hf_logits(theirs, tokens), atol=TOLERANCE, rtol=TOLERANCE
  )


def test_merged_export_equals_base_and_adapter(tmp_path):
  config, params, _ = saved(tmp_path / "base", "llama3")
  tree = common.noisy_adapter(config, ADAPTED)
  hf_export.save_merged(tmp_path / "m", config, params, ADAPTED, tree, None)
  merged = transformers.AutoModelForCausalLM.from_pretrained(
    tmp_path / "m", dtype=torch.float32
  ).eval()
  tokens, positions, segments = common.batch()
  variables = {"params": params, "lora": tree}
  ours = common.forward(
    common.build(config, ADAPTED), variables, tokens, positions, segments
  )
  np.testing.assert_allclose(
    ours, hf_logits(merged, tokens), atol=TOLERANCE, rtol=TOLERANCE
  )
  # The functional merge, on device, is the same.
  functional = lora.merge(params, tree, ADAPTED)
  ours = common.forward(
    common.build(config), {"params": functional}, tokens, positions, segments
  )
  np.testing.assert_allclose(
    ours, hf_logits(merged, tokens), atol=TOLERANCE, rtol=TOLERANCE
  )


def test_config_round_trip_through_transformers(tmp_path):
  for kind, config in common.KINDS.items():
    (tmp_path / "config.json").write_text(json.dumps(config.to_hf("float32")))
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    theirs.save_pretrained(tmp_path)  # In version 5's own words.
    assert registry.read_config(tmp_path) == config, kind


def test_golden_arrays_are_what_transformers_computes(tmp_path):
  path = pathlib.Path(__file__).parent / "llama" / "golden" / "logits.npz"
  with np.load(path) as golden:
    for kind in common.KINDS:
      _, _, reference = saved(tmp_path / kind, kind)
      tokens, _, _ = common.batch()
      theirs = hf_logits(reference, tokens)[0, -4:]
      np.testing.assert_allclose(golden[kind], theirs, atol=1e-5)


def make_golden() -> None:
  """Writes llama/golden/logits.npz: python -m tests.models.test_hf_parity."""
  import tempfile

  arrays = {}
  for kind in common.KINDS:
    with tempfile.TemporaryDirectory() as folder:
      _, _, reference = saved(pathlib.Path(folder) / "m", kind)
      tokens, _, _ = common.batch()
      arrays[kind] = hf_logits(reference, tokens)[0, -4:]
  path = pathlib.Path(__file__).parent / "llama" / "golden" / "logits.npz"
  np.savez_compressed(path, **arrays)


if __name__ == "__main__":
  make_golden()
