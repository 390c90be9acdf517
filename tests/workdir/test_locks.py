"""One writer a workdir: who is second, who died, and file systems without."""

import errno
import fcntl
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from bigrec_jax import errors
from bigrec_jax.workdir import leftovers, locks, storage

ROOT = pathlib.Path(__file__).resolve().parents[2]
HOLD = """
import pathlib, sys, time
from bigrec_jax.workdir import locks
with locks.writer(pathlib.Path(sys.argv[1]), "train"):
  print("held", flush=True)
  sys.stdin.read()
"""


def holder(root):
  process = subprocess.Popen(
    [sys.executable, "-c", HOLD, str(root)],
    cwd=ROOT,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )
  assert process.stdout.readline() == "held\n"
  return process


def no_flock(monkeypatch):
  def refuse(*_):
    raise OSError(errno.ENOSYS, "no flock")

  monkeypatch.setattr(fcntl, "flock", refuse)


def test_the_second_writer_is_told_who_is_the_first(tmp_path):
  with holder(tmp_path) as first:
    with pytest.raises(errors.UserError) as error:
      with locks.writer(tmp_path, "prepare"):
        raise AssertionError
    line = str(error.value)
    assert "\n" not in line and str(tmp_path) in line
    owner = storage.read_json(tmp_path / ".lock.json")
    assert owner["mode"] == "train" and owner["process"] == first.pid
    for value in owner.values():
      assert str(value) in line
    first.communicate("")
  with locks.writer(tmp_path, "prepare"):
    assert storage.read_json(tmp_path / ".lock.json")["mode"] == "prepare"
  assert not (tmp_path / ".lock.json").exists()


@pytest.mark.parametrize("soft", [False, True])
def test_a_dead_owners_lock_is_taken_over(tmp_path, monkeypatch, soft):
  if soft:
    # What a process that was killed leaves where there is no flock.
    no_flock(monkeypatch)
    code = HOLD.replace(
      "import pathlib", "import fcntl, errno, pathlib", 1
    ).replace(
      "with locks",
      "def refuse(*_): raise OSError(errno.ENOSYS, '')\n"
      "fcntl.flock = refuse\nwith locks",
      1,
    )
    monkeypatch.setattr(sys.modules[__name__], "HOLD", code)
  with holder(tmp_path) as first:
    with pytest.raises(errors.UserError, match=f"process {first.pid} on"):
      with locks.writer(tmp_path, "prepare"):
        raise AssertionError
    first.send_signal(signal.SIGKILL)
    first.wait()
  assert (tmp_path / ".lock.json").exists()
  with locks.writer(tmp_path, "prepare"):
    pass


def test_a_folder_made_for_the_lock_alone_goes_with_it(tmp_path):
  root = tmp_path / "a" / "b"
  with pytest.raises(ZeroDivisionError):
    with locks.writer(root, "prepare"):
      raise ZeroDivisionError
  assert list(tmp_path.iterdir()) == []
  with locks.writer(root, "prepare"):
    (root / "file").write_text("x")
  assert (root / "file").exists()


def test_outputs_of_readers_are_locked_one_by_one(tmp_path):
  with locks.writer(tmp_path, "train"):
    with locks.output(tmp_path / "one.jsonl", "recommend"):
      with locks.output(tmp_path / "two.jsonl", "recommend"):
        pass
      with pytest.raises(errors.UserError, match="one.jsonl.*--mode=recommend"):
        with locks.output(tmp_path / "one.jsonl", "recommend"):
          raise AssertionError


def test_what_only_saves_time_is_left_to_the_first(tmp_path):
  with locks.first_come(tmp_path / "base") as first:
    with locks.first_come(tmp_path / "base") as second:
      assert first and not second
  with locks.turn(tmp_path / "base"):
    pass


def test_leftovers_of_the_dead_are_removed_and_of_the_living_kept(tmp_path):
  dead = subprocess.Popen([sys.executable, "-c", ""])
  dead.wait()
  own = leftovers.unique(tmp_path / "data" / "x.json")
  assert own != leftovers.unique(tmp_path / "data" / "x.json")
  own.parent.mkdir()
  kept = [own, own.with_name(".x.json.ffffff-1-00000000.tmp")]
  kept += [own.with_name(".hidden"), own.with_name(f"x.{dead.pid}.tmp")]
  gone = [own.with_name(own.name.replace(f"{os.getpid()}", f"{dead.pid}"))]
  gone += [own.with_name(f".x.json.{dead.pid}.tmp")]
  for path in [*kept, *gone]:
    path.write_text("x")
  folder = tmp_path / f".adapter.{dead.pid}.tmp"
  (folder / "sub").mkdir(parents=True)
  with locks.writer(tmp_path, "train"):
    assert all(path.exists() for path in kept)
    assert not any(path.exists() for path in [*gone, folder])
