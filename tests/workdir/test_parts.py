"""Parts of a work: whatever a kill leaves, whole parts are all that is read."""

import time

import numpy as np
import pytest

from bigrec_jax import errors
from bigrec_jax.workdir import parts as parts_lib


def _arrays(n):
  return {
    "rows": np.arange(n, n + 3),
    "values": np.full((3, 2), n, np.float32),
    "none": np.zeros((0, 4), np.int8),
  }


def _write(path, count, work="a work"):
  """Leaves a file of parts, flushed one by one; returns its sizes."""
  sizes = [0]
  with parts_lib.Parts(path, work) as parts:
    for n in range(count):
      parts.add("k", {"n": n, "text": "Amélie\n"}, _arrays(n))
      parts.flush()
      sizes.append(path.stat().st_size)
  return sizes


def _found(path, work="a work"):
  found = list(parts_lib.Parts(path, work).read("k"))
  for n, part in enumerate(found):
    assert part.facts == {"n": n, "text": "Amélie\n"}
    assert part.arrays.keys() == _arrays(n).keys()
    for name, array in _arrays(n).items():
      assert part.arrays[name].dtype == array.dtype
      np.testing.assert_array_equal(part.arrays[name], array)
  return len(found)


def test_nothing_is_written_before_there_is_something(tmp_path):
  path = tmp_path / "parts" / "work"
  with parts_lib.Parts(path, "a work") as parts:
    assert list(parts.read("k")) == []
    parts.add("k", None)
  assert not path.parent.exists()  # It ended well, and a moment ago.
  parts.flush()
  assert len(list(parts_lib.Parts(path, "a work").read("k"))) == 1


def test_a_kill_at_any_byte_leaves_whole_parts(tmp_path):
  path = tmp_path / "work"
  sizes = _write(path, 4)
  whole = path.read_bytes()
  for cut in range(len(whole) + 1):
    path.write_bytes(whole[:cut])
    expected = sum(cut >= size for size in sizes[1:])
    assert _found(path) == expected
    # What wasn't whole is gone, and the same work goes on from there.
    if cut % 97 == 0:
      with parts_lib.Parts(path, "a work") as parts:
        for n in range(expected, 4):
          parts.add("k", {"n": n, "text": "Amélie\n"}, _arrays(n))
        parts.flush()
      assert path.read_bytes() == whole


@pytest.mark.parametrize("seed", range(40))
def test_a_flipped_byte_ends_what_is_believed(tmp_path, seed):
  path = tmp_path / "work"
  sizes = _write(path, 4)
  content = bytearray(path.read_bytes())
  place = int(np.random.default_rng(seed).integers(len(content)))
  content[place] ^= 1 << seed % 8
  path.write_bytes(content)
  assert _found(path) == sum(size <= place for size in sizes[1:])


def test_parts_of_another_work_are_dropped(tmp_path):
  path = tmp_path / "work"
  _write(path, 2)
  assert _found(path, "another work") == 0
  assert path.stat().st_size == 0
  path.write_bytes(b"not parts at all")
  assert _found(path) == 0


def test_an_error_loses_nothing_and_time_writes(tmp_path, monkeypatch):
  path = tmp_path / "work"
  with pytest.raises(KeyboardInterrupt):
    with parts_lib.Parts(path, "a work") as parts:
      parts.add("k", {"n": 0, "text": "Amélie\n"}, _arrays(0))
      raise KeyboardInterrupt
  assert _found(path) == 1
  with parts_lib.Parts(path, "a work") as parts:
    now = time.monotonic()
    monkeypatch.setattr(parts_lib.time, "monotonic", lambda: now + 11)
    parts.add("k", {"n": 1, "text": "Amélie\n"}, _arrays(1))
    assert _found(path) == 2


def test_a_write_that_was_cut_short_is_written_over(tmp_path, monkeypatch):
  path = tmp_path / "work"
  _write(path, 1)
  parts = parts_lib.Parts(path, "a work")
  parts.add("k", {"n": 1, "text": "Amélie\n"}, _arrays(1))
  with open(path, "ab") as file:
    file.write(b"the disk was full here")
  parts.flush()
  assert _found(path) == 2
  path.unlink()
  path.mkdir()
  parts.add("k", None)
  with pytest.raises(errors.UserError, match="work: Is a directory; what was"):
    parts.flush()


def test_once(tmp_path):
  path = tmp_path / "work"
  for made in ([0], []):
    calls = []

    def make(calls=calls):
      calls.append(0)
      return _arrays(5)

    with parts_lib.Parts(path, "a work") as parts:
      np.testing.assert_array_equal(parts.once("five", make)["rows"], [5, 6, 7])
      parts.flush()
    assert calls == made


def test_rows_and_vectors(tmp_path):
  path = tmp_path / "work"
  with parts_lib.Parts(path, "a work") as parts:
    rows = parts_lib.Rows(parts, "rows")
    rows.add(7, {"predict": ["a"], "scores": [-0.1]})
    rows.add(2, {"predict": ["b"], "scores": [float(np.float32(-0.7))]})
    vectors = parts_lib.Vectors(parts, "vectors", 5, 2)
    vectors.add(np.array([4, 1]), np.array([[1, 2], [3, 4]], np.float32))
    parts.flush()
  parts = parts_lib.Parts(path, "a work")
  assert parts_lib.Rows(parts, "rows").known == {
    7: {"predict": ["a"], "scores": [-0.1]},
    2: {"predict": ["b"], "scores": [float(np.float32(-0.7))]},
  }
  again = parts_lib.Vectors(parts, "vectors", 5, 2)
  np.testing.assert_array_equal(again.values, vectors.values)
  assert again.done.tolist() == [False, True, False, False, True]


def test_discard(tmp_path):
  folder = tmp_path / ".parts"
  parts_lib.discard(folder, "base", None)
  (folder / "base.1").mkdir(parents=True)
  for name in ("base.1/weights", "base.2", "embeddings.1"):
    (folder / name).touch()
  parts_lib.discard(folder, "base", "2")
  assert (folder / "base.1").exists() and not (folder / "base.2").exists()
  parts_lib.discard(folder, "base", None)
  parts_lib.discard(folder, "embeddings", "1")
  assert not folder.exists()
