"""The table of systems: cells from the product's rows, and tables of cells."""

import numpy as np
import pytest

from benchmarks.quality import cells, page as quality_page
from benchmarks.systems import make, page, recipes, shared
from bigrec_jax import config as config_lib, errors
from bigrec_jax.results import metrics, rows

PRINTS = {"catalogue": "c", "valid": "v", "test": "t"}
DATA = "ml-latest-small"


@pytest.mark.parametrize("data", shared.DATA)
def test_every_system_is_a_valid_configuration_of_the_same_rows(data, tmp_path):
  at = shared.place(data, "small", tmp_path, shared.USERS)
  for system in page.of(data):
    if system in page.RANKERS:
      continue
    values = recipes.RECIPES[system].configuration()
    values.update_from_flattened_dict(make.changes(at, system, 1, "base"))
    config = config_lib.from_config_dict(values)
    assert config.seed == 1 and config.model.path == "base"
    own = config.data
    assert (own.num_train, own.num_valid, own.num_test) == (
      shared.TRAIN,
      shared.VALID,
      shared.USERS,
    )
    assert own.max_history == 10 and config.cf.num_train == -1
  assert ("tallrec" in page.of(data)) == (data == DATA)


def test_values_of_a_row():
  rng = np.random.default_rng(0)
  ranks = rng.integers(0, 30, 50)
  row = rows.TaskRow("test", "x", {"auc": 0.5}, {"auc": (0.4, 0.6)}, 50, (0,))
  found = make.values_of(row, {"rank": ranks})
  assert (cells.unpack(found["ranks"]) == ranks).all()
  assert found["hr"]["10"] == metrics.hit_rate(ranks, 10)
  # Of lists that differ by their length, each cutoff has its own.
  by_k = {f"rank@{k}": rng.integers(0, k + 1, 50) for k in shared.CUTOFFS}
  found = make.values_of(row, by_k)
  for k in shared.CUTOFFS:
    assert found["ndcg"][str(k)] == metrics.ndcg(by_k[f"rank@{k}"], k)
  assert (cells.unpack(found["ranks"]) == by_k["rank@10"]).all()
  labels, scores = rng.random(50) < 0.5, rng.integers(0, 9, 50) / 7
  each = make.values_of(row, {"score": scores, "label": labels})["each"]
  again = metrics.roc_auc(
    cells.unpack(each["label"]).astype(bool), cells.unpack(each["score"])
  )
  assert again == metrics.roc_auc(labels, scores)
  hits = np.array([1.0, 0.5, 1 / 3])
  each = make.values_of(row, {"hit_ratio@1": hits})["each"]["hit_ratio@1"]
  assert np.abs(cells.unpack(each) / 1e6 - hits).max() < 1e-6


def write(folder, system, seed, measured):
  name = cells.Name(DATA, system, shared.TRAIN, seed)
  spent = {"cpu_seconds": {"train": 60.0, "evaluate": 5.0}, "train_tokens": 1e6}
  settings = {"cost": spent}
  cells.write(folder / "small", name, measured, settings, PRINTS, {})


@pytest.fixture
def made_up(tmp_path):
  rng = np.random.default_rng(3)
  bad, good = (
    rng.integers(0, 400, shared.USERS),
    rng.integers(0, 40, shared.USERS),
  )
  for seed in range(2):
    write(tmp_path, "sasrec", seed, {"sasrec": {"test": make.ranking(bad)}})
    own = {"beams": {"test": make.ranking(good)}}
    write(tmp_path, "msl", seed, own)
  of_20 = {
    "lmrecsys": {"test": make.ranking(rng.integers(0, 2, shared.USERS))},
    "sasrec": {"test": make.ranking(rng.integers(0, 20, shared.USERS))},
  }
  write(tmp_path, "lmrecsys", 0, of_20)
  hit = {"hit_ratio@1": cells.pack(np.full(shared.USERS, 1_000_000))}
  valid = {
    "n": shared.USERS,
    "metrics": {"valid_ratio": 0.75},
    "ci95": {},
    "each": hit,
  }
  write(tmp_path, "llara", 0, {"llara": {"test": valid}})
  return tmp_path


def test_tables_are_made_of_cells(made_up):
  found = page.tables(made_up)
  whole = found[f"{DATA}: all items"].split("\n")
  assert [line.split(" | ")[0] for line in whole[2:]] == [
    "| SASRec (full cross-entropy)",
    "| MSL (BIGRec's texts, ATS)",
  ]
  # Better beyond chance than SASRec; there is no BIGRec to compare with.
  assert "* (" in whole[3] and whole[3].endswith(" |  |")
  few = found[f"{DATA}: 20 candidates"].split("\n")
  assert few[2].startswith("| lmrecsys | LMRecSys |") and "* (" in few[2]
  assert few[4].startswith("| llara | LLaRA |") and "1.0000" in few[4]
  assert (
    "| LLaRA | valid_ratio | 1,000 | 1 | .7500 |"
    in (found[f"{DATA}: other measures"])
  )
  assert (
    "| msl | a LLaMA of 0.7 M parameters | 2 | 1,000,000 | 60 | 5 |"
    in (found[f"{DATA}: cost"])
  )
  assert found["amazon-toys: all items"] == "No cells yet."
  assert "no ratings" in found["amazon-toys: not ranked"]
  left = list(page.todo(made_up))
  assert f"--data={DATA} --seed=0 --system=llara" not in left
  assert f"--data={DATA} --seed=1 --system=llara" in left


def test_the_page_has_the_tables_of_the_committed_cells():
  text = page.PAGE.read_text(encoding="utf-8")
  assert quality_page.filled(text, page.tables(shared.RESULTS)) == text


def test_committed_cells_measure_what_their_ranks_say():
  folders = sorted(path for path in shared.RESULTS.glob("*") if path.is_dir())
  for cell in (own for folder in folders for own in cells.read_all(folder)):
    assert "-dirty" not in cell["commit"]
    for by_split in cell["measured"].values():
      own = by_split["test"]
      if "ranks" in own:
        ranks = cells.unpack(own["ranks"])
        assert len(ranks) == shared.USERS
        again = metrics.summarise(ranks, (10,))
        assert {key: own[key]["10"] for key in again} == {
          key: value["10"] for key, value in again.items()
        }


def test_a_system_that_cannot_run_says_why(tmp_path):
  at = shared.place("amazon-toys", "small", tmp_path, 40)
  with pytest.raises(errors.UserError, match="not of amazon-toys: its rows"):
    make.make(at, "tallrec", 0)
  with pytest.raises(errors.UserError, match="--system: 'x' found, one of"):
    make.make(at, "x", 0)
