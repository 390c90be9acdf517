"""The task on prepared data: what training may read, what changes what."""

import dataclasses
import functools
import re
import types

import numpy as np
import pytest

from bigrec_jax import config as config_lib, errors
from bigrec_jax.data.formats import attributes
from bigrec_jax.data.prepared import (
  catalogue,
  examples,
  item_groups,
  manifest,
  prepare,
)
from bigrec_jax.data.text import prompts
from bigrec_jax.tasks.auxiliary import samples, task
from bigrec_jax.workdir import paths as paths_lib
from configs import cao

EVERY = dict.fromkeys(samples.KINDS, 2.5)


def _config(**changes):
  """Returns the tiny config; dots of keys are written as `__`."""
  values = cao.get_config("tiny")
  values.data.num_train = values.data.num_valid = values.data.num_test = -1
  values.update_from_flattened_dict(
    {key.replace("__", "."): value for key, value in changes.items()}
  )
  return config_lib.from_config_dict(values)


def _task(root, **changes):
  """Returns the task of a prepared workdir."""
  config, paths = _config(**changes), paths_lib.Paths(root)
  counts = {s: getattr(config.data, f"num_{s}") for s in ("valid", "test")}
  counts["train"] = config.data.num_train

  @functools.cache
  def rows(split):
    seed = config.seed if split == "train" else config.data.sample_seed
    return examples.load_examples(paths, split, counts[split], seed)

  unmarked = types.SimpleNamespace(mark=lambda text: text)
  return task.Task(
    types.SimpleNamespace(
      config=config,
      paths=paths,
      manifest=manifest.read(paths.manifest),
      catalogue=catalogue.load(paths),
      examples=rows,
      prompt=prompts.Prompt.from_config(config.prompt),
      tokenizer=types.SimpleNamespace(special=unmarked),
    )
  )


def _prepared(root, **changes):
  config = _config(**changes)
  root.mkdir(parents=True)
  prepare.prepare(config.data, config.prompt, paths_lib.Paths(root))
  return root


@pytest.fixture(scope="module")
def own_items(tmp_path_factory):
  """Leave-one-out data of users who have no item in common."""
  folder = tmp_path_factory.mktemp("loo")
  lines = [
    f"u{user} {' '.join(str(100 * user + n) for n in range(1, 4 + user))}\n"
    for user in range(1, 13)
  ]
  (folder / "sequences.txt").write_text("".join(lines))
  keys = {"data__format": "sequences"}
  keys["data__train"] = str(folder / "sequences.txt")
  return _prepared(folder / "run", **keys), keys


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
  """The made-up store, with ratings, split by time."""
  return _prepared(tmp_path_factory.mktemp("store") / "run")


@pytest.mark.parametrize("items", ["title", "both"])
def test_no_sample_of_training_has_an_item_of_valid_or_test(own_items, items):
  """Every user's last two items are nobody else's: none is ever named."""
  root, keys = own_items
  own = _task(
    root,
    **keys,
    task__auxiliary__item=items,
    task__auxiliary__ids="external",
    **{f"task__auxiliary__weights__{k}": w for k, w in EVERY.items()},
  )
  mixed = own.samples("train")
  assert set(mixed.counts()) == set(samples.KINDS) - {"rating"}
  assert all(mixed.counts().values())
  named = set()
  for n in range(len(mixed)):
    text = mixed.text(n).training
    named |= {int(number) for number in re.findall(r"\b\d{3,4}\b", text)}
  users = range(1, 13)
  train = {100 * u + n for u in users for n in range(1, u + 2)}
  held_out = {100 * u + n for u in users for n in (u + 2, u + 3)}
  assert named == train and not named & held_out
  for split, last in (("valid", 2), ("test", 3)):
    asked = own.samples(split)
    answers = {asked.text(n).answer for n in range(len(asked))}
    assert len(answers) == 12
    for user in users:
      assert any(str(100 * user + user + last) in a for a in answers)


