"""Cells and tables of docs/quality.md."""

import json

import numpy as np
import pytest

from benchmarks.quality import (
  cells,
  cf_cells,
  claims,
  datasets,
  lm_cells,
  page,
  product,
  segments,
  systems,
  todo,
)
from bigrec_jax import errors
from bigrec_jax.data.prepared.examples import Examples
from bigrec_jax.results import (
  ground_file,
  metrics,
  rows as rows_lib,
  segments as of_users,
  significance,
)


def examples(split, history, target):
  width = max(len(h) for h in history)
  padded = [h + [-1] * (width - len(h)) for h in history]
  number = np.arange(len(target))
  return Examples(
    split,
    number,
    np.array(padded, np.int32),
    np.array(target, np.int32),
    number,
    number,
  )


def test_packed_ranks_come_back():
  ranks = np.random.default_rng(0).integers(0, 1 << 20, 2000)
  assert (cells.unpack(cells.pack(ranks)) == ranks).all()
  assert len(cells.pack(ranks % 10_000)) < 6000
  with pytest.raises(ValueError, match="no uint32"):
    cells.pack(np.array([-1]))


def test_labels_are_those_of_a_loop():
  rng = np.random.default_rng(1)
  num_items = 40
  train_history = [
    rng.integers(0, num_items, rng.integers(1, 11)).tolist() for _ in range(60)
  ]
  train_target = rng.integers(0, num_items, 60).tolist()
  held_history = [[]] + [
    rng.integers(0, num_items, n).tolist() for n in (1, 5, 6, 9, 10, 10)
  ]
  held_target = rng.integers(0, num_items, 7).tolist()
  # One transition that is known.
  held_history[1] = [train_history[0][-1]]
  held_target[1] = train_target[0]
  train = examples("train", train_history, train_target)
  held = examples("test", held_history, held_target)
  pairs = set()
  for history, target in zip(train_history, train_target, strict=True):
    sequence = [*history, target]
    pairs |= set(zip(sequence, sequence[1:], strict=False))
  expected = [
    int(bool(h) and (h[-1], t) in pairs)
    for h, t in zip(held_history, held_target, strict=True)
  ]
  found = of_users.known_transitions(held, train, num_items)
  assert found.tolist() == expected and expected[1] == 1
  names = [segments.HISTORIES[n] for n in segments.history_labels(held)]
  assert names == ["1 to 5"] * 3 + ["6 to 9"] * 2 + ["10"] * 2
  popularity = np.array([5, 0, 9, 1] + [2] * 16)  # Two of 20 are popular.
  labels = segments.target_labels(np.arange(4), popularity)
  assert [segments.TARGETS[n] for n in labels] == [
    "popular",
    "cold",
    "popular",
    "seen",
  ]


def test_a_few_popular_items_are_never_cold():
  popularity = np.zeros(20, np.int64)
  popularity[3] = 1  # The second of the most popular tenth has no purchase.
  labels = segments.target_labels(np.arange(20), popularity)
  assert labels[3] == 2 and (np.delete(labels, 3) == 0).all()


