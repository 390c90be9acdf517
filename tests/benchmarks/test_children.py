"""What a benchmark starts ends with it, however that ends."""

import pathlib
import signal
import subprocess
import sys
import time

import pytest

from benchmarks import children

ROOT = pathlib.Path(__file__).resolve().parents[2]
_PARENT = """
import sys, time
from benchmarks import children
child = children.start([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600 if sys.argv[1] == "waits" else 0)
raise RuntimeError("a benchmark that fails")
"""


def _is_there(pid: int) -> bool:
  try:
    state = pathlib.Path(f"/proc/{pid}/stat").read_text()
  except FileNotFoundError:
    return False
  # A zombie that nobody has waited for yet has ended, too.
  return state.rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.skipif(
  not sys.platform.startswith("linux"), reason="asks Linux to kill"
)
@pytest.mark.parametrize("way", ["waits", "fails"])
def test_children_end_with_their_parent(way):
  """Killed so that it can do nothing about it, or by a mistake of its own."""
  with subprocess.Popen(
    [sys.executable, "-c", _PARENT, way],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
    text=True,
  ) as parent:
    child = int(parent.stdout.readline())
    if way == "waits":
      assert _is_there(child)
      parent.send_signal(signal.SIGKILL)
    parent.wait(60)
  until = time.monotonic() + 30
  while _is_there(child):
    assert time.monotonic() < until
    time.sleep(0.01)


def test_a_child_is_the_command_itself(tmp_path):
  """Its number, its arguments and its status are those of the command."""
  code = "import os, sys; print(os.getpid(), *sys.argv[1:]); sys.exit(7)"
  child = children.start(
    [sys.executable, "-c", code, tmp_path, "a b"],
    stdout=subprocess.PIPE,
    text=True,
  )
  told, _ = child.communicate(timeout=60)
  assert told == f"{child.pid} {tmp_path} a b\n" and child.returncode == 7
  with pytest.raises(subprocess.CalledProcessError) as raised:
    children.run([sys.executable, "-c", code], check=True)
  assert raised.value.returncode == 7