def test_training_draws_no_item_that_only_valid_or_test_know(made_up):
  own = _task(
    made_up,
    **{f"task__auxiliary__weights__{k}": 1.0 for k in samples.KINDS},
  )
  mixed, store = own.samples("train"), own.store
  known = store.catalogue.popularity > 0
  assert not known.all()
  drawn = {
    int(item)
    for n in range(len(store.examples("train")))
    for item in mixed.samples.candidates(n)
  }
  assert known[list(drawn)].all()
  (questions,) = {own._questions("test", "ranking")}
  later = {
    int(item)
    for n in range(len(questions))
    for item in questions.samples.candidates(n)
  }
  assert not known[list(later)].all()  # There they are candidates as others.


def test_few_shots_know_the_rows_that_are_used(made_up):
  whole, few = _task(made_up), _task(made_up, data__num_train=8)
  assert len(few.samples("train")) == 6 * 8
  rows = set(few.store.examples("train").rows.tolist())
  names = [few.samples("train").name(n) for n in range(48)]
  assert {int(name.split()[2]) for name in names} == rows
  assert whole.corpus().fingerprints == few.corpus().fingerprints


def test_what_changes_the_names_of_texts(made_up):
  """Retrieval is asked the same whatever is mixed into training."""

  def names(**changes):
    own = _task(made_up, **changes)
    held = own.samples("test").fingerprints, own.samples("valid").fingerprints
    evaluated = dict(own.evaluated_from())
    asked = evaluated.pop("asked")
    return own.samples("train").fingerprints, held, str(asked), evaluated

  plain = names()
  assert names() == plain
  for change, train, held, asked in (
    ({"seed": 3}, True, False, False),
    ({"task__auxiliary__weights__mim": 0.0}, True, False, False),
    ({"task__auxiliary__mask_rate": 0.3}, True, False, True),
    ({"task__auxiliary__candidates": 5}, True, False, True),
    ({"task__auxiliary__item": "id"}, True, True, True),
    ({"data__sample_seed": 3}, False, False, True),
  ):
    found = names(**change)
    assert (found[0] != plain[0]) == train, change
    assert (found[1] != plain[1]) == held, change
    assert (found[2] != plain[2]) == asked, change
  assert names(ground__cutoffs=(3,))[3] != plain[3]


def test_ratings_that_are_not_there_are_left_out_aloud(own_items, caplog):
  root, keys = own_items
  own = _task(root, **keys)
  with caplog.at_level("WARNING", logger="absl"):
    assert "rating" not in own.samples("train").counts()
  assert "0 different ratings found in the train rows" in caplog.text
  alone = _task(
    root,
    **keys,
    task__auxiliary__weights__retrieval=0.0,
    task__auxiliary__weights__ranking=0.0,
  )
  assert not alone.decodes and own.decodes
  with pytest.raises(errors.UserError, match=r"weights.rating: 0 different"):
    alone.samples("train")


def test_what_cannot_work_is_refused(own_items, tmp_path):
  root, keys = own_items
  weights = {f"task__auxiliary__weights__{k}": 0.0 for k in samples.KINDS[:3]}
  with pytest.raises(errors.UserError, match="one of them above 0 expected"):
    _task(root, **keys, **weights)
  with pytest.raises(errors.UserError, match=r"blank: '\[mask\]' found"):
    _config(task__auxiliary__blank="[mask]")
  many = _task(root, **keys, task__auxiliary__candidates=100)
  with pytest.raises(errors.UserError, match="candidates: 99 others than the"):
    many.selection(None)
  (tmp_path / "a.json").write_text('{"nobody": "Action"}')
  path = str(tmp_path / "a.json")
  other = _task(root, **keys, task__auxiliary__attributes=path)
  with pytest.raises(errors.UserError, match="none of the catalogue's ids"):
    other.samples("train")


def test_answers_are_those_of_the_items(own_items):
  root, keys = own_items
  own = _task(root, **keys, task__auxiliary__item="id")
  answers, places = own.legal_answers(), own.answers_of_items()
  assert len(answers) == len(own.store.catalogue) == len(places)
  assert [answers[n] for n in places] == [
    f'"{n}"' for n in range(len(own.store.catalogue))
  ]
  one = own.samples("test").text(0).answer
  assert one in answers


