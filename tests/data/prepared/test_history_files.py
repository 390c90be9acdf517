"""Tables of histories and files of ids, as people have them."""

import json

import pyarrow
import pytest
from pyarrow import parquet

from bigrec_jax import errors
from bigrec_jax.config import ColumnsConfig
from bigrec_jax.data.prepared import history_files

NOBODY = ColumnsConfig("", "", "", "", "", "")


def _write(path, content):
  if isinstance(content, dict):
    parquet.write_table(pyarrow.table(content), path)
  else:
    path.write_text(content)
  return path


def _contents(path, named=NOBODY):
  return [row.content for row in history_files.read(path, named)]


EXPECTED = [
  {"user": "a", "history": ["i3", "Doom, II"]},
  {"user": "b", "history": ["i9"]},
  {"user": "c", "history": []},
]
FILES = {
  "users.jsonl": "".join(json.dumps(row) + "\n" for row in EXPECTED),
  "wide.csv": 'user,history\na,"i3|Doom, II"\nb,"[""i9""]"\nc,\n',
  "wide.tsv": 'user\thistory\na\t["i3", "Doom, II"]\nb\ti9\nc\t[]\n',
  "wide.parquet": {
    "user": ["a", "b", "c"],
    "history": [["i3", "Doom, II"], ["i9"], []],
  },
  "long.csv": (
    'user;title;date\na;"Doom, II";2024-05-02T10:00:00.5\nb;i9;2024-05-01\n'
    "a;i3;2024-05-02T10:00:00.25\n"
  ),
  "long.parquet": {
    "customer_id": ["a", "b", "a"],
    "sku": ["i3", "i9", "Doom, II"],
  },
}


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_table_is_the_same_histories(tmp_path, name):
  found = _contents(_write(tmp_path / name, FILES[name]))
  # A row an interaction knows nobody without one.
  assert found == EXPECTED[: 2 if name.startswith("long") else 3]


def test_names_of_the_data_count_where_they_are_there(tmp_path):
  path = _write(tmp_path / "long.csv", "who,user,item\na,x,i3\na,y,i4\n")
  named = ColumnsConfig("who", "product", "", "", "", "")
  assert _contents(path, named) == [{"user": "a", "history": ["i3", "i4"]}]


def test_other_columns_come_back_and_mistakes_are_told_at_once(tmp_path):
  path = _write(
    tmp_path / "wide.parquet",
    {"history": [[3], [4]], "age": [7, None], "seen": [1.5, float("nan")]},
  )
  assert _contents(path) == [
    {"history": [3], "age": 7, "seen": 1.5},
    {"history": [4], "age": None, "seen": None},
  ]
  bad = _write(
    tmp_path / "wide.csv", "history,user\n[1.5],a\n[3],b\n[true],c\n"
  )
  with pytest.raises(errors.UserError) as error:
    _contents(bad)
  text = str(error.value)
  assert "line 2: " in text and "line 4: " in text and "1.5 found" in text
  odd = _write(tmp_path / "long.csv", "user,item,time\na,i,noon\n,i,3\n")
  with pytest.raises(errors.UserError) as error:
    _contents(odd)
  assert "line 2: time 'noon'" in str(error.value)
  assert "line 3: no user" in str(error.value)


@pytest.mark.parametrize(
  ("name", "content", "expected", "out"),
  [
    ("ids.txt", "i1\n\n i2 \ni1\n", ["i1", "i2"], 0),
    ("ids.csv", "product_id\n7\n8\n", ["7", "8"], 0),
    ("ids.csv", "7\n8\n", ["7", "8"], 0),
    ("s.csv", "sku,in_stock\na,1\nb,0\nc,no\nd,true\n", ["a", "d"], 2),
    (
      "s.jsonl",
      '{"asin": "a", "quantity": 0}\n{"asin": "b", "quantity": 3}\n',
      ["b"],
      1,
    ),
    ("s.parquet", {"item_id": [1, 2], "available": [True, False]}, ["1"], 1),
  ],
)
def test_ids_of_lines_and_of_what_is_in_stock(
  tmp_path, name, content, expected, out
):
  found = history_files.read_ids(_write(tmp_path / name, content), "item")
  assert list(found.ids) == expected and found.out == out


def test_files_without_ids_are_named(tmp_path):
  path = _write(tmp_path / "ids.csv", "colour,size\nred,3\n")
  with pytest.raises(errors.UserError, match="columns colour, size found"):
    history_files.read_ids(path, "item")
  path = _write(tmp_path / "s.csv", "sku,stock\na,0\n")
  with pytest.raises(errors.UserError, match="no id found"):
    history_files.read_ids(path, "item")
