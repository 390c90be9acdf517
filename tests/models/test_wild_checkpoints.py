"""Model directories as found: of several saves, damaged, not finite."""

import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigrec_jax import errors
from bigrec_jax.models import hf_export, hf_import, tensor_files
from tests.models import common

CONFIG = common.LLAMA
Q = "model.layers.1.self_attn.q_proj.weight"
NORM = "model.norm.weight"
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture(scope="module")
def params():
  return common.noisy_params(CONFIG)


@pytest.fixture(scope="module")
def saved(tmp_path_factory, params):
  directory = tmp_path_factory.mktemp("base") / "model"
  hf_export.save_base(directory, CONFIG, params, None)
  file = directory / WHOLE
  tensors = tensor_files.read_file(file)
  return directory, {name: np.array(t.view()) for name, t in tensors.items()}


@pytest.fixture
def base(saved, tmp_path):
  """A copy to damage, and its tensors."""
  directory = tmp_path / "base"
  shutil.copytree(saved[0], directory)
  return directory, dict(saved[1])


def write(file, tensors):
  header = [(name, x.dtype, x.shape) for name, x in tensors.items()]
  tensor_files.write_file(file, header, tensors.__getitem__)


def load(directory, on=None, **changes):
  settings = common.model_config(**changes)
  return hf_import.load_base(directory, settings, on or common.mesh())[1]


def refused(directory, *words, **changes):
  with pytest.raises(errors.UserError) as caught:
    load(directory, **changes)
  assert "\n" not in str(caught.value)
  for word in words:
    assert word in str(caught.value)


def shard(directory, tensors, count=2):
  """Writes tensors as transformers shards them, with the index."""
  names, index = sorted(tensors), {}
  for n in range(count):
    file = f"model-{n + 1:05}-of-{count:05}.safetensors"
    own = names[n::count]
    write(directory / file, {name: tensors[name] for name in own})
    index |= dict.fromkeys(own, file)
  (directory / INDEX).write_text(json.dumps({"weight_map": index}))
  return index


@pytest.mark.parametrize("shards", ["there", "gone"])
def test_a_whole_file_goes_before_a_stale_index(shards, base, params, caplog):
  directory, tensors = base
  index = shard(directory, {name: x + 1 for name, x in tensors.items()})
  if shards == "gone":
    for file in set(index.values()):
      (directory / file).unlink()
  with caplog.at_level("WARNING"):
    loaded = load(directory)
  jax.tree.map(np.testing.assert_array_equal, loaded, params)
  assert f"{INDEX}: not read, for {WHOLE} is there too" in caplog.text


@pytest.mark.torch
def test_of_two_saves_the_one_that_transformers_reads(base):
  transformers = pytest.importorskip("transformers")
  directory, tensors = base
  shard(directory, {name: x + 1 for name, x in tensors.items()})
  theirs = transformers.AutoModelForCausalLM.from_pretrained(directory)
  np.testing.assert_array_equal(
    load(directory)["norm"]["scale"], theirs.model.norm.weight.detach().numpy()
  )


def test_shards_and_what_else_lies_beside_them(base, params, caplog):
  directory, tensors = base
  index = shard(directory, tensors)
  (directory / WHOLE).unlink()
  write(directory / "model-00003-of-00003.safetensors", {NORM: tensors[NORM]})
  write(directory / "consolidated.safetensors", {NORM: tensors[NORM]})
  metadata = {"metadata": {"total_size": "x"}, "weight_map": index}
  (directory / INDEX).write_text(json.dumps(metadata))
  with caplog.at_level("WARNING"):
    jax.tree.map(np.testing.assert_array_equal, load(directory), params)
  assert "model-00003-of-00003.safetensors: not read" in caplog.text
  for values, words in (
    ([], "an object expected"),
    ({}, "weight_map expected"),
    ({"weight_map": []}, "weight_map: [] found, an object"),
    ({"weight_map": {}}, "no weight_map"),
    ({"weight_map": {NORM: 3}}, "weight_map.model.norm.weight: 3 found"),
    ({"weight_map": {NORM: "../model/x"}}, "'../model/x' found, a file's name"),
    ({"weight_map": index | {NORM: "none.st"}}, "none.st: not found"),
    ({"weight_map": index | {"more": index[NORM]}}, "more: missing, though"),
  ):
    (directory / INDEX).write_text(json.dumps(values))
    refused(directory, words)


@pytest.mark.parametrize(
  ("name", "words"),
  [
    ("pytorch_model.bin", "a torch checkpoint found, safetensors expected"),
    ("consolidated.safetensors", "Mistral's own layout found"),
    ("consolidated.00.pth", "Meta's own layout found"),
    ("model.fp16.safetensors", "a variant of the weights found"),
    ("model-00001-of-00002.safetensors", "shards without their index found"),
    ("adapter_model.safetensors", "a PEFT adapter found"),
    ("weights.gguf", "a GGUF file found"),
  ],
)
def test_weights_under_other_names_are_said(name, words, base):
  directory, _ = base
  (directory / WHOLE).rename(directory / name)
  refused(directory, name, words)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
  "how",
  [
    {},
    {"scan_layers": False},
    {"quantization": "int8"},
    {"quantization": "nf4"},
    {"dtype": "bfloat16"},
  ],
  ids=lambda how: "-".join(map(str, how.values())) or "plain",
)
def test_a_weight_that_is_not_finite_is_refused(value, how, base):
  directory, tensors = base
  damaged = tensors[Q].copy()
  damaged[3, 5] = value
  write(directory / WHOLE, tensors | {Q: damaged})
  refused(directory, WHOLE, Q, "NaN or infinity found", **how)


