"""A workdir as an object: from a fresh interpreter, from threads, as the mode.

The demo's base is random: what it writes is no title, so that every part runs.
"""

import itertools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import warnings
from concurrent import futures

import jax
import numpy as np
import pytest

import bigrec_jax
from bigrec_jax import config as config_lib
from bigrec_jax.decoding import generate, lanes, program
from bigrec_jax.recommend import decoder
from bigrec_jax.stages import recommend as stage
from tests import compiling, demo_workdir

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Items that docs/recommend.md asks for, of the whole demo.
_IN_THE_DOCS = ("Garigard Empires - Tavona", "B06O4Z9UF8")


@pytest.fixture(scope="module")
def workdir(evaluated_demo, tmp_path_factory):
  root = tmp_path_factory.mktemp("recommender") / "runs" / "demo"
  shutil.copytree(evaluated_demo, root)
  return root


@pytest.fixture(scope="module")
def catalogue(workdir):
  with open(workdir / "data" / "catalogue.jsonl") as file:
    return [json.loads(line) for line in file]


@pytest.fixture(scope="module")
def recommender(workdir):
  """On one device, as most notebooks have it."""
  mesh = config_lib.MeshConfig(1, 1, 1)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax, "devices", lambda *_: jax.local_devices()[:1])
    return bigrec_jax.Recommender.load(workdir, mesh=mesh)


@pytest.fixture(scope="module")
def histories(catalogue, recommender):
  """Ids and titles of six users, one of whom has nothing yet.

  The first two prompts are of different lengths, but of one bucket.
  """
  found = [
    [row["external_id" if n % 2 else "title"] for row in catalogue[n : n + 4]]
    for n in range(3, 103, 10)
  ]
  titles = [
    [r["title"] for r in catalogue[n : n + 4]] for n in range(3, 103, 10)
  ]
  own = recommender._decoder
  lengths = [
    len(prompt) - len(own._prefix.ids) for prompt in own.prompt_tokens(titles)
  ]
  buckets = recommender._loaded.config.generate.prompt_buckets
  for n, other in itertools.combinations(range(len(found)), 2):
    one, two = (lanes.bucket_of(lengths[k], buckets) for k in (n, other))
    if one == two and lengths[n] < lengths[other]:
      break
  else:
    pytest.fail("no two prompts of a bucket")
  rest = [own for k, own in enumerate(found) if k not in (n, other)]
  return [found[n], found[other], *rest[:3], []]


def _plain(found):
  return [[(e.external_id, e.title, e.score) for e in own] for own in found]


def _assert_same_lists(found, rows):
  """Compares lists with lines of recommendations.jsonl."""
  assert len(found) == len(rows)
  for own, row in zip(found, rows, strict=True):
    listed = row["recommendations"]
    assert own["ids"] == [entry["external_id"] for entry in listed]
    assert own["titles"] == [entry["title"] for entry in listed]
    np.testing.assert_allclose(
      own["scores"], [entry["score"] for entry in listed], rtol=0, atol=1e-5
    )
    assert own["written"] == row["predict"]
    left_out = {"encoder": None, "system": None, "cold": False}
    left_out |= {"fallback": None, "nearest": {}}
    assert own["provenance"] == left_out | row["provenance"]


_PROBE = """
import json, logging, pathlib, sys, threading
sys.argv = ["notebook", "--no-such-flag"]
before = set(sys.modules)
import bigrec_jax
loaded = [m for m in ("jax", "numpy", "absl") if m in set(sys.modules) - before]
assert not loaded, loaded

exec(pathlib.Path("lines.py").read_text())
lines = lists

import jax
compiled = []
jax.monitoring.register_event_duration_secs_listener(
  lambda name, *_, **__: compiled.append(name) if "compile" in name else None
)
histories = json.loads(pathlib.Path("histories.json").read_text())
serial = [recommender([histories[0]])]
assert compiled
compiled.clear()
serial.append(recommender([histories[1]]))
assert not compiled, compiled
serial += [recommender([own]) for own in histories[2:]]

compiled.clear()
found = {}
def ask(part):
  for n in part:
    found[n] = recommender([histories[n]])
threads = [
  threading.Thread(target=ask, args=(range(k, len(histories), 2),))
  for k in (0, 1)
]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert [found[n] for n in range(len(histories))] == serial
assert not compiled, compiled
assert not logging.root.handlers and not logging.getLogger("absl").handlers

import dataclasses
print(json.dumps([
  {
    "ids": [e.external_id for e in own],
    "titles": [e.title for e in own],
    "scores": [e.score for e in own],
    "written": own.written,
    "provenance": dataclasses.asdict(own.provenance),
  }
  for own in [*lines, *(one for one, in serial)]
]))
"""


