"""The HTTP side beside a made-up engine: what is told, what has one thread.

What takes long has one thread: the others are for who asks for lists.
"""

import logging
import threading
import time
import types
from concurrent import futures

import pytest
from starlette import testclient

from bigrec_jax import config as config_lib
from bigrec_jax.serving import app as app_lib
from configs import common


class _Slow:
  """Does one thing slowly, and counts how many are at it."""

  def __init__(self):
    self.now = self.most = self.done = 0
    self._lock = threading.Lock()
    self.began, self.goes_on = threading.Event(), threading.Event()
    self.goes_on.set()

  def __call__(self, *_):
    with self._lock:
      self.now += 1
      self.most = max(self.most, self.now)
    self.began.set()
    time.sleep(0.01)
    assert self.goes_on.wait(30)
    with self._lock:
      self.now -= 1
      self.done += 1
    return {}


class _Asked:
  """A request that is answered at once."""

  def __init__(self):
    self.deadline = time.monotonic() + 60
    self.answer = futures.Future()
    self.answer.set_result([])


@pytest.fixture
def slow():
  return _Slow()


@pytest.fixture
def client(slow):
  config = config_lib.from_config_dict(common.get_config())
  ready = threading.Event()
  ready.set()

  def submit(ask):
    if ask.unknown == "nearest":
      slow()
    return _Asked()

  provenance = app_lib.recommendations.Provenance(
    "none", None, None, "base", None, "adapter", "catalogue"
  )
  engine = types.SimpleNamespace(
    config=config.serve,
    recommender=types.SimpleNamespace(config=config, provenance=provenance),
    ready=ready,
    compiled_since_ready=0,
    waiting=(),
    busy=0,
    slots=1,
    submit=submit,
  )
  keeper = types.SimpleNamespace(
    state=lambda: {"version": 0, "items": 1, "room": 1},
    add=slow,
    withdraw=slow,
    reload=slow,
    roll_back=slow,
  )
  app = app_lib.App(engine, keeper, "")
  with testclient.TestClient(app.asgi) as found:  # All in one loop.
    yield found


def _at_once(client, asked):
  with futures.ThreadPoolExecutor(len(asked)) as pool:
    return list(
      pool.map(lambda a: client.post(a[0], json=a[1]).status_code, asked)
    )


def test_requests_are_logged_and_counted_but_not_probes(client, caplog):
  """As docs/serve.md says."""
  quiet = ["/health/live", "/health/ready", "/metrics", "/openapi.json"]
  quiet.append("/docs")
  loud = {"/v1/catalogue": 200, "/v1/nothing": 404, "/docs/more": 404}
  with caplog.at_level(logging.DEBUG, "bigrec_jax.serve"):
    for path in quiet:
      answer = client.get(path)
      assert answer.status_code == 200 and "x-request-id" not in answer.headers
    for path in loud:
      assert client.get(path).headers["x-request-id"]
  lines = [record.more for record in caplog.records if hasattr(record, "more")]
  assert [own["status"] for own in lines] == list(loud.values())
  assert [own["path"] for own in lines] == ["/v1/catalogue", "other", "other"]
  for own, path in zip(lines, loud, strict=True):
    assert path in own.get("problem", path)
  counted = [
    line
    for line in client.get("/metrics").text.splitlines()
    if line.startswith("bigrec_requests_total{")
  ]
  assert sorted(counted) == [
    'bigrec_requests_total{path="/v1/catalogue",status="200"} 1.0',
    'bigrec_requests_total{path="other",status="404"} 2.0',
  ]


def test_changes_wait_for_each_other_without_a_thread(client, slow):
  add = "/v1/catalogue", {"items": [{"external_id": "a", "title": "A"}]}
  gone = "/v1/catalogue/withdraw", {"external_ids": ["a"]}
  asked = [add, gone, ("/v1/catalogue/reload", {})] * 3
  assert _at_once(client, asked) == [200] * 9
  assert (slow.most, slow.done) == (1, 9)


def test_so_do_searches_for_titles_until_their_deadline(client, slow):
  ask = {"histories": [["Helo"]], "unknown": "nearest"}
  slow.goes_on.clear()
  with futures.ThreadPoolExecutor(1) as pool:
    first = pool.submit(client.post, "/v1/recommend", json=ask)
    assert slow.began.wait(30)
    late = client.post("/v1/recommend", json={**ask, "deadline_ms": 20})
    other = client.post("/v1/recommend", json={"histories": []})
    slow.goes_on.set()
  assert late.status_code == 504
  assert other.status_code == first.result().status_code == 200
  assert (slow.most, slow.done) == (1, 1)
