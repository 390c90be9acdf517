"""A server as a process: what it prints, and how it ends."""

import dataclasses
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from bigrec_jax import config as config_lib, errors
from bigrec_jax.serving import server
from configs import common
from tests import compiling

ROOT = pathlib.Path(__file__).resolve().parents[2]
SERVE = config_lib.from_config_dict(common.get_config()).serve


@pytest.mark.slow
def test_a_signal_drains(evaluated_demo, tmp_path):
  """Who is there is answered, in full, and the process ends with 0."""
  root = tmp_path / "demo"
  shutil.copytree(evaluated_demo, root)
  environment = os.environ | {"XLA_FLAGS": compiling.xla_flags(devices=1)}
  flags = {"mesh.data": 1, "mesh.fsdp": 1, "serve.port": 0}
  flags |= {"serve.max_batch": 2, "serve.prompt_buckets": "(256,)"}
  flags |= {"serve.max_k": 10, "serve.max_history": 10, "serve.queue": 64}
  process = subprocess.Popen(
    [sys.executable, "main.py", "--mode=serve", f"--workdir={root}"]
    + [f"--config.{key}={value}" for key, value in flags.items()],
    cwd=ROOT,
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  told: list[str] = []
  reader = threading.Thread(target=lambda: told.extend(process.stderr))
  reader.start()
  try:
    port = None
    for line in process.stdout:
      if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
        port = int(found[1])
        break
    assert port, told[-5:]
    _wait_until_ready(port, process)
    answers: list[tuple[int, dict]] = []
    threads = [
      threading.Thread(target=lambda: answers.append(_ask(port)))
      for _ in range(6)
    ]
    for thread in threads:
      thread.start()
    until = time.monotonic() + 20
    while _busy(port) == 0 and not answers:
      assert time.monotonic() < until
    process.send_signal(signal.SIGTERM)
    for thread in threads:
      thread.join(60)
    assert process.wait(60) == 0, told[-5:]
  finally:
    process.kill()
    reader.join()
  # Whoever had been taken in was answered; nobody came to half an answer.
  assert len(answers) == 6
  done = [content for status, content in answers if status == 200]
  assert done and all(len(c["recommendations"][0]) == 10 for c in done)
  assert all(status in (200, 503, -1) for status, _ in answers)
  lines = [json.loads(line) for line in told if line.startswith("{")]
  asked = [line for line in lines if line.get("path") == "/v1/recommend"]
  assert sum(line["status"] == 200 for line in asked) == len(done)
  assert lines[-1]["message"].endswith("all requests were answered")
  assert not (root / "serve.json").exists()


def _wait_until_ready(port, process):
  until = time.monotonic() + 300
  while time.monotonic() < until:
    assert process.poll() is None
    try:
      if _get(port, "/health/ready")[0] == 200:
        return
    except OSError:
      pass
    time.sleep(0.2)
  pytest.fail("never ready")


def _get(port, path):
  connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
  connection.request("GET", path)
  answer = connection.getresponse()
  found = answer.status, answer.read().decode()
  connection.close()
  return found


def _busy(port):
  _, text = _get(port, "/metrics")
  return float(re.search(r"^bigrec_slots_busy (\S+)", text, re.MULTILINE)[1])


def _ask(port):
  """Returns (status, answer); -1 where nobody took the request."""
  connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
  try:
    connection.request("POST", "/v1/recommend", json.dumps({"histories": [[]]}))
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())
  except (ConnectionError, http.client.HTTPException):
    return -1, {}
  finally:
    connection.close()


def test_a_port_that_is_taken_is_one_line():
  with server.listen(dataclasses.replace(SERVE, port=0)) as sock:
    taken = dataclasses.replace(SERVE, port=sock.getsockname()[1])
    with pytest.raises(errors.UserError, match="a free port expected"):
      server.listen(taken)
  with pytest.raises(errors.UserError, match="an address of this machine"):
    server.listen(dataclasses.replace(SERVE, host="no.such.host.invalid"))


def test_a_connection_sends_at_once():
  """No answer's body waits for its head to be acknowledged."""
  with server.listen(dataclasses.replace(SERVE, port=0)) as sock:
    with socket.create_connection(sock.getsockname()):
      accepted, _ = sock.accept()
      with accepted:
        at_once = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
  assert at_once


def test_a_token_is_one_line_of_a_file(tmp_path):
  path = tmp_path / "token"
  own = dataclasses.replace(SERVE, token_file=str(path))
  assert server.token(SERVE) == ""
  with pytest.raises(errors.UserError, match="No such file"):
    server.token(own)
  for wrong in ("", " \n", "two\nlines"):
    path.write_text(wrong)
    with pytest.raises(errors.UserError, match="one line with a token"):
      server.token(own)
  path.write_text(" secret \n")
  assert server.token(own) == "secret"


@pytest.mark.parametrize(
  ("host", "is_open"),
  [
    ("127.0.0.1", False),
    ("::1", False),
    ("localhost", False),
    ("0.0.0.0", True),
    ("::", True),
    ("10.1.2.3", True),
    ("example.org", True),
  ],
)
def test_who_may_come(host, is_open):
  assert server.is_open(host) == is_open