def test_the_lines_of_the_docs_in_a_fresh_interpreter(
  workdir, catalogue, histories, tmp_path
):
  """They write nothing, and give what --mode=recommend gives."""
  text = (ROOT / "docs" / "recommend.md").read_text()
  lines = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
  here = {_IN_THE_DOCS[0]: catalogue[8]["title"]}
  here[_IN_THE_DOCS[1]] = catalogue[9]["external_id"]
  for item, other in here.items():
    assert item in lines
    lines = lines.replace(item, other)
  cwd = workdir.parents[1]
  (cwd / "lines.py").write_text(lines)
  (cwd / "histories.json").write_text(json.dumps(histories))
  before = demo_workdir.snapshot(cwd)
  environment = os.environ | {"XLA_FLAGS": compiling.xla_flags(devices=1)}
  result = subprocess.run(
    [sys.executable, "-W", "error::UserWarning", "-c", _PROBE],
    cwd=cwd,
    env=environment | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
    capture_output=True,
    text=True,
  )
  assert result.returncode == 0, result.stderr[-3000:]
  assert result.stderr == ""
  assert demo_workdir.snapshot(cwd) == before
  found = json.loads(result.stdout.splitlines()[-1])

  users = tmp_path / "users.jsonl"
  asked = [list(here.values()), [], *histories]
  users.write_text("".join(json.dumps({"history": h}) + "\n" for h in asked))
  output = tmp_path / "lists.jsonl"
  stage.run(
    demo_workdir.config(histories=str(users), output=str(output)), workdir
  )
  rows = [json.loads(line) for line in output.read_text().splitlines()]
  _assert_same_lists(found, rows)


def test_a_list_is_a_sequence_of_items(recommender, histories):
  one, other = recommender([histories[0], histories[-1]], k=7)
  assert len(one) == len(other) == 7
  assert one[0].score == 1.0 and one[0] in one and one[-1] == list(one)[-1]
  assert one[:2] == tuple(one)[:2]
  assert {e.external_id for e in one}.isdisjoint(histories[0])
  assert len(one.written) == len(one.written_scores) == 2
  assert one[3].provenance is one.provenance
  assert one.provenance.injection == recommender.provenance.injection
  assert recommender([]) == []
  with pytest.raises(AttributeError):
    one[0].score = 2.0


def test_other_list_lengths_decode_with_the_same_programs(
  recommender, histories
):
  recommender([histories[1]], k=3)
  programs = (program.read, program.advance)
  before = [p._cache_size() for p in programs]
  longer = recommender([histories[1]], k=20)[0]
  shown = recommender([histories[1]], k=20, exclude_history=False)[0]
  assert [p._cache_size() for p in programs] == before
  assert recommender([histories[1]], k=3)[0].items == longer.items[:3]
  known = set(histories[1])
  assert [e for e in shown if e.external_id not in known][:5] == [
    e for e in longer if e.title not in known
  ][:5]


def test_allow_and_deny_leave_out_the_rest(recommender, histories, catalogue):
  own = histories[0]
  whole = recommender([own], k=len(catalogue))[0]
  ids = [item.external_id for item in whole]
  # Of an id that came later nothing is known yet.
  (found,) = recommender([own], k=5, allow=[*ids[3::2], "later"], deny=ids[5:8])
  expected = [
    external_id for external_id in ids[3::2] if external_id not in ids[5:8]
  ]
  assert [item.external_id for item in found] == expected[:5]
  assert [item.score for item in found] == pytest.approx(
    [whole[ids.index(i)].score for i in expected[:5]], abs=1e-6
  )
  (few,) = recommender([own], k=5, allow=iter(ids[9:11]))
  assert [item.external_id for item in few] == ids[9:11]


def test_two_threads_at_once_get_what_one_gets(recommender, histories):
  alone = recommender(histories)
  with futures.ThreadPoolExecutor(2) as pool:
    both = list(pool.map(recommender, [histories] * 4))
  assert both == [alone] * 4


def test_unknown_items_are_an_error_text_or_nothing(recommender, histories):
  asked = [[*histories[0], "Nobody Knows IV"]]
  with pytest.raises(bigrec_jax.UserError) as error:
    recommender(asked)
  message = str(error.value)
  assert "histories[0]: item 5: 'Nobody Knows IV' found" in message
  assert "(unknown=text" in message and "\n" not in message
  text, skip = (recommender(asked, unknown=u)[0] for u in ("text", "skip"))
  assert text.provenance.unknown == ("Nobody Knows IV",)
  assert skip.items and _plain([skip]) == _plain(recommender([histories[0]]))


