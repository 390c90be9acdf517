import numpy as np
import pytest

from bigrec_jax import errors
from bigrec_jax.data.prepared import examples, prepare, splits
from bigrec_jax.workdir import paths as paths_lib, storage
from tests.data import settings


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  data, prompt = settings.sections()
  paths = settings.workdir(tmp_path_factory.mktemp("examples"))
  prepare.prepare(data, prompt, paths)
  return paths


def count(paths, split):
  return storage.read_json(paths.manifest)["splits"][split]["num_examples"]


def columns(loaded):
  return loaded.history, loaded.target, loaded.user, loaded.timestamp


@pytest.mark.parametrize("split", splits.SPLITS)
def test_a_sample_is_rows_of_the_whole(prepared, split):
  whole = examples.load_examples(prepared, split, -1, 3)
  assert len(whole) == count(prepared, split)
  assert sorted(whole.rows) == list(range(len(whole)))
  place = np.argsort(whole.rows)
  sample = examples.load_examples(prepared, split, 9, 3)
  assert len(sample) == 9
  choose = splits.train_rows if split == "train" else splits.evaluation_rows
  np.testing.assert_array_equal(sample.rows, choose(len(whole), 9, 3))
  for found, expected in zip(columns(sample), columns(whole), strict=True):
    np.testing.assert_array_equal(found, expected[place[sample.rows]])


def test_all_valid_rows_are_in_time_order_train_rows_are_shuffled(prepared):
  for many in (-1, 10**6):
    valid = examples.load_examples(prepared, "valid", many, 3)
    assert (np.diff(valid.timestamp) >= 0).all()
    assert valid.rows.tolist() == list(range(len(valid)))
  train = examples.load_examples(prepared, "train", -1, 3)
  np.testing.assert_array_equal(
    train.rows, splits.train_rows(len(train), -1, 3)
  )


def test_the_fingerprint_names_the_rows(prepared):
  first, again, other = (
    examples.load_examples(prepared, "train", 9, seed) for seed in (0, 0, 1)
  )
  assert first.fingerprint == again.fingerprint != other.fingerprint
  assert first.take(slice(0, 9)).fingerprint == first.fingerprint
  assert first.take(slice(0, 8)).fingerprint != first.fingerprint


def test_take_keeps_rows_and_texts_together(prepared):
  base = examples.load_examples(prepared, "test", 6, 0)
  texts = {1: ("one", "1"), 4: ("four", "4")}
  given = examples.Examples(
    base.split, base.rows, *columns(base), overrides=texts
  )
  assert given.fingerprint != base.fingerprint
  taken = given.take(np.array([4, 0, 1]))
  assert taken.overrides == {0: ("four", "4"), 2: ("one", "1")}
  np.testing.assert_array_equal(taken.rows, base.rows[[4, 0, 1]])
  np.testing.assert_array_equal(taken.history, base.history[[4, 0, 1]])


def test_texts_survive_the_disk(tmp_path):
  paths = paths_lib.Paths(tmp_path)
  paths.data.mkdir()
  texts = {3: ("instruction", 'in"put\n é'), 1: ("", "")}
  examples.write_overrides(paths, "valid", texts)
  assert examples.read_overrides(paths, "valid") == texts
  assert examples.read_overrides(paths, "test") == {}
  path = tmp_path / "data" / "overrides_valid.jsonl"
  path.write_text(path.read_text() + "[1,")
  with pytest.raises(errors.UserError, match="overrides_valid.jsonl: line 3"):
    examples.read_overrides(paths, "valid")
  for line in (
    '[1, "a"]',
    '[1, "a", null]',
    "7",
    '[null, "a", "b"]',
    "[" * 9999,
  ):
    path.write_text(line + "\n")
    with pytest.raises(errors.UserError, match="overrides_valid.jsonl: line 1"):
      examples.read_overrides(paths, "valid")


def test_unprepared_data_are_named(tmp_path):
  paths = paths_lib.Paths(tmp_path)
  with pytest.raises(errors.UserError, match="manifest.json: not found"):
    examples.load_examples(paths, "train", -1, 0)
  storage.write_json(paths.manifest, {"splits": {}})
  with pytest.raises(errors.UserError, match="splits found, counts expected"):
    examples.load_examples(paths, "train", -1, 0)
  named = dict.fromkeys(("fingerprint", "catalogue", "dataset"), "x")
  manifest = named | {"counts": {"items": 1}, "splits": {}}
  storage.write_json(paths.manifest, manifest)
  with pytest.raises(errors.UserError, match="no split train"):
    examples.load_examples(paths, "train", -1, 0)
