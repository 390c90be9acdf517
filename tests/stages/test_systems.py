"""Rows beside the published ones, on the tiny demo."""

import dataclasses
import html
import json
import shutil

import numpy as np
import pytest

from bigrec_jax import errors
from bigrec_jax.results import ground_file, run_data
from bigrec_jax.stages import ground_eval, likelihood, predictions, report
from bigrec_jax.stages.session import Session
from tests import demo_workdir

pytestmark = pytest.mark.slow
NAMES = ["all beams", "likelihood", "likelihood ratio"]


def _config(**keys):
  config = demo_workdir.config()
  return dataclasses.replace(
    config, ground=dataclasses.replace(config.ground, **keys)
  )


def _read(root):
  with np.load(root / "ranks" / "test.npz") as ranks:
    arrays = {name: ranks[name] for name in ranks}
  return ground_file.read(root / "metrics" / "ground_eval.json"), arrays


@pytest.fixture(scope="module")
def measured(evaluated_demo, tmp_path_factory):
  """A workdir with both systems, beside the one that it was copied from."""
  root = tmp_path_factory.mktemp("systems") / "run"
  shutil.copytree(evaluated_demo, root)
  ground_eval.run(_config(beams="all", likelihood=12), root)
  return root


def test_published_rows_stay_as_they_are(evaluated_demo, measured):
  (old, old_ranks), (new, new_ranks) = map(_read, (evaluated_demo, measured))
  assert not old.systems and not set(NAMES) & set(old.fitted)
  assert [row.to_json() for row in old.results] == [
    row.to_json() for row in new.results
  ]
  assert [row.to_json() for row in old.baselines] == [
    row.to_json() for row in new.baselines
  ]
  for name, ranks in old_ranks.items():
    np.testing.assert_array_equal(new_ranks[name], ranks)
  assert set(new_ranks) - set(old_ranks) == set(NAMES)


def test_each_system_has_rows_and_says_what_valid_taught_it(measured):
  found, _ = _read(measured)
  assert [name for name in found.fitted if name in NAMES] == NAMES
  assert [(row.name, row.split) for row in found.systems] == [
    (name, split) for name in NAMES for split in ("valid", "test")
  ]
  plain = next(found.rows_of(split="valid", injection="none"))
  beams = found.fitted["all beams"]
  assert beams["valid_ndcg@20_first_beam"] == plain.ndcg["20"]
  by_name = {row.name: row for row in found.systems if row.split == "valid"}
  for name in NAMES:
    fitted = found.fitted[name]
    assert fitted["valid_ndcg@20"] == by_name[name].ndcg["20"]
    assert fitted["tried"] >= 1
  assert beams["valid_ndcg@20_of_who_chose"] >= plain.ndcg["20"]
  ratio = found.fitted["likelihood ratio"]
  assert ratio["tried"] == len(likelihood.WEIGHTS)
  plain = found.fitted["likelihood"]["valid_ndcg@20"]
  assert ratio["valid_ndcg@20_of_who_chose"] >= plain


def test_what_is_current_is_not_made_again(measured):
  before = demo_workdir.snapshot(measured / "ranks")
  ground_eval.run(_config(beams="all", likelihood=12), measured)
  assert demo_workdir.snapshot(measured / "ranks") == before


def test_predictions_without_scores_count_by_their_order(measured, tmp_path):
  rows = json.loads((measured / "predictions" / "valid.json").read_text())
  own = predictions.beams(Session(_config(beams="all"), measured), "valid")
  assert not own.by_order
  for row in rows:
    del row["scores"]
    row["predict"] = [*row["predict"][:2], row["predict"][0]]
  path = tmp_path / "valid.json"
  path.write_text(json.dumps(rows))
  config = _config(beams="all")
  given = dataclasses.replace(config.ground.predictions, valid=str(path))
  config = dataclasses.replace(
    config, ground=dataclasses.replace(config.ground, predictions=given)
  )
  found = predictions.beams(Session(config, measured), "valid")
  assert found.by_order
  # Twice the same title is one beam: 1 + 1/3 against 1/2.
  differ = [n for n, texts in enumerate(found.texts.texts) if len(texts) == 2]
  assert differ
  np.testing.assert_allclose(
    np.exp(found.texts.logs[differ]), [[4 / 3, 1 / 2]] * len(differ)
  )


@pytest.mark.parametrize(
  "change, message",
  [
    ({"predict": ["a", 3]}, 'row 1: 3 in "predict" found, texts expected'),
    ({"predict": ["a"], "scores": [1.0, 2.0]}, 'row 1: "scores" are no list'),
    ({"predict": ["a"], "scores": ["x"]}, 'row 1: "scores" are no list'),
  ],
)
def test_odd_beams_are_refused(measured, tmp_path, change, message):
  rows = json.loads((measured / "predictions" / "valid.json").read_text())
  rows[1] |= change
  path = tmp_path / "valid.json"
  path.write_text(json.dumps(rows))
  for asked in ({"beams": "all"}, {"likelihood": 5}):
    config = _config(**asked)
    given = dataclasses.replace(config.ground.predictions, valid=str(path))
    config = dataclasses.replace(
      config, ground=dataclasses.replace(config.ground, predictions=given)
    )
    with pytest.raises(errors.UserError, match=message):
      predictions.beams(Session(config, measured), "valid")


def test_the_report_shows_them(measured):
  report.run(_config(beams="all", likelihood=12), measured)
  text = html.unescape((measured / "report" / "index.html").read_text())
  for name in NAMES:
    label = run_data.label(name)
    assert f"{label} − BIGRec" in text  # A test,
    assert f"{label}: what valid taught it" in text  # and what it is of.
