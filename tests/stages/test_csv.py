"""The README's five steps as they are printed, on made-up tables."""

import json
import pathlib
import re

import numpy as np
import pytest

from bigrec_jax.results import clusters, metrics
from tests.stages import command

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).resolve().parents[2]
USERS, ITEMS = 60, 30


def _commands():
  """Returns the flags of each command of the five steps."""
  text = (ROOT / "README.md").read_text()
  (steps,) = re.findall(r"## Your own data in five.*?\n## ", text, re.DOTALL)
  joined = steps.replace("\\\n", " ")
  return [
    re.sub(r'"', "", line).split(" --")[1:]
    for line in re.findall(r"python main\.py(.*)", joined)
  ]


def _write_tables(folder):
  """Users of 1 to 12 items; one test user of whom nothing is known."""
  rng = np.random.default_rng(0)
  rows = []
  for user in range(USERS):
    taste = rng.permutation(ITEMS)[:12]
    for place in range(1 + user % 12):
      time = 1_500_000_000 + 86_400 * int(rng.integers(0, 900)) + place
      rows.append(f"u{user};i{taste[place]};{1 + user % 5};{time}")
  log = folder / "purchases.csv"
  log.write_text("user_id;item_id;rating;timestamp\n" + "\n".join(rows) + "\n")
  items = [
    f'i{n}\t"Item, number {n}"\t{n % 3}\tgenre {n % 4}' for n in range(ITEMS)
  ]
  table = "item_id\ttitle\tin_stock\tgenre\n" + "\n".join(items) + "\n"
  (folder / "products.csv").write_text(table)


