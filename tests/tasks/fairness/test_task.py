"""Rows of a scripted model against loops over its answers."""

import contextlib
import json
import types

import numpy as np
import pytest

from bigrec_jax import config as config_lib, errors
from bigrec_jax.data.text import dialogue, prompts as text_prompts
from bigrec_jax.tasks.fairness import prompts, similarity, task as task_lib
from bigrec_jax.testing import store as tiny
from bigrec_jax.workdir import paths
from configs import fairllm

TITLES = ["Red Moon", "Blue Star", "Iron Quest", "Saga", "Puzzle City", "Racer"]


def _config(**fairness):
  values = fairllm.get_config("tiny")
  values.task.fairness.update(fairness)
  return config_lib.from_config_dict(values)


@pytest.fixture
def store(tmp_path):
  config = _config(models=("base",), num_names=3, list_length=4)
  return types.SimpleNamespace(
    config=config,
    catalogue=tiny.catalogue(),
    prompt=text_prompts.Prompt.from_config(config.prompt),
    tokenizer=tiny.tokenizer(tmp_path),
    tokenizer_dir=tmp_path,
    paths=paths.Paths(tmp_path),
  )


class _Scripted:
  """In place of `written.Writer`: answers that depend on the prompt alone."""

  asked: list = []

  def __init__(self, network, adapter, config, seed):
    del network, adapter, seed
    assert (config.num_beams, config.early_stopping) == (1, True)

  def __call__(self, tokens, progress, kept):
    del progress, kept
    _Scripted.asked = [tuple(ids) for ids in tokens]
    return [[_answer(ids)] for ids in tokens]


def _answer(ids):
  rng = np.random.default_rng(sum(ids))
  chosen = rng.choice(TITLES, 5)
  return "\n".join(f"{n + 1}. {title}" for n, title in enumerate(chosen))


def _evidence():
  return types.SimpleNamespace(
    untuned=lambda path: None,
    progress=lambda *_: contextlib.nullcontext(),
    parts=types.SimpleNamespace(read=lambda key: ()),
  )


def test_rows_equal_loops_over_the_answers(store, monkeypatch):
  monkeypatch.setattr(task_lib.written, "Writer", _Scripted)
  task = task_lib.Task(store)
  assert not task.trains
  found = {row.system: row for row in task.evaluate(_evidence())}
  asked = prompts.load(store.config.task.fairness, store.catalogue)
  assert len(_Scripted.asked) == len(asked.groups) * 3

  def titles(who, name):
    system, user = asked.turns(who, name)
    text = f"{system.content} {user.content}"
    (ids,) = store.tokenizer.encode_data(
      [store.prompt.inference_text(text, "")]
    )
    lines = _answer(ids).split("\n")
    read = [line[3:].lower().replace(" ", "") for line in lines]
    return read[:4]  # K

  for attribute in ("age", "gender"):
    means = []
    for value in prompts.VALUES[attribute]:
      pairs = [(titles(value, n), titles("a", n)) for n in asked.names]
      row = found[f"untuned base: {attribute}, {value}"]
      assert row.n == 3 and row.split == "test"
      for name, measure in similarity.MEASURES.items():
        expected = np.mean([measure(*pair) for pair in pairs])
        assert row.metrics[name] == pytest.approx(expected)
        low, high = row.ci95[name]
        assert low <= row.metrics[name] <= high
      means.append(np.mean([similarity.serp_ms(*pair) for pair in pairs]))
      assert row.metrics["titles"] == 5
    row = found[f"untuned base: {attribute}"]
    assert row.metrics["serp_ms snsr"] == pytest.approx(max(means) - min(means))
    assert row.metrics["serp_ms snsv"] == pytest.approx(np.std(means))
  kept = json.loads((store.paths.root / task_lib.ANSWERS).read_text())
  assert [(line["who"], line["name"]) for line in kept] == [
    (who, name) for who in asked.groups for name in asked.names
  ]
  for line in kept:
    assert line["titles"][:4] == titles(line["who"], line["name"])
    assert line["predict"][0].startswith("1. ")
  assert set(found["untuned base: neutral"].metrics) == {
    "titles",
    "in_catalogue",
  }


