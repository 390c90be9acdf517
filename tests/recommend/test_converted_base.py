import dataclasses
import os

import jax
import numpy as np
import pytest

from bigrec_jax import config as config_lib
from bigrec_jax.devices import sharding
from bigrec_jax.models import hf_export, hf_import, registry
from bigrec_jax.recommend import converted_base
from configs import demo

CONFIG = config_lib.from_config_dict(demo.get_config("tiny"))


def _mesh(fsdp):
  return sharding.make_mesh(config_lib.MeshConfig(data=-1, fsdp=fsdp, tensor=1))


@pytest.fixture
def base(tmp_path):
  arch = registry.from_arch(CONFIG.model.arch, 64)
  params = hf_import.init_base(arch, 0, "float32", _mesh(1))
  hf_export.save_base(tmp_path / "hf", arch, params, None)
  return tmp_path / "hf"


@pytest.fixture
def conversions(monkeypatch):
  """Counts how often a Hugging Face directory is converted."""
  made = []
  load = hf_import.load_base

  def counted(directory, model, mesh):
    made.append(model.quantization)
    return load(directory, model, mesh)

  monkeypatch.setattr(hf_import, "load_base", counted)
  return made


def _load(base, kind, mesh=None, fingerprint="f", keep=True):
  model = dataclasses.replace(CONFIG.model, quantization=kind)
  store = base.parent / "store"
  return converted_base.load(
    base, model, mesh or _mesh(1), store, fingerprint, keep=keep
  )


def _assert_same(found, expected):
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  for one, other in zip(
    jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
  ):
    assert one.dtype == other.dtype
    np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_a_quantised_base_is_converted_once(base, conversions, kind):
  arch, expected = _load(base, kind)
  again, found = _load(base, kind)
  assert conversions == [kind] and again == arch
  _assert_same(found, expected)


def test_it_is_restored_sharded_on_another_mesh(base, conversions):
  _, expected = _load(base, "int8")
  mesh = _mesh(2)
  _, found = _load(base, "int8", mesh)
  assert conversions == ["int8"]
  _assert_same(found, expected)
  arch = registry.read_config(base)
  wanted = hf_import.abstract_base(arch, "float32", mesh, True, "int8")
  for leaf, abstract in zip(
    jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True
  ):
    assert leaf.sharding == abstract.sharding


def test_other_weights_or_settings_are_converted_and_replace_it(
  base, conversions
):
  _load(base, "int8")
  _load(base, "int8", fingerprint="g")
  weights = base / "model.safetensors"
  os.utime(weights, ns=(0, weights.stat().st_mtime_ns + 1))
  _load(base, "int8", fingerprint="g")
  assert conversions == ["int8"] * 3
  assert len(list((base.parent / "store").iterdir())) == 1


def test_a_damaged_one_is_converted_again(base, conversions):
  _, expected = _load(base, "int8")
  files = [f for f in (base.parent / "store").rglob("*") if f.is_file()]
  for file in files:
    if "/d/" in file.as_posix():
      file.write_bytes(file.read_bytes()[:10])
  _, found = _load(base, "int8")
  assert conversions == ["int8"] * 2
  _assert_same(found, expected)
  _load(base, "int8")
  assert conversions == ["int8"] * 2


def test_who_only_reads_writes_nothing(base, conversions):
  _, expected = _load(base, "int8", keep=False)
  assert not (base.parent / "store").exists()
  _load(base, "int8")
  (kept,) = (base.parent / "store").iterdir()
  before = {f: f.stat().st_mtime_ns for f in (base.parent / "store").rglob("*")}
  _, found = _load(base, "int8", keep=False)
  assert conversions == ["int8"] * 2  # The third was restored.
  _assert_same(found, expected)
  for file in [f for f in kept.rglob("*") if "/d/" in f.as_posix()]:
    if file.is_file():
      file.write_bytes(file.read_bytes()[:10])
      before[file] = file.stat().st_mtime_ns
  _load(base, "int8", keep=False)
  after = {f: f.stat().st_mtime_ns for f in (base.parent / "store").rglob("*")}
  assert conversions == ["int8"] * 3 and after == before


def test_an_unquantised_base_is_not_kept_twice(base, conversions):
  _load(base, "none")
  assert conversions == ["none"]
  assert not (base.parent / "store").exists()
