"""What a body may say, and which field a refusal names."""

import dataclasses
import json

import numpy as np
import pytest

from bigrec_jax import config as config_lib
from bigrec_jax.data.prepared import catalogue
from bigrec_jax.models import embedding
from bigrec_jax.serving import (
  lookup,
  openapi,
  refusals,
  requests,
  waiting,
  warming,
)
from configs import common

CONFIG = config_lib.from_config_dict(common.get_config()).serve
DEFAULTS = requests.Defaults(10, True, "error")


def read(body):
  if not isinstance(body, bytes):
    body = json.dumps(body).encode()
  return requests.recommend(body, CONFIG, DEFAULTS)


def test_what_is_not_said_is_the_default():
  assert read({"histories": [["a", 7], []]}) == requests.Ask(
    [["a", 7], []], 10, True, None, None, CONFIG.deadline_ms, "error"
  )
  full = {
    "histories": [],
    "k": 3,
    "exclude_history": False,
    "allow": ["a"],
    "deny": [2],
    "deadline_ms": 50,
    "unknown": "skip",
  }
  assert read(full) == requests.Ask([], 3, False, ["a"], [2], 50.0, "skip")
  assert read(full | {"allow": None, "deadline_ms": 1e9}).allow is None
  for large in (1e9, 10**400):
    assert read(full | {"deadline_ms": large}).deadline_ms == CONFIG.deadline_ms


@pytest.mark.parametrize(
  ("body", "status", "field"),
  [
    (b"", 400, ""),
    (b"\xff\xfe", 400, ""),
    (b"[" * 5000, 400, ""),
    (b'{"histories": [[NaN]]}', 400, ""),
    ([], 400, "body"),
    ({}, 400, "histories"),
    ({"histories": "Halo"}, 400, "histories"),
    ({"histories": ["Halo"]}, 400, "histories[0]"),
    ({"histories": [[], [1.5]]}, 400, "histories[1][0]"),
    ({"histories": [["a", None]]}, 400, "histories[0][1]"),
    ({"histories": [[True]]}, 400, "histories[0][0]"),
    ({"histories": [["x" * 5000]]}, 413, "histories[0][0]"),
    ({"histories": [["a"] * 101]}, 413, "histories[0]"),
    ({"histories": [[]] * 65}, 413, "histories"),
    ({"histories": [], "k": 0}, 400, "k"),
    ({"histories": [], "k": 101}, 400, "k"),
    ({"histories": [], "k": True}, 400, "k"),
    ({"histories": [], "k": "ten"}, 400, "k"),
    ({"histories": [], "exclude_history": 1}, 400, "exclude_history"),
    ({"histories": [], "allow": "a"}, 400, "allow"),
    ({"histories": [], "deny": [{}]}, 400, "deny[0]"),
    ({"histories": [], "deadline_ms": -1}, 400, "deadline_ms"),
    ({"histories": [], "deadline_ms": "soon"}, 400, "deadline_ms"),
    ({"histories": [], "unknown": "guess"}, 400, "unknown"),
    ({"histories": [], "historys": []}, 400, "historys"),
  ],
)
def test_a_refusal_names_the_field(body, status, field):
  with pytest.raises(refusals.RefusedError) as error:
    read(body)
  assert (error.value.status, error.value.field) == (status, field)
  assert "expected" in str(error.value) or field == ""


def test_half_of_a_surrogate_pair_is_an_unknown_item_like_any():
  items = catalogue.Catalogue(("a",), ("Halo",), np.zeros(1, np.int64))
  ask = read(b'{"histories": [["halo", "\\ud800"]]}')
  with pytest.raises(refusals.RefusedError) as error:
    lookup.find(ask, items, 1e12)
  assert (error.value.status, error.value.field) == (400, "histories[0][1]")


def test_searches_for_titles_end_at_the_deadline():
  items = catalogue.Catalogue(("a",), ("Halo",), np.zeros(1, np.int64))
  ask = read({"histories": [["Helo"]], "unknown": "nearest"})
  assert lookup.find(ask, items, 1e12).nearest == [{"Helo": "Halo"}]
  with pytest.raises(refusals.RefusedError) as error:
    lookup.find(ask, items, -1.0)
  assert error.value.status == 504