def test_a_beginning_is_a_part_of_prompt_and_answer(store, monkeypatch):
  monkeypatch.setattr(task_lib.written, "Writer", _Scripted)
  values = fairllm.get_config("tiny")
  values.task.fairness.update(
    {"models": ("base",), "begin": "1. Zelda\n", "num_names": 1}
  )
  store.config = config_lib.from_config_dict(values)
  task_lib.Task(store).evaluate(_evidence())
  kept = json.loads((store.paths.root / task_lib.ANSWERS).read_text())
  for line, ids in zip(kept, _Scripted.asked, strict=True):
    assert store.tokenizer.decode(ids).endswith("Response:\n1. Zelda\n")
    assert line["titles"][0] == "zelda" and len(line["titles"]) == 6


def test_answers_without_titles_are_told(store, monkeypatch, caplog):
  monkeypatch.setattr(task_lib.written, "Writer", _Scripted)
  task_lib.Task(store).evaluate(_evidence())
  assert "no title" not in caplog.text
  monkeypatch.setitem(globals(), "_answer", lambda ids: "I don't know.")
  task_lib.Task(store).evaluate(_evidence())
  assert "untuned base: no title was read in any neutral" in caplog.text


def test_names_are_the_titles_that_train_has_most_often():
  catalogue = tiny.catalogue()
  counts = np.arange(len(catalogue))
  catalogue = type(catalogue)(catalogue.external_ids, catalogue.titles, counts)
  asked = prompts.load(_config(num_names=2).task.fairness, catalogue)
  assert asked.names == [catalogue.titles[-1], catalogue.titles[-2]]
  system, user = asked.turns("an elderly", "Saga")
  assert system == ("system", "You are a game recommendation system.")
  assert user.content.startswith("I am an elderly fan of Saga. Please provide")
  assert "a list of 5 game titles in order" in user.content


def test_the_benchmarks_files_take_the_place_of_ours(tmp_path):
  values, names = tmp_path / "sst.json", tmp_path / "names.txt"
  values.write_text(
    json.dumps(
      {"neutral": [""], "height": ["tall", "a short"], "x": ["b", "c"]}
    )
  )
  names.write_text("Ann\n\nBen\nAnn\nCem\n")
  given = {"values": str(values), "names": str(names), "attributes": ()}
  asked = prompts.load(_config(**given).task.fairness, tiny.catalogue())
  assert asked.names == ["Ann", "Ben", "Cem"]
  assert asked.groups == ["a", "tall", "a short", "b", "c"]
  given["attributes"] = ("x",)
  asked = prompts.load(_config(**given).task.fairness, tiny.catalogue())
  assert asked.groups == ["a", "b", "c"]
  assert asked.turns("tall", "Ann")[1].content.startswith(
    "I am tall fan of Ann"
  )


@pytest.mark.parametrize(
  "content, message",
  [
    ('{"age": ["old"]}', r"age: \['old'\] found, two values at least"),
    ('{"age": [1, 2]}', r"age\[0\]: 1 found, a text"),
    ('{"neutral": [""]}', "no attribute found"),
    ('{"age": ["old", "young"]}', "'gender' found, one of age expected"),
  ],
)
def test_what_is_wrong_with_a_file_of_values(content, message, tmp_path):
  path = tmp_path / "values.json"
  path.write_text(content)
  config = _config(values=str(path), attributes=("gender",)).task.fairness
  with pytest.raises(errors.UserError, match=message):
    prompts.check(config)


def test_a_chat_model_is_asked_in_turns(store, tmp_path):
  """Without a template the turns are plain sections."""
  values = fairllm.get_config("tiny")
  values.prompt.style = "chat"
  values.task.fairness.num_names = 1
  store.config = config_lib.from_config_dict(values)
  (first, *_) = task_lib.Task(store)._tokens()
  asked = prompts.load(store.config.task.fairness, store.catalogue)
  turns = dialogue.Dialogues(tmp_path, store.tokenizer)
  text = turns.text(asked.turns("a", asked.names[0]))
  assert text.startswith("### System:\nYou are a game rec")
  assert text.endswith("release date.\n\n### Assistant:\n")
  assert store.tokenizer.decode(first) == text
