"""Base weights and adapters on disk: round trips, and what is refused."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigrec_jax import errors
from bigrec_jax.config import LoraConfig
from bigrec_jax.models import (
  hf_export,
  hf_import,
  lora,
  quantize,
  stacking,
  tensor_files,
)
from tests.models import common

LORA = LoraConfig(3, 6.5, 0.1, ("q_proj", "down_proj"))
CONFIG = common.KINDS["llama_bias_linear"]
EMBEDDING = "model.embed_tokens.weight"
Q = "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def params():
  return common.noisy_params(CONFIG)


@pytest.fixture(scope="module")
def base(tmp_path_factory, params):
  directory = tmp_path_factory.mktemp("base") / "model"
  hf_export.save_base(directory, CONFIG, params, None)
  return directory


@pytest.fixture
def copy(base, tmp_path):
  """A copy to damage, and a function that rewrites its tensors."""
  directory = tmp_path / "copy"
  shutil.copytree(base, directory)

  def rewrite(change, name="model.safetensors"):
    file = directory / "model.safetensors"
    tensors = tensor_files.read_file(file)
    arrays = {key: np.array(value.view()) for key, value in tensors.items()}
    arrays = change(arrays)
    header = [(key, x.dtype, x.shape) for key, x in arrays.items()]
    tensor_files.write_file(directory / name, header, arrays.__getitem__)

  return directory, rewrite


def load(directory, on=None, **changes):
  settings = common.model_config(**changes)
  return hf_import.load_base(directory, settings, on or common.mesh())


def equal(ours, expected):
  jax.tree.map(np.testing.assert_array_equal, ours, expected)


def refused(directory, *words):
  with pytest.raises(errors.UserError) as caught:
    load(directory)
  message = str(caught.value)
  assert "\n" not in message
  for word in words:
    assert word in message
  return message


def test_base_round_trip_on_a_mesh(base, params):
  on = common.mesh(2, 2, 2)
  config, loaded = load(base, on)
  assert config == CONFIG
  equal(loaded, params)
  for leaf, abstract in zip(
    jax.tree.leaves(loaded),
    jax.tree.leaves(hf_import.abstract_base(CONFIG, "float32", on)),
    strict=True,
  ):
    assert (leaf.dtype, leaf.sharding) == (abstract.dtype, abstract.sharding)


def test_layers_one_by_one_and_bfloat16(base, params):
  _, loaded = load(base, scan_layers=False, dtype="bfloat16")
  ours = loaded["layers_2"]["mlp"]["down_proj"]["kernel"]
  expected = params["layers"]["mlp"]["down_proj"]["kernel"][2]
  np.testing.assert_array_equal(ours, expected.astype(jnp.bfloat16))


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_quantised_loading(kind, base, params):
  _, loaded = load(base, common.mesh(2, 2, 2), quantization=kind)
  kernel = params["layers"]["mlp"]["up_proj"]["kernel"]
  expected = jax.jit(quantize.quantize, static_argnums=1)(kernel, kind)
  ours = loaded["layers"]["mlp"]["up_proj"]["kernel"]
  assert type(ours) is type(expected)
  equal(ours, expected)
  equal(loaded["embed_tokens"], params["embed_tokens"])
  # The network runs on it, scanned, and stays near the plain one.
  model = common.build(CONFIG)
  inputs = common.batch()
  plain = common.forward(model, {"params": params}, *inputs)
  _, single = load(base, quantization=kind)
  rough = common.forward(model, {"params": single}, *inputs)
  error = np.sqrt(np.mean(np.square(rough - plain)) / np.mean(plain**2))
  assert 0 < error < {"int8": 0.03, "nf4": 0.4}[kind]


def test_missing_tensor(copy):
  directory, rewrite = copy
  rewrite(lambda t: {k: v for k, v in t.items() if k != Q})
  refused(directory, Q, "no such tensor", "[24, 24]")


def test_unknown_tensor(copy):
  directory, rewrite = copy
  rewrite(lambda t: {**t, "model.extra": t[Q]})
  refused(directory, "model.extra", "unknown tensor", "model.safetensors")


def test_misshapen_tensor(copy):
  directory, rewrite = copy
  rewrite(lambda t: {**t, Q: t[Q][:5]})
  refused(directory, Q, "[5, 24] found, [24, 24] expected", "safetensors")


def test_old_rotary_buffers_are_ignored(copy, params):
  directory, rewrite = copy
  name = "model.layers.0.self_attn.rotary_emb.inv_freq"
  rewrite(lambda t: {**t, name: np.ones(3, np.float32)})
  equal(load(directory)[1], params)


def test_shards(copy, params):
  directory, rewrite = copy
  rewrite(lambda t: {EMBEDDING: t[EMBEDDING]}, "a.safetensors")
  rewrite(lambda t: {k: v for k, v in t.items() if k != EMBEDDING}, "b.st")
  names = tensor_files.read_file(directory / "b.st")
  index = {EMBEDDING: "a.safetensors", **dict.fromkeys(names, "b.st")}
  path = directory / "model.safetensors.index.json"
  path.write_text(json.dumps({"weight_map": index}))
  whole = directory / "model.safetensors"
  content = whole.read_bytes()
  whole.unlink()
  equal(load(directory)[1], params)

  whole.write_bytes(content)
  rewrite(lambda t: t, "b.st")  # Now the embedding is in both.
  whole.unlink()
  refused(directory, EMBEDDING, "b.st", "also in a.safetensors")

  (directory / "b.st").unlink()
  refused(directory, "b.st", "not found")


def test_damaged_files(copy):
  directory, _ = copy
  file = directory / "model.safetensors"
  whole = file.read_bytes()
  for size in (0, 5, 100, len(whole) - 1):
    file.write_bytes(whole[:size])
    assert "cut short" in refused(directory, str(file))
  start = whole.index(b'"model.')
  twice = whole[:start].replace(b"{", b'{"a":1,"a":2,', 1) + whole[start:]
  length = int.from_bytes(whole[:8], "little") + len(b'"a":1,"a":2,')
  file.write_bytes(length.to_bytes(8, "little") + twice[8:])
  refused(directory, "a: found twice")


def test_torch_checkpoint_and_nothing(copy, tmp_path):
  directory, _ = copy
  (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
  refused(directory, "pytorch_model.bin", "safetensors", "save_pretrained")
  (directory / "pytorch_model.bin").unlink()
  refused(directory, "no model.safetensors")
  refused(tmp_path / "nowhere", "not found")


def test_tied_head_written_twice(tmp_path):
  config = common.KINDS["qwen2"]
  directory = tmp_path / "m"
  hf_export.save_base(directory, config, common.noisy_params(config), None)
  file = directory / "model.safetensors"
  tensors = tensor_files.read_file(file)
  arrays = {name: np.array(t.view()) for name, t in tensors.items()}

  def rewrite(head):
    both = {**arrays, "lm_head.weight": head}
    header = [(key, x.dtype, x.shape) for key, x in both.items()]
    tensor_files.write_file(file, header, both.__getitem__)

  rewrite(arrays[EMBEDDING])
  load(directory)
  rewrite(arrays[EMBEDDING] + 1)
  refused(directory, "lm_head.weight", "tie_word_embeddings")


@pytest.fixture(scope="module")
def tree():
  return common.noisy_adapter(CONFIG, LORA)


def change_json(file, **values):
  file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.mark.parametrize("scan_layers", [True, False])
def test_adapter_round_trip(scan_layers, tmp_path):
  tree = common.noisy_adapter(CONFIG, LORA, scan_layers=scan_layers)
  hf_export.save_adapter(tmp_path / "a", CONFIG, LORA, tree, "base")
  read, ours = hf_import.load_adapter(tmp_path / "a", CONFIG, scan_layers)
  assert read == LORA
  equal(ours, tree)
  assert lora.count(tree) == 3 * 3 * (24 + 24 + 40 + 24)


def test_adapter_of_another_base(tmp_path, tree):
  hf_export.save_adapter(tmp_path / "a", CONFIG, LORA, tree, "base")
  for changes, words in (
    ({"hidden_size": 28}, "shape .* another base"),
    ({"num_hidden_layers": 4}, "layers.3.* the base has 4 layers"),
    ({"num_hidden_layers": 2}, "layers.2.* unknown tensor"),
  ):
    other = dataclasses.replace(CONFIG, **changes)
    with pytest.raises(errors.UserError, match=words):
      hf_import.load_adapter(tmp_path / "a", other)


@pytest.mark.parametrize(
  ("values", "words"),
  [
    ({"peft_type": "IA3"}, "peft_type: 'IA3'"),
    ({"use_dora": True}, "use_dora: True found"),
    ({"use_rslora": "false"}, "use_rslora: 'false' found, true or false"),
    ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    ({"bias": "all"}, "bias: 'all'"),
    ({"rank_pattern": {"q_proj": 4}}, r"\[4, 24\] expected"),
    ({"init_lora_weights": "pissa"}, "pissa"),
    ({"r": None}, "r: None found"),
    ({"target_modules": ["lm_head"]}, "'lm_head' found"),
    ({"target_modules": r".*layers\.1\..*q_proj"}, "unknown tensor"),
    ({"target_modules": "nothing"}, "matches nothing"),
    ({"target_modules": "("}, "no regular expression"),
    ({"target_modules": ["q_proj"]}, "unknown tensor"),
  ],
)
def test_adapter_that_is_not_plain_lora(values, words, tmp_path, tree):
  hf_export.save_adapter(tmp_path / "a", CONFIG, LORA, tree, "base")
  change_json(tmp_path / "a" / "adapter_config.json", **values)
  with pytest.raises(errors.UserError, match=words):
    hf_import.load_adapter(tmp_path / "a", CONFIG)


def test_empty_or_missing_adapter(tmp_path, tree):
  hf_export.save_adapter(tmp_path / "a", CONFIG, LORA, tree, "base")
  file = tmp_path / "a" / "adapter_model.safetensors"
  tensor_files.write_file(file, [], {}.__getitem__)
  with pytest.raises(errors.UserError, match="no tensors found"):
    hf_import.load_adapter(tmp_path / "a", CONFIG)
  file.rename(tmp_path / "a" / "adapter_model.bin")
  with pytest.raises(errors.UserError, match="a torch file found"):
    hf_import.load_adapter(tmp_path / "a", CONFIG)


def test_bad_weights_never_replace_a_good_adapter(tmp_path, tree):
  hf_export.save_adapter(tmp_path / "a", CONFIG, LORA, tree, "base")
  bad = jax.tree.map(lambda x: np.full(x.shape, np.nan, np.float32), tree)
  with pytest.raises(errors.UserError, match="NaN or infinity"):
    hf_export.save_adapter(tmp_path / "a", CONFIG, LORA, bad, "base")
  with pytest.raises(ValueError, match="without weights"):
    hf_export.save_adapter(tmp_path / "a", CONFIG, LORA, {}, "base")
  equal(hf_import.load_adapter(tmp_path / "a", CONFIG)[1], tree)
  other = jax.tree.map(lambda x: x + np.float32(1), tree)
  hf_export.save_adapter(tmp_path / "a", CONFIG, LORA, other, "base")
  equal(hf_import.load_adapter(tmp_path / "a", CONFIG)[1], other)
  assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_failed_write_leaves_the_old_directory(tmp_path):
  (tmp_path / "d").mkdir()
  (tmp_path / "d" / "old").touch()
  with pytest.raises(OSError, match="disk is full"):
    with tensor_files.atomic_directory(tmp_path / "d") as temporary:
      (temporary / "new").touch()
      raise OSError("disk is full")
  assert [path.name for path in tmp_path.rglob("*")] == ["d", "old"]


def test_merged_quantised_base_is_written_plain(tmp_path, base, tree):
  _, low = load(base, quantization="int8")
  hf_export.save_merged(tmp_path / "m", CONFIG, low, LORA, tree, None)
  apart = [stacking.unstack_layers(x) for x in (low, tree)]  # As on a CPU.
  hf_export.save_merged(tmp_path / "n", CONFIG, apart[0], LORA, apart[1], None)
  written = [tmp_path / d / "model.safetensors" for d in "mn"]
  assert written[0].read_bytes() == written[1].read_bytes()
  _, merged = load(tmp_path / "m")
  name = ("layers", "self_attn", "q_proj")
  ours, plain, own = merged, low, tree
  for part in name:
    ours, plain, own = ours[part], plain[part], own[part]
  scale = np.float32(6.5 / 3)
  expected = np.asarray(plain["kernel"].dequantize(jnp.float32)) + (
    np.asarray(own["lora_a"]) @ np.asarray(own["lora_b"]) * scale
  )
  np.testing.assert_allclose(ours["kernel"], expected, atol=1e-5)


def test_tokenizer_files_are_copied(tmp_path, params):
  source = tmp_path / "s"
  source.mkdir()
  with pytest.raises(errors.UserError, match="no tokenizer found"):
    hf_export.save_base(tmp_path / "m", CONFIG, params, source)
  (source / "tokenizer.json").write_text("{}")
  hf_export.save_base(tmp_path / "m", CONFIG, params, source)
  assert (tmp_path / "m" / "tokenizer.json").read_text() == "{}"