@pytest.mark.parametrize(
  ("asked", "options", "words"),
  [
    ("Halo 3", {}, ["histories: str found"]),
    (["Halo 3"], {}, ["histories[0]: 'Halo 3' found", "a list of ids"]),
    ([[1.5]], {}, ["histories[0]: item 1: 1.5 found"]),
    ([[]], {"k": 0}, ["k: 0 found"]),
    ([[]], {"unknown": "drop"}, ["unknown: 'drop' found", "skip"]),
    ([[]], {"allow": "B0"}, ["allow: 'B0' found, a list of external ids"]),
    ([[]], {"deny": ["a", 1.5]}, ["deny[1]: 1.5 found"]),
    ([[]], {"allow": ["later"]}, ["items is left", "e.g. 'later'"]),
  ],
)
def test_a_mistake_in_a_call_is_one_line(recommender, asked, options, words):
  with pytest.raises(bigrec_jax.UserError) as error:
    recommender(asked, **options)
  for word in words:
    assert word in str(error.value)


def _without(*names):
  def change(root):
    for name in names:
      path = root / name
      shutil.rmtree(path) if path.is_dir() else path.unlink()

  return change


def _edited(name, *keys, value):
  def change(root):
    path = root / name
    content = node = json.loads(path.read_text())
    for key in keys[:-1]:
      node = node[key]
    node[keys[-1]] = value
    path.write_text(json.dumps(content))

  return change


def _another_base(root):
  path = root / "base" / "config.json"
  path.write_text(path.read_text() + "\n")


@pytest.mark.parametrize(
  ("change", "words"),
  [
    (_without("config.json"), ["config.json: not found", "--mode="]),
    (_without("data"), ["catalogue.jsonl", "--mode=prepare"]),
    (_without("base"), ["base: no base found", "--mode=pretrain"]),
    (_without("adapter"), ["no finished adapter", "--mode=train"]),
    (_without("records/adapter.json"), ["no finished adapter"]),
    (_another_base, ["base/config.json", "--mode=pretrain"]),
    (
      _edited("records/adapter.json", "prompt", "history", value="Seen:"),
      ["config.prompt", "--mode=train"],
    ),
    (_without("embeddings"), ["no embeddings found", "--mode=embed"]),
    (_without("records/cf_sasrec.json"), ["sasrec", "--mode=train_cf"]),
    (
      _edited("records/cf_sasrec.json", "catalogue", value="x"),
      ["other items", "--mode=train_cf"],
    ),
  ],
)
def test_what_is_missing_or_stale_is_one_line(
  evaluated_demo, tmp_path, change, words
):
  root = tmp_path / "workdir"
  shutil.copytree(evaluated_demo, root)
  change(root)
  before = demo_workdir.snapshot(root)
  with pytest.raises(bigrec_jax.UserError) as error:
    bigrec_jax.Recommender.load(root, injection="cf", gamma=1.0)
  for word in words:
    assert word in str(error.value), str(error.value)
  assert str(root) in str(error.value) and "\n" not in str(error.value)
  assert demo_workdir.snapshot(root) == before


def test_no_workdir_at_all():
  with pytest.raises(bigrec_jax.UserError, match="/nowhere: no such folder"):
    bigrec_jax.Recommender.load("/nowhere")
  with pytest.raises(AttributeError, match="no attribute 'Recomender'"):
    bigrec_jax.Recomender  # noqa: B018


def test_without_an_evaluation_a_warning_says_what_is_injected(
  evaluated_demo, tmp_path, histories
):
  root = tmp_path / "workdir"
  shutil.copytree(evaluated_demo, root)
  (root / "chosen.json").unlink()
  with pytest.warns(UserWarning, match="not there.*--mode=ground_eval"):
    plain = bigrec_jax.Recommender.load(root)
  assert plain.provenance.injection == "none"
  assert plain.provenance.gamma is None
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    named = bigrec_jax.Recommender.load(root, injection="cf", gamma=2)
  assert named.provenance.gamma == 2.0
  assert named.provenance.cf_model == "sasrec"
  (found,) = named([histories[0]], k=4)
  assert sorted(e.cf_rank for e in found)[0] >= 1


def test_a_prompt_that_begins_otherwise_is_read_whole(
  recommender, histories, monkeypatch
):
  """A tokenizer may merge a title's beginning with what comes before it."""
  expected = recommender([histories[0]])
  other = generate.Prefix([0, 1, 2], None)
  own = recommender._decoder
  monkeypatch.setitem(own.__dict__, "_prefix", other)
  read = []
  plain = decoder.Decoder._read_prefix
  monkeypatch.setattr(
    decoder.Decoder,
    "_read_prefix",
    lambda self, ids: read.append(ids) or plain(self, ids),
  )
  assert recommender([histories[0]]) == expected
  (ids,) = read
  assert len(ids) % generate.PREFIX_BLOCK == 0 and ids[:3] != other.ids
