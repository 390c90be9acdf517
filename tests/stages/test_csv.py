"""The README's five steps as they are printed, on made-up tables."""

import contextlib
import io
import json
import pathlib
import re

import numpy as np
import pytest

import bigrec_jax
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


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
  """The workdir, the folder of the tables, and what each command printed."""
  folder = tmp_path_factory.mktemp("csv")
  _write_tables(folder)
  root, told = folder / "run", []
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
    with contextlib.redirect_stdout(io.StringIO()) as printed:
      status, line = command.here(*own)
    assert status == 0, line
    told.append(printed.getvalue())
    if "users=all" in own[-1]:
      kept = (root / "recommendations.jsonl").read_text()
  return root, folder, told, [json.loads(x) for x in kept.splitlines()]


def test_prepare_says_what_it_understood(steps):
  _, _, (text, *_), _ = steps
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
  root, _, told, rows = steps
  assert [row["user"] for row in rows] == [f"u{n}" for n in range(USERS)]
  genres = {f"i{n}": f"genre {n % 4}" for n in range(ITEMS)}
  for number, row in enumerate(rows):
    assert len(row["history"]) == 1 + number % 12
    listed = [entry["external_id"] for entry in row["recommendations"]]
    assert len(listed) == 10 and not set(listed) & set(row["history"])
    assert 0 < row["confidence"] < 1
    for entry in row["recommendations"]:
      own = entry["attributes"]
      assert own["genre"] == genres[entry["external_id"]]
  assert re.search(r"60 users in [\d.]+ s, [\d.]+ users/s", told[2])
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
  root, folder, *_ = steps
  stock = folder / "products.csv"  # Every third is out of stock.
  (folder / "deny.txt").write_text("i1\ni2\ngone\n")
  (folder / "some.csv").write_text("user_id\nu5\nu7\n")
  output = folder / "lists.jsonl"
  flags = [
    "--mode=recommend",
    f"--workdir={root}",
    f"--config.recommend.users={folder / 'some.csv'}",
    f"--config.recommend.allow={stock}",
    f"--config.recommend.deny={folder / 'deny.txt'}",
    "--config.recommend.explain=True",
    "--config.recommend.k=3000",
    f"--config.recommend.output={output}",
  ]
  status, line = command.here(*flags)
  assert status == 0, line
  rows = [json.loads(text) for text in output.read_text().splitlines()]
  assert [row["user"] for row in rows] == ["u5", "u7"]
  sold = {f"i{n}" for n in range(ITEMS) if n % 3} - {"i1", "i2"}
  for row in rows:
    listed = {entry["external_id"] for entry in row["recommendations"]}
    assert listed == sold - set(row["history"])
    for entry in row["recommendations"]:
      why = entry["why"]
      assert why["decided"] in ("text", "cf", "popularity")
      assert f"place {why['places'][why['decided']]} by" in why["words"]
  (folder / "some.csv").write_text("user_id\nu5\nnobody\nno one\n")
  status, line = command.here(*flags)
  assert status == 2 and "2 of 3 ids" in line and "line 3 'nobody'" in line


def test_tables_of_histories_give_the_same_lists(steps):
  """As CSV, long and wide, and as Parquet; the library agrees."""
  import pyarrow
  from pyarrow import parquet

  root, folder, *_ = steps
  asked = {"a": ["i3", "i7"], "b": ["i9"]}
  (folder / "long.csv").write_text(
    "user,item,date\na,i7,2024-05-02\nb,i9,2024-05-01\na,i3,2024-05-01\n"
  )
  (folder / "wide.csv").write_text('user,history\na,i3|i7\nb,"[""i9""]"\n')
  parquet.write_table(
    pyarrow.table({"user": list(asked), "history": list(asked.values())}),
    folder / "wide.parquet",
  )
  lists = bigrec_jax.Recommender.load(root)(list(asked.values()), k=4)
  expected = [[item.external_id for item in own] for own in lists]
  assert 0 < lists[0].confidence < 1
  for name in ("long.csv", "wide.csv", "wide.parquet"):
    output = folder / f"{name}.jsonl"
    status, line = command.here(
      "--mode=recommend",
      f"--workdir={root}",
      f"--config.recommend.histories={folder / name}",
      "--config.recommend.k=4",
      f"--config.recommend.output={output}",
    )
    assert status == 0, line
    rows = [json.loads(text) for text in output.read_text().splitlines()]
    assert [row["user"] for row in rows] == list(asked)
    found = [
      [entry["external_id"] for entry in row["recommendations"]] for row in rows
    ]
    assert found == expected
