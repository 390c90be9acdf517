"""A server in this process: its answers, refusals, and changes it lives with.

One engine for all: in the order of the file, each test leaves it as it was.
"""

import json
import logging
import shutil
import threading
import time
from concurrent import futures

import pytest
from starlette import testclient

from bigrec_jax.data.prepared import editions
from bigrec_jax.recommend import recommender as recommender_lib
from bigrec_jax.serving import requests as requests_lib
from tests.serving import world as world_lib

pytestmark = pytest.mark.slow
KEY = {"authorization": f"Bearer {world_lib.TOKEN}"}


@pytest.fixture(scope="module")
def world(evaluated_demo, tmp_path_factory):
  root = tmp_path_factory.mktemp("served") / "demo"
  shutil.copytree(evaluated_demo, root)
  found = world_lib.World(root)
  client = testclient.TestClient(found.app.asgi)
  # Nothing is answered before all is compiled.
  early = client.post("/v1/recommend", json={"histories": []}, headers=KEY)
  assert early.status_code == 503 and early.headers["retry-after"]
  assert client.get("/health/live").status_code == 200
  assert client.get("/health/ready").status_code == 503
  found.wait()
  yield found
  found.close()


@pytest.fixture(scope="module")
def client(world):
  return testclient.TestClient(world.app.asgi, headers=KEY)


@pytest.fixture(scope="module")
def plain(world):
  return world.load(recommender_lib.Recommender)


def histories(world, count):
  catalogue = world.served.prepared
  return [
    [
      (catalogue.external_ids if m % 2 else catalogue.titles)[(7 * n + m) % 99]
      for m in range(n % 6)
    ]
    for n in range(count)
  ]


def gauges(client):
  lines = client.get("/metrics").text.splitlines()
  return {
    line.split()[0]: float(line.split()[1])
    for line in lines
    if not line.startswith("#")
  }


def assert_same(found, details, expected):
  ids = [item["external_id"] for item in found]
  assert ids == [item.external_id for item in expected]
  for item, own in zip(found, expected, strict=True):
    assert item["title"] == own.title
    assert item["score"] == pytest.approx(own.score, abs=1e-5)
    assert item["distance"] == pytest.approx(own.distance, abs=1e-5)
    assert item["popularity"] == own.popularity
  assert details["written"] == list(expected.written)
  assert details["written_scores"] == pytest.approx(
    expected.written_scores, abs=1e-4
  )


def test_answers_are_the_recommenders(world, client, plain):
  """Those of many at once, with options of all kinds, and none compiles."""
  ids = world.served.prepared.external_ids
  asked = [{"histories": [own]} for own in histories(world, 8)]
  asked += [
    {"histories": histories(world, 6), "k": 3},
    {"histories": [[ids[4]]], "exclude_history": False, "k": 3},
    {"histories": [[ids[4]], [ids[5]]], "allow": list(ids[:30])},
    {"histories": [[]], "deny": list(ids[:100]), "k": 3},
    {"histories": [["Nobody Knows"]], "unknown": "text"},
    {"histories": [["Nobody Knows", ids[9]]], "unknown": "skip"},
    {"histories": []},
  ]
  before = gauges(client)["bigrec_compilations_since_ready"]
  with futures.ThreadPoolExecutor(6) as pool:
    answers = list(
      pool.map(lambda body: client.post("/v1/recommend", json=body), asked)
    )
  found = gauges(client)
  # The other recommenders of this process are counted, too.
  assert found["bigrec_compilations_since_ready"] == before
  assert found["bigrec_ready"] == 1 and found["bigrec_slots"] == 4
  assert found["bigrec_histories_total"] >= 8
  assert found['bigrec_requests_total{path="/v1/recommend",status="200"}'] >= 15
  for body, answer in zip(asked, answers, strict=True):
    assert answer.status_code == 200, answer.text
    content = answer.json()
    options = {k: v for k, v in body.items() if k != "histories"}
    expected = [plain([own], **options)[0] for own in body["histories"]]
    assert len(content["recommendations"]) == len(expected)
    for each in zip(
      content["recommendations"], content["details"], expected, strict=True
    ):
      assert_same(*each)
    assert content["provenance"]["catalogue"] == plain.provenance.catalogue
  skipped = answers[-2].json()["details"][0]
  assert skipped["unknown"] == ["Nobody Knows"]