def test_on_a_mesh_and_outside_of_the_layers_likewise(base):
  directory, tensors = base
  damaged = tensors[NORM].copy()
  damaged[-1] = np.nan
  write(directory / WHOLE, tensors | {NORM: damaged})
  with pytest.raises(errors.UserError, match=f"{NORM}: NaN or infinity"):
    load(directory, common.mesh(2, 2, 2))


def test_a_weight_that_bfloat16_rounds_to_infinity(base):
  directory, tensors = base
  large = tensors[NORM].copy()
  large[0] = np.finfo(np.float32).max  # Above bfloat16's largest number.
  write(directory / WHOLE, tensors | {NORM: large})
  load(directory)
  refused(directory, NORM, "infinity found in bfloat16", dtype="bfloat16")
  large[0] = float(jnp.finfo(jnp.bfloat16).max)
  write(directory / WHOLE, tensors | {NORM: large})
  load(directory, dtype="bfloat16")


HEADER = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"data_offsets": [-24, 0]}, "-24 found in shape or data_offsets"),
    ({"data_offsets": [24, 0]}, "-24 bytes found, shape [2, 3]"),
    ({"data_offsets": [8, 32]}, "cut short"),
    ({"data_offsets": [2**62, 2**62 + 24]}, "cut short"),
    ({"data_offsets": [0, 24.0]}, "24.0 found in shape or data_offsets"),
    ({"data_offsets": ["0", "24"]}, "0 found in shape or data_offsets"),
    ({"data_offsets": [0]}, "no dtype, shape and data_offsets"),
    ({"data_offsets": {}}, "no dtype, shape and data_offsets"),
    ({"data_offsets": None}, "no dtype, shape and data_offsets"),
    ({"shape": [2, "3"]}, "3 found in shape"),
    ({"shape": [-2, -3]}, "-2 found in shape"),
    ({"shape": [2, 4]}, "24 bytes found, shape [2, 4]"),
    ({"shape": [2**40, 2**40]}, "24 bytes found"),
    ({"shape": [True, 6]}, "True found in shape"),
    ({"shape": 6}, "no dtype, shape and data_offsets"),
    ({"shape": None}, "no dtype, shape and data_offsets"),
    ({"dtype": "F8_E4M3"}, "dtype F8_E4M3 found, one of F64, F32"),
    ({"dtype": ["F32"]}, "dtype ['F32'] found"),
    ({"dtype": "a\nb"}, "dtype a\\nb found"),
  ],
)
def test_a_header_that_lies(changes, words, tmp_path):
  file = tmp_path / "x.safetensors"
  text = json.dumps({"a\u2028b": HEADER | changes}).encode()
  file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(24))
  with pytest.raises(errors.UserError) as caught:
    tensor_files.read_file(file)
  assert words in str(caught.value)
  assert str(caught.value).startswith(f"{file}: a\\u2028b: ")
  assert str(caught.value).isprintable()


@pytest.mark.parametrize(
  ("header", "content", "words"),
  [
    ({"a": HEADER, "b": HEADER}, 24, "b: overlaps another tensor"),
    (
      {"a": HEADER, "b": HEADER | {"data_offsets": [25, 49]}},
      49,
      "1 bytes that are of no tensor",
    ),
    ({"a": HEADER}, 25, "1 bytes that are of no tensor"),
    ({"a": HEADER}, 23, "a: cut short, "),
    ({}, 3, "3 bytes that are of no tensor"),
    ([], 0, "damaged or cut short"),
    ("x", 0, "damaged or cut short"),
    ({"a": None}, 0, "no dtype, shape and data_offsets"),
  ],
)
def test_a_file_that_is_not_as_the_format_says(
  header, content, words, tmp_path
):
  file = tmp_path / "x.safetensors"
  text = json.dumps(header).encode()
  file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(content))
  with pytest.raises(errors.UserError) as caught:
    tensor_files.read_file(file)
  assert str(caught.value).startswith(f"{file}: ") and words in str(
    caught.value
  )


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 10**8 + 1, 100])
def test_an_absurd_length_of_the_header(length, tmp_path):
  file = tmp_path / "x.safetensors"
  file.write_bytes(length.to_bytes(8, "little") + b"{}")
  os.truncate(file, 2 * 10**8)  # Sparse: nothing of it may be read.
  with pytest.raises(errors.UserError, match="damaged or cut short"):
    tensor_files.read_file(file)
