"""Real commands: two writers, and one of two processes that is stopped."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
from safetensors import numpy as safetensors

from bigrec_jax.workdir import fingerprints
from tests import compiling
from tests.stages import command

DEMO = "--config=configs/demo.py:tiny"


class Command:
  """main.py as one or more processes that can be stopped."""

  def __init__(self, count, *flags):
    with socket.socket() as free:
      free.bind(("localhost", 0))
      address = f"localhost:{free.getsockname()[1]}"
    own = ["--distributed"] if count > 1 else []
    self.processes = [
      subprocess.Popen(
        [sys.executable, "main.py", *own, *map(str, flags)],
        cwd=command.ROOT,
        env={
          name: value
          for name, value in os.environ.items()
          if not name.lower().endswith("_proxy")
        }
        | {
          "JAX_PLATFORMS": "cpu",
          "XLA_FLAGS": compiling.xla_flags(devices=1),
          "JAX_COORDINATOR_ADDRESS": address,
          "JAX_NUM_PROCESSES": str(count),
          "JAX_PROCESS_ID": str(number),
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
      )
      for number in range(count)
    ]

  def __enter__(self):
    return self

  def __exit__(self, *_):
    for process in self.processes:
      process.kill()
      process.communicate()

  def ends(self, seconds):
    """Returns the (status, stderr) of all; they have that long."""
    deadline = time.monotonic() + seconds
    found = []
    for process in self.processes:
      _, err = process.communicate(timeout=deadline - time.monotonic())
      assert "Traceback" not in err and "Check failure" not in err, err[-3000:]
      found.append((process.returncode, err))
    return found


def until(condition, run, seconds=300):
  deadline = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < deadline
    for process in run.processes:
      assert process.poll() is None, process.stderr.read()
    time.sleep(0.02)


def steps(root):
  with contextlib.suppress(FileNotFoundError):
    return len((root / "metrics/train.jsonl").read_text().splitlines())
  return 0


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "apart"), [("prepare", 0.7), ("train", 0.0)])
def test_of_two_writers_one_is_told_of_the_other(
  tmp_path, evaluated_demo, mode, apart
):
  root = tmp_path / "run"
  flags = [f"--mode={mode}", DEMO, f"--workdir={root}"]
  own = {"prepare": ["data"], "train": ["adapter", "checkpoints"]}[mode]
  if mode == "train":
    shutil.copytree(evaluated_demo, root)
    for name in [*own, "records/adapter.json"]:
      path = root / name
      shutil.rmtree(path) if path.is_dir() else path.unlink()
  with Command(1, *flags) as first:
    time.sleep(apart)
    with Command(1, *flags) as second:
      found = first.ends(300) + second.ends(300)
  assert 0 in (status for status, _ in found)
  for status, err in found:
    if status:
      assert status == 2
      (line,) = [x for x in err.splitlines() if x.startswith("error: ")]
      assert f"--mode={mode}" in line and "one at a time" in line
  if mode == "prepare":
    name = "data/catalogue.jsonl"
    assert fingerprints.of_file(root / name) == fingerprints.of_file(
      evaluated_demo / name
    )
  again = command.run(*flags)
  assert "is current" in again.stdout


@pytest.mark.slow
def test_two_processes_stop_and_one_goes_on(tmp_path, evaluated_demo):
  """SIGTERM to one in training's loop, then SIGKILL to the other."""
  if reason := command.why_not_together():
    pytest.skip(reason)
  root = tmp_path / "run"
  shutil.copytree(evaluated_demo, root)
  options = ["--config.train.num_epochs=40", "--config.lora.rank=4"]
  options += ["--config.train.early_stopping_patience=0"]
  flags = ["--mode=train", f"--workdir={root}", *options]
  before = steps(root)
  with Command(2, *flags) as run:
    until(lambda: steps(root) not in (0, before), run)
    until(lambda: steps(root) > 3, run)
    run.processes[1].send_signal(signal.SIGTERM)
    found = run.ends(30)
  assert [status for status, _ in found] == [143, 143]
  (line,) = {
    x for _, err in found for x in err.splitlines() if "interrupted" in x
  }
  step = int(line.split(" at step ")[1].split(" of ")[0])
  assert "saved in" in line and steps(root) >= step
  with Command(2, *flags) as run:
    until(lambda: steps(root) > step + 3, run)
    run.processes[0].kill()
    run.processes[0].wait()
    started = time.monotonic()
    (_, _), (status, err) = run.ends(30)
  assert status == 2 and time.monotonic() - started < 10
  lines = [x for x in err.splitlines() if x.startswith("stopped: ")]
  assert len(lines) == 1 and "process 0 of 2 is gone" in lines[0]
  whole = tmp_path / "whole"
  shutil.copytree(evaluated_demo, whole)
  command.run(*flags, devices=4)
  command.run("--mode=train", f"--workdir={whole}", *options, devices=4)
  ours, theirs = (
    safetensors.load_file(one / "adapter/adapter_model.safetensors")
    for one in (root, whole)
  )
  for key in ours | theirs:
    assert abs(ours[key] - theirs[key]).max() < 1e-4
  assert not list(root.rglob("*.tmp"))
