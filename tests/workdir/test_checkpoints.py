import pathlib

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from bigrec_jax import config, errors
from bigrec_jax.devices import sharding
from bigrec_jax.workdir import checkpoints

MESHES = [(8, 1, 1), (2, 2, 2), (1, 8, 1)]


def _state(mesh_sizes, value=0.0):
  mesh = sharding.make_mesh(config.MeshConfig(*mesh_sizes))
  rng = np.random.default_rng(3)
  values = {
    "a": rng.normal(size=(16, 300)).astype(np.float32) + np.float32(value),
    "step": np.int32(7),
  }
  specs = {"a": PartitionSpec("fsdp", "tensor"), "step": PartitionSpec()}
  placed = {
    k: jax.device_put(v, NamedSharding(mesh, specs[k]))
    for k, v in values.items()
  }
  return values, placed


def _fill(directory, keep=2, steps=(1, 2, 3)):
  with checkpoints.Checkpoints(directory, keep) as store:
    for step in steps:
      _, placed = _state((2, 2, 2), value=step)
      store.save(step, placed, {"at": step}, {"best": 0.5, "epoch": step})


def _biggest_file(folder: pathlib.Path) -> pathlib.Path:
  files = [p for p in folder.rglob("*") if p.is_file()]
  return max(files, key=lambda p: p.stat().st_size)


def test_round_trip_onto_every_mesh(tmp_path):
  _fill(tmp_path)
  for sizes in MESHES:
    values, like = _state(sizes, value=3)
    with checkpoints.Checkpoints(tmp_path, 2) as store:
      assert store.steps() == [2, 3]
      restored = store.restore_latest(like)
    assert restored.step == 3
    assert restored.data == {"at": 3}
    assert restored.config == {"best": 0.5, "epoch": 3}
    np.testing.assert_array_equal(restored.state["a"], values["a"])
    assert restored.state["a"].sharding == like["a"].sharding
    assert restored.state["step"] == 7


def test_an_empty_folder_holds_none(tmp_path):
  with checkpoints.Checkpoints(tmp_path / "new", 2) as store:
    assert store.restore_latest(_state((8, 1, 1))[1]) is None


def _truncate(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 0x55
  path.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", [_truncate, _flip, pathlib.Path.unlink])
def test_a_damaged_latest_falls_back_aloud(tmp_path, caplog, damage):
  _fill(tmp_path)
  damage(_biggest_file(tmp_path / "3" / "state"))
  _, like = _state((1, 8, 1))
  with checkpoints.Checkpoints(tmp_path, 2) as store:
    assert store.restore_latest(like).step == 2
    # Step 3 is free again.
    store.save(3, like, {}, {})
  assert "3 can't be read" in caplog.text
  with checkpoints.Checkpoints(tmp_path, 2) as store:
    assert store.restore_latest(like).step == 3


def test_all_damaged_is_said_and_nothing_is_thrown_away(tmp_path, caplog):
  own = tmp_path / "run"
  _fill(own)
  for step in ("2", "3"):
    _truncate(own / step / "config" / "metadata")
  _, like = _state((8, 1, 1))
  with pytest.raises(errors.UserError, match="none of the checkpoints"):
    checkpoints.read_latest(own, like)
  with checkpoints.Checkpoints(own, 2) as store:
    assert store.restore_latest(like) is None and store.steps() == []
    store.save(1, like, {}, {"epoch": 1})
  assert "none of the checkpoints [2, 3] can be read: they are kept in" in (
    caplog.text
  )
  kept = tmp_path / "run.unreadable"
  assert sorted(path.name for path in kept.iterdir()) == ["2", "3"]
  with checkpoints.Checkpoints(own, 2) as store:
    assert store.restore_latest(like).config == {"epoch": 1}


def test_a_kill_before_the_seal_loses_nothing(tmp_path):
  _fill(tmp_path)
  (tmp_path / "3" / "digests.json").unlink()
  with checkpoints.Checkpoints(tmp_path, 2) as store:
    assert store.restore_latest(_state((8, 1, 1))[1]).step == 3


def test_the_same_step_can_be_saved_again(tmp_path):
  _fill(tmp_path, steps=(1,))
  _, placed = _state((2, 2, 2))
  with checkpoints.Checkpoints(tmp_path, 2) as store:
    store.save(1, placed, {"at": 1}, {"epoch": 99})
    assert store.restore_latest(placed).config == {"epoch": 99}


def test_reading_writes_nothing(tmp_path):
  _fill(tmp_path, steps=(1, 2))
  _, like = _state((2, 2, 2))
  file = _biggest_file(tmp_path / "2")
  file.write_bytes(file.read_bytes()[:-1])

  def state():
    return {p: p.stat().st_mtime_ns for p in sorted(tmp_path.rglob("*"))}

  before = state()
  # The damaged one is passed over, and left where it is.
  assert checkpoints.read_latest(tmp_path, like).step == 1
  assert {
    p: p.stat().st_mtime_ns for p in sorted(tmp_path.rglob("*"))
  } == before
  assert checkpoints.read_latest(tmp_path / "none", like) is None
  assert not (tmp_path / "none").exists()