@pytest.mark.parametrize(
  ("items", "field"),
  [
    ("Halo", "items"),
    ([7], "items[0]"),
    ([{"title": "A"}], "items[0]"),
    ([{"external_id": "a", "title": "A"}, {"external_id": "b"}], "items[1]"),
    ([{"external_id": "a", "title": ' "" '}], "items[0].title"),
    ([{"external_id": None, "title": "A"}], "items[0].external_id"),
  ],
)
def test_items_to_add(items, field):
  with pytest.raises(refusals.RefusedError) as error:
    requests.added(json.dumps({"items": items}).encode())
  assert (error.value.status, error.value.field) == (400, field)


def test_the_earliest_deadline_goes_first():
  queue = waiting.Queue(3)

  def user(name, deadline):
    request = waiting.Request(read({"histories": [[]]}), [0], None, 0, deadline)
    return waiting.User(request, 0, None, name)

  late, soon, never = user(1, 1e12), user(2, 1e11), user(3, -1.0)
  queue.add([late, soon])
  with pytest.raises(refusals.RefusedError) as error:
    queue.add([user(4, 1e10), user(5, 1e10)])
  assert error.value.status == 429 and error.value.retry_after >= 1
  queue.add([never])
  assert queue.take(1) == [soon]
  assert never.request.answer.exception().status == 504
  late.request.answer.cancel()
  assert queue.take(5) == [] and len(queue) == 0


def test_who_is_waited_for_no_more_takes_no_place():
  queue = waiting.Queue(3)

  def user(deadline):
    request = waiting.Request(read({"histories": [[]]}), [0], None, 0, deadline)
    return waiting.User(request, 0, None, 0)

  left, late, there, new = user(1e12), user(-1.0), user(1e12), user(1e11)
  queue.add([left, late, there])
  left.request.answer.cancel()
  queue.add([new])
  assert late.request.answer.exception().status == 504
  assert queue.take(3) == [new, there]


def test_more_than_may_wait_is_too_large():
  limits = dataclasses.replace(CONFIG, queue=2)
  body = json.dumps({"histories": [[]] * 3}).encode()
  with pytest.raises(refusals.RefusedError) as error:
    requests.recommend(body, limits, DEFAULTS)
  assert (error.value.status, error.value.field) == (413, "histories")


def test_an_answer_has_the_lists_in_order():
  request = waiting.Request(
    read({"histories": [[], []]}), [0, 1], None, 0, 1e12
  )
  request.take(1, "second")
  assert not request.is_over
  request.take(0, "first")
  assert request.answer.result() == ["first", "second"]
  request.fail(ValueError())  # Too late: nothing becomes of it.
  assert request.answer.result() == ["first", "second"]


def test_the_document_is_of_this_configuration():
  document = openapi.document(CONFIG, has_token=True)
  post = document["paths"]["/v1/recommend"]["post"]
  body = post["requestBody"]["content"]["application/json"]["schema"]
  assert set(body["properties"]) == set(requests.Ask._fields)
  assert body["properties"]["k"]["maximum"] == CONFIG.max_k
  assert "401" in post["responses"] and post["security"]
  page = openapi.page(document)
  assert "/v1/catalogue/rollback" in page
  assert "http:" not in page and "https:" not in page


@pytest.mark.parametrize("tokens", [1, 2, 3])
def test_texts_of_every_length_are_embedded_before_it_is_ready(tokens):
  """Whatever a tokenizer makes of a word; titles have at most 128 tokens."""
  titles = range(1, 129)
  together = {embedding.length_bucket(tokens * n) for n in warming.WORDS}
  assert together >= {embedding.length_bucket(n) for n in titles}
  alone = {embedding.alone_bucket(tokens * n) for n in warming.WORDS_ALONE}
  assert alone >= {embedding.alone_bucket(n) for n in titles}