@pytest.mark.parametrize(
  ("body", "status", "words", "field"),
  [
    ({"histories": [["Nobody Knows"]]}, 400, "'Nobody", "histories[0][0]"),
    ({"histories": [[]], "k": 11}, 400, "from 1 to 10", "k"),
    ({"histories": [[]], "allow": ["nothing"]}, 400, "none of the", "allow"),
    ({"histories": [["x"] * 30]}, 413, "at most", "histories[0]"),
    ({"histories": [[]] * 33}, 413, "at most 32 expected", "histories"),
    ({"histories": [[]], "deadline_ms": 1e-3}, 504, "deadline_ms", ""),
    (
      {"histories": [["w " * 450] * 3], "unknown": "text"},
      413,
      "tokens found",
      "histories[0]",
    ),
  ],
)
def test_refusals(client, body, status, words, field):
  answer = client.post("/v1/recommend", json=body)
  assert answer.status_code == status, answer.text
  assert words in answer.json()["error"]["message"]
  assert ("retry-after" in answer.headers) == (status == 429)
  assert answer.json()["error"].get("field", "") == field


def test_limits_tokens_and_ids(world, client, caplog):
  logger = logging.getLogger("bigrec_jax.serve")
  with caplog.at_level(logging.INFO, logger.name):
    answer = client.post(
      "/v1/recommend",
      content=b" " * (world.config.serve.max_body_kib * 1024 + 1),
      headers={"x-request-id": "mine-7"},
    )
  assert answer.status_code == 413 and answer.headers["connection"] == "close"
  assert answer.headers["x-request-id"] == "mine-7"
  assert answer.json()["request_id"] == "mine-7"
  line = caplog.records[-1].more
  assert line["request_id"] == "mine-7" and line["status"] == 413
  odd = client.get("/v1/catalogue", headers={"x-request-id": 'x"y'})
  assert odd.headers["x-request-id"] != 'x"y'
  for wrong in ("", "Bearer x", world_lib.TOKEN, f"Basic {world_lib.TOKEN}"):
    refused = client.get("/v1/catalogue", headers={"authorization": wrong})
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == "Bearer"
  for path, status in (("/v1/recommend", 405), ("/nothing", 404)):
    lost = client.get(path, headers={"x-request-id": "mine-8"})
    assert (lost.status_code, lost.headers["x-request-id"]) == (
      status,
      "mine-8",
    )
    assert f"GET {path}: not here" in lost.json()["error"]["message"]
  refused = client.put("/v1/catalogue")
  assert refused.headers["allow"] == "GET, HEAD, POST"
  measured = client.get("/metrics").text  # No name of theirs is kept.
  assert 'path="other",status="404"' in measured and "/nothing" not in measured


def test_every_path_is_described(client):
  document = client.get("/openapi.json").json()
  app = client.app
  paths = {
    (route.path, method.lower())
    for route in app.routes
    for method in route.methods - {"HEAD"}
    if not route.path.startswith(("/openapi", "/docs"))
  }
  described = {
    (path, method) for path, own in document["paths"].items() for method in own
  }
  assert described == paths
  assert "/v1/recommend" in client.get("/docs").text


def test_who_leaves_frees_the_slot(world):
  ask = requests_lib.Ask([[]], 3, True, None, None, 30000.0, "error")
  asked = [world.engine.submit(ask) for _ in range(8)]
  for request in asked:
    request.answer.cancel()
  until = time.monotonic() + 30
  while not world.engine.is_idle:
    assert time.monotonic() < until
    time.sleep(0.01)
  assert world.engine.submit(ask).answer.result(60)


def recommend(client, **body):
  answer = client.post("/v1/recommend", json=body)
  assert answer.status_code == 200, answer.text
  return answer.json()


