"""A base in a GGUF file: converted once, whole or not at all."""

import dataclasses
import os

import numpy as np
import pytest

from bigrec_jax import config as config_lib, errors
from bigrec_jax.models import tensor_files
from bigrec_jax.models.gguf import conversion
from bigrec_jax.planning import arguments
from bigrec_jax.recommend import finished, loaded
from bigrec_jax.results import run_data, run_sections
from bigrec_jax.stages import pretrain
from bigrec_jax.workdir import origins
from configs import demo
from tests.models import gguf_files

DEMO = config_lib.from_config_dict(demo.get_config("tiny"))


@pytest.fixture
def file(tmp_path):
  general = {"general.name": "Tiny", "general.license": "mit"}
  return gguf_files.small(tmp_path / "tiny.gguf", general=general.items())


@pytest.fixture
def conversions(monkeypatch):
  """Counts how often a file is converted."""
  made = []
  convert = conversion.convert

  def counted(path, directory, dtype):
    made.append(dtype)
    convert(path, directory, dtype)

  monkeypatch.setattr(conversion, "convert", counted)
  return made


class Keeping(loaded.Loaded):
  """What a workdir holds, for somebody who may write to it."""

  keeps_conversions = True


def load(file, kind=Keeping, **changes):
  model = dataclasses.replace(DEMO.model, path=str(file), **changes)
  config = dataclasses.replace(DEMO, model=model)
  return kind(config, file.parent / "workdir")


def test_who_only_reads_converts_nothing(file, conversions):
  reader = load(file, loaded.Loaded)
  with pytest.raises(errors.UserError, match="no base found; --mode=embed"):
    finished.check_base(reader)
  assert not reader.paths.root.exists() and not conversions
  directory = load(file).base_dir
  finished.check_base(load(file, loaded.Loaded))
  assert load(file, loaded.Loaded).base_dir == directory
  assert conversions == ["float32"]


def test_it_is_converted_once_and_read_as_any_base(file, conversions):
  first = load(file)
  directory = first.base_dir
  assert directory.parent == first.paths.converted_base / "gguf"
  assert load(file).base_dir == directory
  fingerprint = load(file).base_fingerprint
  assert conversions == ["float32"]
  embedding = first.base.params["embed_tokens"]["embedding"]
  expected = gguf_files.tensors()["model.embed_tokens.weight"]
  np.testing.assert_array_equal(np.asarray(embedding), expected)
  assert first.tokenizer.encode("AB") == [0, 63]
  origin = load(file).base_origin
  assert origin["quantisation"] == {"F32": 11}
  assert origins.describe(origin) == (
    "tiny.gguf: Tiny (licence: mit), tensors 11 F32, dequantised to float32"
  )
  # The same content, touched: made again, and the same base to all others.
  os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
  assert load(file).base_fingerprint == fingerprint
  assert conversions == ["float32"] * 2
  assert not directory.exists()  # One file is kept.
  other = load(file, dtype="bfloat16")
  assert other.base_fingerprint != fingerprint
  assert conversions == ["float32"] * 2 + ["bfloat16"]


def test_a_quantised_base_is_kept_beside_it(file, conversions):
  for _ in range(2):
    one = load(file, quantization="int8")
    assert one.base.params["layers_0"]
  kept = {path.name for path in one.paths.converted_base.glob("[!.]*")}
  assert "gguf" in kept and len(kept) == 2
  assert one.base_dir.is_dir() and conversions == ["float32"]


def test_half_a_conversion_leaves_nothing(file, conversions, monkeypatch):
  def full_disk(path, header, value):
    path.write_bytes(b"half")
    raise OSError("no space left")

  with monkeypatch.context() as patch:
    patch.setattr(tensor_files, "write_file", full_disk)
    with pytest.raises(OSError, match="no space"):
      load(file).base_dir  # noqa: B018
  store = load(file).paths.converted_gguf
  assert list(store.iterdir()) == []
  # What a killed process left behind goes with the next conversion.
  (store / ".left.123.tmp").mkdir()
  directory = load(file).base_dir
  assert list(store.iterdir()) == [directory]


def test_a_base_that_is_no_gguf_has_no_origin(file):
  directory = load(file).base_dir
  (directory / "origin.json").unlink()
  assert load(directory).base_origin is None
  with pytest.raises(errors.UserError, match="config.model.path: .*not found"):
    load(file.with_name("none.GGUF")).base_dir  # noqa: B018


def test_a_plan_reads_the_shape_without_converting(file, conversions):
  arch = arguments.read_arch(load(file).config)
  assert conversions == []
  assert arch == load(file).base.model.config


def test_chat_prompts_need_an_instruct_model(file):
  prompt = dataclasses.replace(DEMO.prompt, style="chat")
  without = dataclasses.replace(DEMO, prompt=prompt)
  with pytest.raises(
    errors.UserError, match="model.path is empty, an instruct"
  ):
    loaded.Loaded(without, file.parent / "w").prompt  # noqa: B018


def test_conversion_and_report_say_what_the_base_is(file, capsys):
  line = (
    "tiny.gguf: Tiny (licence: mit), tensors 11 F32, dequantised to float32"
  )
  one = load(file)
  pretrain.run(one.config, one.paths.root)
  assert f"base: {line}, in {one.base_dir}\n" in capsys.readouterr().out
  data = run_data.load(one.paths.root)
  html = str(run_sections.settings(data, one.config.to_dict()))
  assert f"The base is a dequantised copy of {line}." in html
  # Another base in the same workdir is not called a copy.
  html = str(run_sections.settings(data, DEMO.to_dict()))
  assert "dequantised" not in html