def test_rows_of_an_evaluation(tmp_path):
  rng = np.random.default_rng(2)
  n = 30
  arrays = {
    split: {
      "none": rng.integers(0, 100, n),
      "cf": rng.integers(0, 100, n),
      "all_beams": rng.integers(0, 100, n),
      "cf:two_gammas": rng.integers(0, 100, n),
    }
    for split in cells.SPLITS
  }
  numbers = {"1": 0.25}

  def row(injection, protocol, gamma):
    about = "test", injection, protocol, gamma
    return rows_lib.MetricRow(*about, numbers, numbers, {})

  found = ground_file.GroundFile(
    100,
    {"valid": n, "test": n},
    {},
    [
      row("none", "single_gamma", None),
      row("cf", "single_gamma", 1.0),
      row("cf", "bigrec", {"ndcg": {"1": 1.0}, "hr": {"1": 1.0}}),
      row("cf", "two_gammas", {"popularity": 1.0, "cf": 2.0}),
    ],
    [],
    {},
    {},
    systems=[
      rows_lib.BaselineRow(name, split, numbers, numbers, {})
      for name in ("all_beams", "other")
      for split in cells.SPLITS
    ],
  )
  measured = lm_cells.measured_rows(found, arrays)
  assert list(measured) == [
    "bigrec",
    "bigrec+cf",
    "bigrec+cf:bigrec",
    "bigrec+cf:two_gammas",
    "all_beams",
    "other",
  ]
  for name, key in (
    ("bigrec", "none"),
    ("bigrec+cf", "cf"),
    ("all_beams", "all_beams"),
  ):
    for split in cells.SPLITS:
      own = measured[name][split]
      assert (cells.unpack(own["ranks"]) == arrays[split][key]).all()
      assert own["hr"]["10"] == metrics.hit_rate(arrays[split][key], 10)
  published = {"test": {"ndcg": numbers, "hr": numbers}}
  assert measured["bigrec+cf:bigrec"] == published
  assert set(measured["bigrec+cf:two_gammas"]) == {"test"}
  assert measured["other"]["valid"] == {"ndcg": numbers, "hr": numbers}


