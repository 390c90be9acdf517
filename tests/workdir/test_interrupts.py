"""Signals, in small programs without JAX: each is a process of its own."""

import pathlib
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BEGIN = """
import gc, hashlib, os, signal, sys, threading, time
from bigrec_jax.workdir import interrupts
interrupts.install()
print("ready", flush=True)
"""
# What the main thread may be at; none of them ends by itself.
BUSY = {
  "native": "hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)",
  "swallows": """
while True:
  try:
    time.sleep(60)
  except BaseException:
    pass
""",
  "collects": """
gc.callbacks.append(lambda *_: time.sleep(0.01))
while True:
  gc.collect()
""",
  "waits": "threading.Event().wait()",
  "computes": "while True: sum(range(1000))",
  "unwinds": """
try:
  threading.Event().wait()
finally:
  time.sleep(60)
""",
}
LOOP = """
interrupts._STEP_SECONDS = 0.5
try:
  with interrupts.Watch() as watch:
    for step in range(1, 1000):
      time.sleep(float(sys.argv[1]) if step > 2 else 0.01)
      stop = watch.asked(step)
      if step == 2:
        print("looping", flush=True)
      if stop:
        time.sleep(0.3)
        raise watch.interrupted("saved")
except interrupts.errors.Interrupted as error:
  interrupts.claim()
  print(error, file=sys.stderr)
  sys.exit(error.status)
"""


def start(program, *arguments, word="ready"):
  process = subprocess.Popen(
    [sys.executable, "-c", BEGIN + program, *map(str, arguments)],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  while process.stdout.readline().strip() != word:
    assert process.poll() is None
  return process


def end(process):
  """Returns (status, lines of stderr)."""
  _, errors = process.communicate(timeout=10)
  return process.returncode, errors.splitlines()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("kind", BUSY)
def test_a_signal_ends_in_one_line_whatever_is_going_on(kind, number):
  process = start(BUSY[kind])
  time.sleep(0.05)
  process.send_signal(number)
  status, lines = end(process)
  assert status == 128 + number
  (line,) = lines
  assert line.startswith(f"interrupted by {number.name}: ")
  assert "the same command goes on" in line


def test_a_watched_loop_saves_after_its_step():
  process = start(LOOP, 0.1, word="looping")
  process.send_signal(signal.SIGTERM)
  assert end(process) == (
    143,
    [
      "SIGTERM: finishing this step, then saving",
      "interrupted by SIGTERM: saved",
    ],
  )


def test_nothing_waits_for_the_first_step_or_a_second_signal():
  process = start(LOOP.replace("0.01", "60"))
  process.send_signal(signal.SIGINT)
  status, (line,) = end(process)
  assert status == 130 and "what was finished is kept" in line
  process = start(
    LOOP.replace("SECONDS = 0.5", "SECONDS = 60"), 60, word="looping"
  )
  process.send_signal(signal.SIGINT)
  time.sleep(0.8)
  process.send_signal(signal.SIGTERM)
  status, (_, line) = end(process)
  assert status == 130 and "what was finished is kept" in line


def test_a_step_that_takes_too_long_is_given_up():
  process = start(LOOP, 60, word="looping")
  process.send_signal(signal.SIGINT)
  status, (_, line) = end(process)
  assert status == 130 and "took too long" in line


def test_a_full_pipe_keeps_nobody():
  process = start("while True: print('x' * 4096)")
  time.sleep(0.2)  # Nobody reads; it hangs in the pipe.
  process.send_signal(signal.SIGTERM)
  assert process.wait(timeout=10) == 143
  process.communicate()


def test_a_forked_child_is_ended_alone():
  program = """
child = os.fork()
if not child:
  time.sleep(60)
os.kill(child, signal.SIGTERM)
_, status = os.waitpid(child, 0)
time.sleep(0.3)
sys.exit(os.WTERMSIG(status))
"""
  assert end(start(program)) == (signal.SIGTERM, [])


def test_a_library_installs_nothing():
  code = """
import signal
before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
import bigrec_jax
from bigrec_jax.workdir import interrupts, locks, processes
import main
assert before == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
assert signal.set_wakeup_fd(-1) == -1
with interrupts.Watch() as watch:
  assert not watch.asked(1)
assert before == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
"""
  subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
