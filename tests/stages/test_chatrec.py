"""Chat-REC on the tiny demo: rows, the report, a chat, the library."""

import io
import json
import shutil
import sys
from unittest import mock

import numpy as np
import pytest

import bigrec_jax
from bigrec_jax import config as config_lib
from bigrec_jax.recommend import conversation
from bigrec_jax.stages import evaluate, report
from bigrec_jax.workdir import paths, settings
from configs import chatrec, demo
from tests.stages import command

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workdir(evaluated_demo, tmp_path_factory):
  """The demo's base, adapter and lists, with a chat in front of them."""
  root = tmp_path_factory.mktemp("chatrec") / "workdir"
  shutil.copytree(evaluated_demo, root)
  tree = demo.get_config("tiny")
  tree.mesh.data, tree.mesh.fsdp = 4, 2
  tree.task = chatrec.get_config("tiny").task
  tree.generate.prompt_buckets = (192, 1024)
  own = config_lib.from_config_dict(tree)
  made = (root / "metrics/ground_eval.json").read_bytes()
  evaluate.run(own, root)
  assert (root / "metrics/ground_eval.json").read_bytes() == made
  report.run(own, root)
  settings.remember(paths.Paths(root), own, "chatrec", {})
  return root


def _titles(workdir):
  lines = (workdir / "data/catalogue.jsonl").read_text().splitlines()
  return {row["external_id"]: row["title"] for row in map(json.loads, lines)}


def test_rows_and_report(workdir):
  found = json.loads((workdir / "metrics/chat.json").read_text())["results"]
  assert [(row["split"], row["system"]) for row in found] == [
    (split, system)
    for split in ("valid", "test")
    for system in ("recommender", "chat", "chat - recommender")
  ]
  for theirs, ours, less in (found[:3], found[3:]):
    assert theirs["n"] == 8
    for name in ("hr@1", "hr@5", "ndcg@5"):
      difference = ours["metrics"][name] - theirs["metrics"][name]
      assert less["metrics"][name] == pytest.approx(difference)
    assert ours["metrics"]["hr@5"] <= theirs["metrics"]["among_candidates"]
    assert 0 <= ours["metrics"]["called"] <= 1
  html = (workdir / "report/index.html").read_text()
  assert "chat - recommender" in html and "Where hits come from" in html


def test_a_chat_on_the_command_line(workdir):
  titles = _titles(workdir)
  first, second = list(titles)[:2]
  said = f'I liked "{titles[second]}", what else?\n\nAnd more?\n'
  with mock.patch.object(sys, "stdin", io.StringIO(said)):
    status, told = command.here(
      "--mode=chat",
      f"--workdir={workdir}",
      f"--history={first}",
      "--config.task.chat.decide=always",
    )
  assert status == 0, told
  log = (workdir / "chat.jsonl").read_text().splitlines()
  turns = [json.loads(line) for line in log]
  assert [turn["turn"] for turn in turns] == [1, 2]
  assert turns[0]["history"][0] == first
  assert second in turns[0]["history"]
  listed = [item for turn in turns for item in turn["items"]]
  assert len({item["external_id"] for item in listed}) == len(listed) == 10
  for item in listed:
    assert titles[item["external_id"]] == item["title"]
  assert not {first, second} & {item["external_id"] for item in listed}


class _Stub:
  """A chat model that names what it likes."""

  def write(self, turns):
    del turns
    return "Try Elden Ring. I like these games."

  def log_probs(self, conversations, answers, kept=None):
    del conversations, kept
    if tuple(answers[0]) == ("Yes", "No"):
      return np.array([[-1.0, -2.0]], np.float32)
    return np.array([[-len(text) for text in answers[0]]], np.float32)


def test_the_library_has_one_function(workdir):
  titles = _titles(workdir)
  history = [list(titles)[0]]
  talk = bigrec_jax.chat(workdir, history, chat_model=_Stub())
  assert isinstance(talk, conversation.Conversation)
  reply = talk("Something new?")
  assert len(reply.items) == 5 and "Elden" not in reply.text
  assert reply.text.endswith("I like these games.")
  own = bigrec_jax.Recommender.load(workdir)([history], k=20)[0]
  order = sorted(own, key=lambda item: len(item.title.strip(' "')))
  assert [i.external_id for i in reply.items] == [
    i.external_id for i in order[:5]
  ]