def _more(root, folder):
  """Returns command lines of lists beside the README's, by name."""
  (folder / "deny.txt").write_text("i1\ni2\ngone\n")
  (folder / "some.csv").write_text("user_id\nu5\nu7\n")
  (folder / "odd.csv").write_text("user_id\nu5\nnobody\nno one\n")
  stock = folder / "products.csv"  # Every third is out of stock.
  reasons = {
    "allow": stock,
    "deny": folder / "deny.txt",
    "explain": True,
    "k": 3000,
  }
  asked = {
    name: reasons | {"users": folder / f"{name}.csv"}
    for name in ("some", "odd")
  }
  return {
    name: [
      "--mode=recommend",
      f"--workdir={root}",
      f"--config.recommend.output={folder / name}.jsonl",
      *(f"--config.recommend.{key}={value}" for key, value in own.items()),
    ]
    for name, own in asked.items()
  }


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
  """The workdir, a reader of lists, and what each command printed."""
  folder = tmp_path_factory.mktemp("csv")
  _write_tables(folder)
  root, lines = folder / "run", []
  found = _commands()
  assert [flags[1 if "config=" in flags[0] else 0] for flags in found] == [
    "mode=prepare",
    "mode=pipeline",
    "mode=recommend",
    "mode=recommend",
  ]
  here = {
    "runs/mine": str(root),
    "purchases.csv": str(folder / "purchases.csv"),
    "products.csv": str(folder / "products.csv"),
    "configs/csv.py": "configs/csv.py:tiny",
    "Halo 3": "item, NUMBER 3",
    "B000FRS9JK": "i7",
  }
  for flags in found:
    own = [f"--{flag.strip()}" for flag in flags if "model.path" not in flag]
    for name, other in here.items():
      own = [flag.replace(name, other) for flag in own]
    lines.append(own)
  more = _more(root, folder)
  results = command.run_in_turn(*lines, *more.values())
  names = ["prepare", "pipeline", "all", "one", *more]
  told = dict(zip(names, results, strict=True))
  for name, (status, text) in told.items():
    assert status == (2 if name == "odd" else 0), text[-3000:]

  def read(name):
    text = (folder / f"{name}.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]

  return root, read, {name: text for name, (_, text) in told.items()}


def test_prepare_says_what_it_understood(steps):
  *_, told = steps
  text = told["prepare"]
  assert "purchases.csv (semicolon): user = user_id, item = item_id" in text
  assert "time = timestamp, rating = rating (epoch seconds, 2017-" in text
  assert "products.csv (tab): item = item_id, title = title; attrib" in text
  assert "attributes: in_stock, genre" in text
  assert "train prompt 3, with its answer:" in text
  assert '  | "Item, number ' in text  # The answer.
  assert "removed 5 of 60 users: with fewer than 2 items" in text
  assert "to keep them: --config.data.windows=tail" in text
  assert re.search(r"test: \d+ examples of \d+ users", text)


def test_all_users_of_the_data_get_lists_with_everything(steps):
  root, _, told = steps
  (kept,) = root.glob("recommendations.*.jsonl")  # Put aside by the next.
  rows = [json.loads(line) for line in kept.read_text().splitlines()]
  assert [row["user"] for row in rows] == [f"u{n}" for n in range(USERS)]
  genres = {f"i{n}": f"genre {n % 4}" for n in range(ITEMS)}
  for number, row in enumerate(rows):
    assert len(row["history"]) == 1 + number % 12
    listed = [entry["external_id"] for entry in row["recommendations"]]
    assert len(listed) == 10 and not set(listed) & set(row["history"])
    assert 0 < row["confidence"] < 1
    for entry in row["recommendations"]:
      assert entry["attributes"]["genre"] == genres[entry["external_id"]]
  assert re.search(r"60 users in [\d.]+ s, [\d.]+ users/s", told["all"])
  # One by hand: titles in any case.
  assert "item, NUMBER 3" in (root / "recommendations.jsonl").read_text()


def test_the_pipeline_trains_cf_and_says_how_sure_lists_are(steps):
  root, *_ = steps
  found = json.loads((root / "metrics/ground_eval.json").read_text())
  assert any(row["injection"] == "cf" for row in found["results"])
  sure = found["confidence"]
  assert {"none", "cf", "popularity+cf", "alone: cf"} <= set(sure)
  for own in sure.values():
    assert set(own["tested"]["10"]) == {"says", "is", "error"}
  chosen = json.loads((root / "chosen.json").read_text())
  assert chosen["confidence"] == sure


def test_files_of_ids_and_reasons(steps):
  _, read, told = steps
  rows = read("some")
  assert [row["user"] for row in rows] == ["u5", "u7"]
  sold = {f"i{n}" for n in range(ITEMS) if n % 3} - {"i1", "i2"}
  for row in rows:
    listed = {entry["external_id"] for entry in row["recommendations"]}
    assert listed == sold - set(row["history"])
    for entry in row["recommendations"]:
      why = entry["why"]
      assert why["decided"] in ("text", "cf", "popularity")
      assert f"place {why['places'][why['decided']]} by" in why["words"]
  assert "1 ids of config.recommend.allow" in told["some"]
  assert "2 of 3 ids" in told["odd"] and "line 3 'nobody'" in told["odd"]


def test_intervals_and_tests_draw_users_who_have_several_rows(steps):
  root, _, _ = steps
  found = json.loads((root / "metrics" / "ground_eval.json").read_text())
  rows, users = (found[f"num_{what}"]["test"] for what in ("examples", "users"))
  with np.load(root / "ranks" / "test.npz") as file:
    owner, ranks = file["user"], file["none"]
  assert len(np.unique(owner)) == users < rows == len(owner)
  own = json.loads((root / "config.json").read_text())["config"]
  about = own["ground"]["bootstrap_samples"], own["seed"]
  drawn = clusters.of_owners(owner)
  (row, *_) = (
    row
    for row in found["results"]
    if (row["split"], row["injection"]) == ("test", "none")
  )
  for k in ("1", "10"):
    wanted = metrics.ci95(ranks, "hr", int(k), *about, drawn)
    assert row["ci95"]["hr"][k] == wanted
  page = (root / "report" / "index.html").read_text()
  assert f"{rows:,} test rows of {users:,} users" in page
