import dataclasses

import numpy as np
import pytest

from bigrec_jax import errors
from bigrec_jax.cf import scores
from bigrec_jax.cf.factors import Factors
from bigrec_jax.data.prepared.catalogue import Catalogue
from tests.cf import worlds

ITEMS, NUMBER = 11, 7
RNG = np.random.default_rng(0)
EXAMPLES = worlds.examples(
  "test", [(u, [u % ITEMS, 3], (2 * u) % ITEMS) for u in range(NUMBER)], 4
)
CATALOGUE = Catalogue(
  tuple(f"id{i}" for i in range(ITEMS)),
  tuple(f"Title {i}" for i in range(ITEMS)),
  np.arange(ITEMS),
)
FACTORS = Factors(
  RNG.normal(size=(NUMBER, 3)).astype(np.float32),
  RNG.normal(size=(ITEMS, 3)).astype(np.float32),
)
DENSE = FACTORS.states @ FACTORS.items.T


def _write(path, source=FACTORS, limit=1e9):
  scores.write_scores(path, source, EXAMPLES, CATALOGUE, {"seed": 0}, limit)


@pytest.mark.parametrize("kind", ["factors", "rows", "factors only"])
def test_scores_come_back_aligned(tmp_path, monkeypatch, kind):
  monkeypatch.setattr(scores, "_BLOCK", 3 * ITEMS)  # Several blocks.
  path = tmp_path / "cf" / "sasrec" / "test.npy"
  source = (lambda part: DENSE[part]) if kind == "rows" else FACTORS
  _write(path, source, limit=10 if kind == "factors only" else 1e9)
  assert scores.exists(path)
  assert path.exists() == (kind != "factors only")
  found = scores.load_scores(path, EXAMPLES, CATALOGUE)
  assert found.shape == (NUMBER, ITEMS) and found.dtype == np.float32
  np.testing.assert_allclose(found[2:5], DENSE[2:5], rtol=1e-5, atol=1e-6)
  rows = np.array([6, 0])
  np.testing.assert_allclose(found[rows], DENSE[rows], rtol=1e-5, atol=1e-6)


def test_permuted_examples_are_refused_with_the_first_rows(tmp_path):
  path = tmp_path / "test.npy"
  _write(path)
  order = np.arange(NUMBER)
  order[[2, 5]] = [5, 2]
  with pytest.raises(errors.UserError, match="2 of 7 rows differ.*row 2, 5"):
    scores.load_scores(path, EXAMPLES.take(order), CATALOGUE)
  with pytest.raises(errors.UserError, match="7 rows found, 4 expected"):
    scores.load_scores(path, EXAMPLES.take(slice(0, 4)), CATALOGUE)


def test_another_catalogue_is_refused_with_the_first_items(tmp_path):
  path = tmp_path / "test.npy"
  _write(path)
  titles = list(CATALOGUE.titles)
  titles[4] = "Another"
  other = dataclasses.replace(CATALOGUE, titles=tuple(titles))
  with pytest.raises(errors.UserError, match="1 of 11 items differ.*item 4"):
    scores.load_scores(path, EXAMPLES, other)


@pytest.mark.parametrize(
  ("array", "message"),
  [
    (DENSE[:, :-1], r"\[7, 10\] scores found.*\[7, 11\] expected"),
    (np.pad(DENSE, ((0, 0), (0, 1))), "padding item"),
    (DENSE.astype(np.float64), "float64 with 2 axes found"),
    (np.where(DENSE == DENSE[4, 6], np.nan, DENSE), "row 4, column 6: nan"),
  ],
)
def test_external_files_are_checked(tmp_path, array, message):
  path = tmp_path / "val.npy"
  np.save(path, array)
  with pytest.raises(errors.UserError, match=message):
    scores.load_scores(path, EXAMPLES, CATALOGUE)


def test_a_good_external_file_is_taken(tmp_path):
  path = tmp_path / "val.npy"
  np.save(path, DENSE)
  found = scores.load_scores(path, EXAMPLES, CATALOGUE)
  np.testing.assert_array_equal(found, DENSE)


def test_predictions_of_the_same_name_are_no_record(tmp_path):
  path = tmp_path / "valid.npy"
  np.save(path, DENSE)
  path.with_suffix(".json").write_text('[{"predict": ["Doom"]}]')
  found = scores.load_scores(path, EXAMPLES, CATALOGUE)
  np.testing.assert_array_equal(found, DENSE)


def test_missing_and_damaged_files_are_named(tmp_path):
  path = tmp_path / "test.npy"
  with pytest.raises(errors.UserError, match="train_cf"):
    scores.load_scores(path, EXAMPLES, CATALOGUE)
  path.write_bytes(b"\x93NUMPY nonsense")
  with pytest.raises(errors.UserError, match="test.npy: no .npy array"):
    scores.load_scores(path, EXAMPLES, CATALOGUE)
  _write(path)
  content = path.read_bytes()
  path.write_bytes(content[: len(content) // 2])
  with pytest.raises(errors.UserError, match="test.npy: no .npy array"):
    scores.load_scores(path, EXAMPLES, CATALOGUE)


def test_a_kill_while_writing_leaves_nothing_that_passes_for_whole(tmp_path):
  path = tmp_path / "test.npy"
  _write(path)

  def killed(part):
    if part.start:
      raise KeyboardInterrupt
    return DENSE[part]

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(scores, "_BLOCK", 3 * ITEMS)
    with pytest.raises(KeyboardInterrupt):
      _write(path, killed)
  assert not scores.exists(path)
  with pytest.raises(errors.UserError, match="cut short"):
    scores.load_scores(path, EXAMPLES, CATALOGUE)