def test_items_come_and_go_while_others_ask(world, client):
  """A new item is listed at once, as by a recommender that is loaded then."""
  catalogue = world.served.prepared
  before = client.get("/v1/catalogue").json()
  assert before["version"] == 0 and before["room"] == 40
  compiled = gauges(client)["bigrec_compilations_since_ready"]
  stop, problems = threading.Event(), []

  def others():
    while not stop.is_set():
      answer = client.post(
        "/v1/recommend", json={"histories": histories(world, 3)}
      )
      if answer.status_code != 200:
        problems.append(answer.text)

  thread = threading.Thread(target=others, daemon=True)
  thread.start()
  items = [
    {"external_id": f"new{n}", "title": f"{catalogue.titles[n]} Reborn"}
    for n in range(12)
  ]
  items += [
    {"external_id": "twin", "title": catalogue.titles[3]},
    {"external_id": catalogue.external_ids[5], "title": catalogue.titles[5]},
  ]
  after = client.post("/v1/catalogue", json={"items": items}).json()
  assert (after["new"], after["known"], after["version"]) == (13, 1, 1)
  assert after["items"] == before["items"] + 13 and after["room"] == 27
  asked = {"histories": [["new2", catalogue.external_ids[1]], []], "k": 10}
  only = asked | {"allow": ["new1", "new3", "twin"]}
  contents = [recommend(client, **body) for body in (asked, only)]
  assert gauges(client)["bigrec_compilations_since_ready"] == compiled
  fresh = world.load(recommender_lib.Recommender)
  for body, content in zip((asked, only), contents, strict=True):
    options = {k: v for k, v in body.items() if k != "histories"}
    for found, details, own in zip(
      content["recommendations"],
      content["details"],
      body["histories"],
      strict=True,
    ):
      assert_same(found, details, fresh([own], **options)[0])
  compiled = gauges(client)["bigrec_compilations_since_ready"]
  assert {i["external_id"] for i in found} == {"new1", "new3", "twin"}
  assert all(i["popularity"] == 0 for i in found)

  first = found[0]["external_id"]
  gone = client.post(
    "/v1/catalogue/withdraw", json={"external_ids": [first]}
  ).json()
  assert gone["withdrawn"] == 1 and gone["version"] == 2
  found = recommend(client, **only)["recommendations"][1]
  assert first not in {i["external_id"] for i in found} and len(found) == 2
  none = client.post(
    "/v1/recommend", json={"histories": [[]], "allow": [first]}
  )
  assert none.status_code == 400, none.text
  back = client.post("/v1/catalogue/rollback", json={}).json()
  assert back["version"] == 1 and back["withdrawn"] == 0
  found = recommend(client, **only)["recommendations"][1]
  assert len(found) == 3
  # Another command changes the files; until it is told the server keeps its.
  store = editions.Store(world.served._loaded.paths, catalogue.fingerprint)
  store.with_withdrawn(store.current(), ["new1"])
  conflict = client.post("/v1/catalogue/rollback")
  assert conflict.status_code == 409 and "reload" in conflict.text
  assert client.post("/v1/catalogue/reload").json()["withdrawn"] == 1
  again = {"items": items[:2]}
  assert client.post("/v1/catalogue", json=again).json()["restored"] == 1
  while client.get("/v1/catalogue").json()["version"]:
    assert client.post("/v1/catalogue/rollback").status_code == 200
  stop.set()
  thread.join()
  assert not problems, problems[0]
  assert client.get("/v1/catalogue").json() == before
  assert gauges(client)["bigrec_compilations_since_ready"] == compiled


@pytest.mark.parametrize(
  ("path", "body", "status", "words"),
  [
    ("", {"items": [{"external_id": "ID", "title": "Other"}]}, 409, "title"),
    ("", {"items": [{"external_id": "n", "title": "y " * 150}]}, 400, "tokens"),
    ("", {"items": 41}, 507, "room for 40"),
    ("/withdraw", {"external_ids": ["nobody"]}, 400, "external_ids[0]"),
    ("/withdraw", {}, 400, "external_ids"),
    ("/withdraw", {"external_ids": "ALL"}, 400, "the last item"),
    ("/rollback", None, 409, "nothing before"),
    ("/reload", {"now": True}, 400, "now: unknown"),
  ],
)
def test_changes_that_are_refused(world, client, path, body, status, words):
  """And change nothing."""
  before = client.get("/v1/catalogue").json()
  ids = world.served.prepared.external_ids
  text = json.dumps(body).replace('"ID"', json.dumps(ids[0]))
  text = text.replace('"ALL"', json.dumps(list(ids)))
  if body == {"items": 41}:
    items = [{"external_id": f"z{n}", "title": f"Z {n}"} for n in range(41)]
    text = json.dumps({"items": items})
  content = b"" if body is None else text.encode()
  answer = client.post(f"/v1/catalogue{path}", content=content)
  assert answer.status_code == status, answer.text
  assert words in answer.json()["error"]["message"]
  assert client.get("/v1/catalogue").json() == before
