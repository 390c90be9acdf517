"""Damaged model files: read, or refused in one line that names the file."""

import json
import resource
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from bigrec_jax.data.text import tokenization
from bigrec_jax.models import (
  hf_export,
  peft_import,
  registry,
  tensor_files,
)
from bigrec_jax.models.gguf import conversion
from tests import fuzzing
from tests.models import common, gguf_files

pytestmark = pytest.mark.slow
MOST = 1 << 20  # KiB that all readers may take; the files have some hundred.

budget = settings(
  max_examples=400,
  derandomize=True,
  deadline=None,
  database=None,
  suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
  """A base with its tokenizer, an adapter beside it, and a GGUF file."""
  root = tmp_path_factory.mktemp("fuzz")
  config = common.KINDS["llama3"]
  tokenization.train_bpe(["the game of games"] * 3, 270, root / "tokenizer")
  params = common.noisy_params(config)
  hf_export.save_base(root / "base", config, params, root / "tokenizer")
  tree = common.noisy_adapter(config, common.LORA)
  hf_export.save_adapter(root / "adapter", config, common.LORA, tree, "base")
  gguf_files.small(root / "x.gguf")
  return root


@pytest.fixture(scope="module", autouse=True)
def bounded_memory():
  """No damage makes a reader allocate what a number in a file says."""
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  yield
  after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  assert after - before < MOST


def damaged_json(base, name, read, *beside):
  """Fuzzes one JSON file of a directory: its values, then its bytes."""
  file = base / name
  whole = file.read_bytes()
  value = json.loads(whole)

  @budget
  @given(st.data(), st.booleans())
  def run(data, by_value):
    content = (
      fuzzing.mutate_json(value, data)
      if by_value
      else fuzzing.mutate(whole, data)
    )
    file.write_bytes(content)
    fuzzing.outcome(lambda: read(file.parent), file, *beside)

  try:
    run()
  finally:
    file.write_bytes(whole)


def test_config(base):
  damaged_json(base, "base/config.json", registry.read_config)


def test_adapter_config(base):
  arch = common.KINDS["llama3"]
  damaged_json(
    base,
    "adapter/adapter_config.json",
    lambda directory: peft_import.load_adapter(directory, arch),
    base / "adapter" / "adapter_model.safetensors",
  )


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_tokenizer(name, base):
  def read(directory):
    tokenizer = tokenization.load_tokenizer(directory)
    tokenizer.decode(tokenizer.encode("the game, 1986"))

  damaged_json(base, f"tokenizer/{name}", read, base / "tokenizer")


def test_index(base, tmp_path):
  shutil.copytree(base / "base", tmp_path / "base")
  (tmp_path / "base" / "model.safetensors").rename(tmp_path / "base" / "a.st")
  names = tensor_files.read_file(tmp_path / "base" / "a.st")
  index = {"metadata": {}, "weight_map": dict.fromkeys(names, "a.st")}
  file = tmp_path / "base" / "model.safetensors.index.json"
  file.write_text(json.dumps(index))

  @budget
  @given(st.data())
  def run(data):
    file.write_bytes(fuzzing.mutate_json(index, data))
    # The message may name the shard, or the folder, for what it lacks.
    fuzzing.outcome(
      lambda: tensor_files.open_checkpoint(tmp_path / "base"), tmp_path
    )

  run()


def test_safetensors(base, tmp_path):
  whole = (base / "adapter" / "adapter_model.safetensors").read_bytes()
  length = int.from_bytes(whole[:8], "little")
  header, body = json.loads(whole[8 : 8 + length]), whole[8 + length :]
  file = tmp_path / "x.safetensors"

  def read():
    for tensor in tensor_files.read_file(file).values():
      np.array(tensor.view())

  @budget
  @given(st.data(), st.booleans())
  def run(data, by_value):
    if by_value:
      text = fuzzing.mutate_json(header, data)
      file.write_bytes(len(text).to_bytes(8, "little") + text + body)
    else:
      file.write_bytes(fuzzing.mutate(whole, data))
    fuzzing.outcome(read, file)

  run()


def test_gguf(base, tmp_path):
  whole = (base / "x.gguf").read_bytes()
  head = whole.index(b"blk.0.attn_q") + 400  # Keys, values and some tensors.
  file = tmp_path / "y.gguf"

  def read():
    conversion.convert(file, tmp_path / "out", "float32")

  @budget
  @given(st.data(), st.integers(0, head - 8), st.booleans())
  def run(data, at, is_number):
    if is_number:
      number = data.draw(
        st.sampled_from([0, 1, 2**16, 2**31, 2**32 - 1, 2**60, 2**64 - 1])
      )
      content = whole[:at] + number.to_bytes(8, "little") + whole[at + 8 :]
    else:
      content = fuzzing.mutate(whole[:head], data) + whole[head:]
    file.write_bytes(content)
    fuzzing.outcome(read, file)

  run()
