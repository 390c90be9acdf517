"""Processes that look out for each other, without JAX: small programs."""

import contextlib
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Arguments: address, count, own number. It meets the others and waits for
# lines on stdin: `loop` steps until told to stop, `end` or `fail` leaves.
PROGRAM = """
import atexit, os, sys, threading, time
from bigrec_jax.workdir import interrupts, lookout
interrupts.install(one_of_several=True)
address, count, own = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
try:
  found = lookout.Lookout(address, count, own)
  interrupts.join(found)
  atexit.register(found.bye, 0)
  print("begun", flush=True)
  inner = found.meet()
except interrupts.errors.UserError as error:
  print(f"error: {error}", file=sys.stderr)
  found.bye(2)
  os._exit(2)
print("met", inner, flush=True)
for line in sys.stdin:
  if line == "fail\\n":
    found.bye(1)
    os._exit(1)
  if line == "end\\n":
    break
  if line == "loop\\n":
    with interrupts.Watch() as watch:
      for step in range(1, 10000):
        time.sleep(0.01 * (own + 1))
        if step == 2:
          print("looping", flush=True)
        if watch.asked(step):
          interrupts.claim()
          print(f"saved {step}", file=sys.stderr)
          found.bye(128 + watch.number)
          os._exit(128 + watch.number)
"""


def free_port():
  with socket.socket() as free:
    free.bind(("localhost", 0))
    return free.getsockname()[1]


class Run:
  """Some processes of one run; they are gone at the end."""

  def __init__(self, count, started=None, port=None):
    self.count, self.port = count, port or free_port()
    self.processes = [
      self.start(own) for own in range(count if started is None else started)
    ]

  def start(self, own, count=None):
    arguments = [f"localhost:{self.port}", count or self.count, own]
    return subprocess.Popen(
      [sys.executable, "-c", PROGRAM, *map(str, arguments)],
      cwd=ROOT,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  def __enter__(self):
    return self

  def __exit__(self, *_):
    for process in self.processes:
      process.kill()
      process.communicate()

  def expect(self, word):
    return [wait_for(process, word) for process in self.processes]

  def say(self, line):
    for process in self.processes:
      with contextlib.suppress(BrokenPipeError):
        process.stdin.write(f"{line}\n")
        process.stdin.flush()

  def ends(self, *but):
    """Returns (status, the only line on stderr) of all others."""
    found = []
    for process in self.processes:
      if process not in but:
        # Its stdin stays open: at its end it would leave by itself.
        status = process.wait(timeout=10)
        found.append((status, process.stderr.read()))
    return found


def wait_for(process, word):
  while not (line := process.stdout.readline()).startswith(word):
    assert line, process.stderr.read()
  return line.split()[-1]


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_dead_process_stops_the_others(victim):
  with Run(3) as run:
    run.expect("met")
    dead = run.processes[victim]
    dead.kill()
    started = time.monotonic()
    for status, lines in run.ends(dead):
      assert status == 2 and lines.count("\n") == 1
      assert lines.startswith(f"stopped: process {victim} of 3 is gone")
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_dies_before_all_have_met_stops_the_others(victim):
  """Also one that comes only then."""
  with Run(3, started=2) as run:
    run.expect("begun")
    time.sleep(0.5)
    dead = run.processes[victim]
    dead.kill()
    if victim:  # Whoever finds no first process waits for it.
      run.processes.append(run.start(2))
    for status, lines in run.ends(dead):
      assert status == 2 and lines.count("\n") == 1
      assert f"process {victim} of 3 is gone" in lines


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("to", [0, 2])
def test_a_signal_to_one_stops_all(to, number):
  with Run(3) as run:
    run.expect("met")
    run.processes[to].send_signal(number)
    for status, lines in run.ends():
      assert status == 128 + number and lines.count("\n") == 1
      assert lines.startswith(f"interrupted by {number.name}: ")


@pytest.mark.parametrize("to", [0, 1])
def test_all_loops_stop_after_the_same_step(to):
  with Run(3) as run:
    run.expect("met")
    run.say("loop")
    run.expect("looping")
    run.processes[to].send_signal(signal.SIGTERM)
    found = run.ends()
    assert {status for status, _ in found} == {143}
    (line,) = {lines.splitlines()[-1] for _, lines in found}
    assert line.startswith("saved ")


def test_a_signal_finds_one_without_a_loop_and_stops_all_at_once():
  with Run(2) as run:
    run.expect("met")
    first, _ = run.processes
    first.stdin.write("loop\n")
    first.stdin.flush()
    wait_for(first, "looping")
    first.send_signal(signal.SIGTERM)
    for status, lines in run.ends():
      assert status == 143
      assert "what was finished is kept" in lines.splitlines()[-1]


def test_who_leaves_on_purpose_ends_nobody_and_who_fails_all():
  with Run(3) as run:
    run.expect("met")
    *others, last = run.processes
    last.communicate("end\n", timeout=10)
    assert last.returncode == 0
    time.sleep(0.2)
    assert all(process.poll() is None for process in others)
    others[0].communicate("fail\n", timeout=10)
    status, lines = run.ends(last, others[0])[0]
    assert status == 2 and "process 0 of 3 stopped with status 1" in lines


def test_a_number_that_is_taken_a_wrong_count_and_a_taken_port(tmp_path):
  with Run(3, started=2) as run:
    run.expect("begun")
    time.sleep(0.3)
    for own, count, words in (
      (1, 3, "process 1 of 3 is there already"),
      (2, 4, "process 2 is of 4, process 0 of 3"),
      (0, 3, "does another run use it"),
    ):
      process = run.start(own, count)
      _, lines = process.communicate(timeout=10)
      assert process.returncode != 0 and words in lines


def test_the_first_process_passes_other_connections_on_to_jax():
  """And its end is kept from what listens in the other process."""
  with Run(2) as run:
    inner, relay = (int(x.rsplit(":")[-1]) for x in run.expect("met"))
    with socket.create_server(("127.0.0.1", inner)) as server:
      with socket.create_connection(("127.0.0.1", relay)) as client:
        text = b"PRI * HTTP/2.0\r\n" + bytes(range(256)) * 5000
        client.sendall(text)
        other, _ = server.accept()
        with other:
          received = b""
          while len(received) < len(text):
            received += other.recv(1 << 16)
          assert received == text
          other.sendall(text[::-1])
          answered = b""
          while len(answered) < len(text):
            answered += client.recv(1 << 16)
          assert answered == text[::-1]
        client.settimeout(0.5)
        with pytest.raises(TimeoutError):
          client.recv(1)