def write(folder, system, rows, seed, ranks, row=None):
  name = cells.Name("amazon-toys", system, rows, seed)
  by_split = {split: cells.measured(ranks) for split in cells.SPLITS}
  measured = {row or system: by_split}
  if system == "smollm2":
    moved = np.where(ranks > 4, ranks // 2, ranks)
    measured["bigrec+cf"] = {s: cells.measured(moved) for s in cells.SPLITS}
  prints = {"catalogue": "c", "valid": "v", "test": "t"}
  settings = {
    "learning_rate": 1e-3,
    "weight_decay": 0.0,
    "tried": 3,
    "epochs": 4,
    "seconds_to_choose": 5.0,
    "lora.rank": 16,
    "train.learning_rate": 1e-3,
    "train.num_epochs": 1,
    "valid_loss": [2.5],
  }
  cells.write(folder, name, measured, settings, prints, {"train": 1.0})


@pytest.fixture
def made_up(tmp_path):
  """Cells in which the language model is better at every cutoff but 1."""
  rng = np.random.default_rng(3)
  for seed in range(3):
    good = rng.integers(1, 60, 2000)
    bad = rng.integers(1, 600, 2000)
    write(tmp_path, "smollm2", 1024, seed, good, "bigrec")
    write(tmp_path, "sasrec", 1024, seed, bad)
    write(tmp_path, "sasrec", -1, seed, bad)
  return tmp_path


def test_tables_are_made_of_cells(made_up):
  found = cells.read_all(made_up)
  assert len(found) == 9
  listed = systems.listed(found)
  names = [(one.title, one.rows, len(one.cells)) for one in listed]
  assert names == [
    ("SASRec (BCE)", 1024, 3),
    ("SASRec (BCE)", -1, 3),
    ("SmolLM2", 1024, 3),
    ("SmolLM2 + CF, one gamma", 1024, 3),
  ]
  lm = next(one for one in listed if one.title == "SmolLM2")
  expected = np.mean([metrics.hit_rate(r, 10) for r in lm.ranks])
  assert lm.metric("test", "hr", 10) == pytest.approx(expected, abs=1e-12)
  tables = page.tables(made_up)
  line = next(
    x for x in tables["amazon-toys"].split("\n") if "| SmolLM2 |" in x
  )
  assert f"{expected:.4f}".removeprefix("0") in line
  few = tables["few-shot"].split("\n")[-1]
  # Nobody hits at 1, and 5 larger cutoffs are beyond chance.
  assert few.count("*") == 5 and "holds in part" in few
  injected = tables["injection"].split("\n")[-1]
  assert "0 of 6,000" in injected and "| holds |" in injected
  assert "not shown" in tables["more rows"]
  assert "better" not in tables["more rows"]
  best = tables["best single"].split("\n")[-1]
  assert "SmolLM2 + CF, one gamma less SmolLM2" in best
  assert tables["amazon-books"] == "No cells yet."


def test_the_same_texts_are_one_row(made_up):
  ranks = np.arange(2000)
  for row in ("bigrec", "likelihood ratio"):
    write(made_up / row, "smollm2-likelihood", 1024, 0, ranks, row)
  cell = made_up / "bigrec" / "amazon-toys" / "smollm2-likelihood-1024-0.json"
  found = cells.read_all(made_up)
  again = [json.loads(cell.read_text())]
  assert len(systems.listed(found + again)) == len(systems.listed(found))
  new = cells.read_all(made_up / "likelihood ratio")
  (one,) = systems.listed(new)
  assert one.title == "SmolLM2, candidates judged: likelihood ratio"


def test_what_is_made_is_no_longer_to_do(made_up):
  def of_sasrec():
    lines = todo.commands(made_up)
    return [x for x in lines if "toys" in x and "--system=sasrec" in x]

  lines = of_sasrec()
  few = "cf --data=amazon-toys --rows=1024 --system=sasrec"
  assert few in lines  # Three of five seeds are there.
  lm = "lm --data=amazon-toys --rows=1024 --seed={} --system=smollm2"
  left = list(todo.commands(made_up))
  assert not {lm.format(seed) for seed in range(3)} & set(left)
  assert lm.format(0) + "-minilm" in left
  for seed in (3, 4):
    write(made_up, "sasrec", 1024, seed, np.arange(2000))
  assert few not in of_sasrec() and len(of_sasrec()) == len(lines) - 1


def test_a_page_is_filled_and_nothing_else_in_it_changes(made_up):
  tables = page.tables(made_up)
  empty = "\n".join(
    f"text {name}\n<!-- {name} -->\nformer\n<!-- end {name} -->"
    for name in tables
  )
  once = page.filled(empty, tables)
  assert "former" not in once and page.filled(once, tables) == once
  for name, table in tables.items():
    assert f"text {name}" in once and table in once
  with pytest.raises(ValueError, match="no place for"):
    page.filled("", tables)


def test_the_page_has_the_tables_of_the_committed_cells():
  text = page.PAGE.read_text(encoding="utf-8")
  assert page.filled(text, page.tables(cells.RESULTS)) == text


def test_committed_cells_measure_what_their_ranks_say():
  found = cells.read_all(cells.RESULTS)
  assert found
  for cell in found:
    assert "-dirty" not in cell["commit"]
    for by_split in cell["measured"].values():
      for row in by_split.values():
        if "ranks" in row:
          own = cells.unpack(row["ranks"])
          assert len(own) == datasets.USERS
          again = metrics.summarise(own, cells.CUTOFFS)
          assert {k: row[k] for k in again} == again


def test_cells_of_other_users_are_not_mixed(made_up):
  path = made_up / "amazon-toys" / "sasrec-all-0.json"
  cell = json.loads(path.read_text())
  cell["fingerprints"]["test"] = "other"
  path.write_text(json.dumps(cell))
  with pytest.raises(ValueError, match="other users"):
    cells.read_all(made_up)


def test_the_question_of_growth_is_that_of_a_loop():
  rng = np.random.default_rng(4)
  plain, other = rng.integers(0, 90, (2, 1, 500))
  (answer,) = claims.grows(plain, {"x": other})
  total = 0
  for a, b in zip(plain[0], other[0], strict=True):
    total += (int(b < 50) - int(a < 50)) - (int(b < 5) - int(a < 5))
  assert answer.difference == pytest.approx(total / 500, abs=1e-12)
  assert claims.moved(plain, other) == sum(
    (a == 0) != (b == 0) for a, b in zip(plain[0], other[0], strict=True)
  )


def test_a_summary_names_the_cutoffs_beyond_chance():
  def answer(k, difference, p):
    return claims.Answer("x", k, difference, (0.0, 0.0), p, p)

  found = [answer(1, -0.1, 0.01), answer(5, 0.1, 0.2), answer(10, 0.1, 0.01)]
  assert claims.direction(found) == "better at 10; worse at 1"
  assert claims.direction(found[1:]) == "better at 10"
  assert claims.direction(found[1:2]) == "not shown"
  assert claims.verdict(found) == "does not hold"


def test_a_language_model_needs_cells_to_inject(tmp_path):
  at = product.Place(
    "amazon-toys", tmp_path, 40, tmp_path / "r", tmp_path / "c", tmp_path / "w"
  )
  with pytest.raises(errors.UserError, match="no CF scores of all rows"):
    lm_cells.injected(at, 0)
  for seed, system in ((0, "sasrec"), (1, "sasrec"), (0, "dros")):
    name = at.name(system, -1, seed)
    ranks = np.full(40, 0 if system == "dros" else 30)
    rows = {system: {s: cells.measured(ranks) for s in cells.SPLITS}}
    prints = {"catalogue": "c", "valid": "v", "test": "t"}
    cells.write(at.results, name, rows, {}, prints, {})
    cf_cells.scores(at, name).mkdir(parents=True)
  model, folder = lm_cells.injected(at, 1)
  assert (model, folder.name) == ("dros", "dros-all-0")
  with pytest.raises(errors.UserError, match="--system: 'smollm2-x'"):
    lm_cells.make(at, "smollm2-x", 1024, 0)


@pytest.mark.parametrize("name", datasets.DATA)
def test_data_sets_are_valid_configurations(name, tmp_path):
  config = datasets.configuration(datasets.flags(name, tmp_path, 7))
  assert (config.data.num_valid, config.data.num_test) == (7, 7)
  assert str(tmp_path) in config.data.train + config.data.raw_dir


def test_what_the_base_recites_has_a_table_of_its_own(made_up):
  measure = {"own": 0.25, "exchanged": 0.125, "difference": 0.125}
  measure |= {"ci95": [0.1, 0.15], "p": 1e-5}
  probe = {"num_titles": 400, "eligible": 9000}
  probe |= dict.fromkeys(("exact", "agreement", "log_probability"), measure)
  name = cells.Name("amazon-toys", "smollm2-contamination", 0, 0)
  prints = {"catalogue": "c", "valid": "v", "test": "t"}
  cells.write(made_up, name, {}, {"contamination": probe}, prints, {})
  lines = page.tables(made_up)["contamination"].split("\n")[2:]
  assert len(lines) == 3
  shown = ["Amazon Toys", "400 of 9,000", "nats a token", "0.2500", "0.1250"]
  shown += ["+.1250", "+.1000 to +.1500", "< .0001"]
  assert lines[-1] == f"| {' | '.join(shown)} |"


def test_rows_of_one_user_are_drawn_together(made_up):
  owners = np.repeat([7, 3, 9], [1000, 600, 400])
  assert segments.numbered(owners)[[0, 1000, 1999]].tolist() == [0, 1, 2]
  alone = page.tables(made_up)["few-shot"]
  path = made_up / "amazon-toys" / cells.USERS
  packed = cells.pack(segments.numbered(owners))
  labels = dict.fromkeys(("target", "transition", "history"), packed)
  content = {"labels": {"test": labels}, "owners": {"test": packed}}
  path.write_text(json.dumps(content))
  users = cells.owners(made_up, "amazon-toys")
  assert len(users) == 3
  assert len(cells.owners(made_up, "amazon-toys", 1001)) == 2
  together = page.tables(made_up)["few-shot"]
  assert together != alone
  found = systems.listed(cells.read_all(made_up), {"amazon-toys": users})
  few, other = (
    next(x for x in found if (x.system, x.rows) == (name, 1024)).ranks
    for name in ("smollm2", "sasrec")
  )
  a, b = claims.hits(few, 10), claims.hits(other, 10)
  expected = significance.compare_gains(a, b, claims.EFFORT, users).ci95
  low, high = (page.signed(end) for end in expected)
  assert f"{low} to {high}" in together