@pytest.mark.parametrize(
  ("name", "content"),
  [
    ("a.json", '{"1": "Action|Comedy", "2": ["Drama"], "3": ""}'),
    (
      "movies.csv",
      'movieId,title,genres\n1,"Heat, the",Action|Comedy\n2,B,Drama\n'
      "3,C,(no genres listed)\n",
    ),
    ("movies.dat", "1::Heat::Action|Comedy\n2::B: C::Drama\n3::C::\n"),
  ],
)
def test_attributes_are_read_from_three_kinds_of_files(tmp_path, name, content):
  path = tmp_path / name
  path.write_text(content)
  assert attributes.read(path) == {"1": "Action, Comedy", "2": "Drama"}


def test_columns_of_the_items_file_stand_behind_names(tmp_path):
  """Whatever prepare keeps of data.items: texts, lists with bars, numbers."""
  bought = [
    f"u{user},i{(user + n) % 5},{10 * n + user}"
    for user in range(9)
    for n in range(4)
  ]
  (tmp_path / "log.csv").write_text("user,item,time\n" + "\n".join(bought))
  items = ["i0,Heat,Action|Crime,1995", "i1,Big,,1988", "i2,Up,Family,2009"]
  items += ["i3,Jaws,Horror,", "i4,Alien,,"]
  (tmp_path / "items.csv").write_text(
    "item,title,genre,year\n" + "\n".join(items)
  )
  keys = {
    "data__format": "csv",
    "data__interactions": str(tmp_path / "log.csv"),
    "data__items": str(tmp_path / "items.csv"),
  }
  root = _prepared(tmp_path / "run", **keys)
  (tmp_path / "more.json").write_text('{"i1": "funny"}')
  own = _task(
    root,
    **keys,
    task__auxiliary__columns=("genre", "year"),
    task__auxiliary__attributes=str(tmp_path / "more.json"),
  )
  read, ids = own.samples("train").samples.wording, own.store.catalogue
  assert {read.item(n) for n in range(len(ids))} == {
    '"Heat" (Action, Crime; 1995)',
    '"Big" (funny; 1988)',
    '"Up" (Family; 2009)',
    '"Jaws" (Horror)',
    '"Alien"',
  }
  paths = own.store.paths  # Lists are compared by the same columns.
  (groups,) = item_groups.of_columns(["genre"], paths.attributes, len(ids))
  assert groups.groups == ["Action", "Crime", "Family", "Horror"]
  heat = groups.members[ids.index_of_external_id("i0")]
  assert heat.tolist() == [True, True, False, False]
  plain = _task(root, **keys).samples("train").fingerprints
  assert own.samples("train").fingerprints != plain
  with pytest.raises(errors.UserError, match="'brand' found, one of genre, ye"):
    _task(root, **keys, task__auxiliary__columns=("brand",)).samples("train")


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    ("a.json", "[1]", "list found, an object"),
    ("a.json", '{"1": 2}', "a text or a list of texts"),
    ("a.json", "{}", "no attributes of an item found"),
    ("a.csv", "id\n1\n", "ids in the first"),
    ("a.csv", "id,a\n1,2,3\n", "line 2: 3 fields found"),
    ("a.dat", "1,2\n", "line 1: '1,2' found"),
  ],
)
def test_odd_attributes_are_refused(tmp_path, name, content, message):
  (tmp_path / name).write_text(content)
  with pytest.raises(errors.UserError, match=message):
    attributes.read(tmp_path / name)


def test_a_blank_can_be_a_special_token_of_the_model(made_up):
  """As T5's are: marked, so that it is not encoded as the text it is."""
  own = _task(made_up, task__auxiliary__blank="<extra_id_{}>")
  own.store.tokenizer.special.mark = lambda text: f"\ud800{text}"
  found = own.samples("train").samples
  text = found.parts("mlm", int(found.usable("mlm")[0]))
  assert text.input.count("\ud800<extra_id_0>") == 1
  assert text.output.startswith("\ud800<extra_id_0> ")
  assert dataclasses.replace(found.wording).blank(3) == "\ud800<extra_id_3>"
  assert np.array_equal(found.usable("bpr"), np.arange(len(found.examples)))
