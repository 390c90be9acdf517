"""Every reader of text reads what Windows, Excel and Unix write."""

import json

import pytest

from bigrec_jax import errors
from bigrec_jax.config import ColumnsConfig
from bigrec_jax.data.formats import (
  attributes,
  encodings,
  mistakes,
  raw_files,
  tables,
  title_files,
)
from bigrec_jax.data.prepared import doctor as doctor_lib, new_items

# As a spreadsheet writes it: in Latin-1 its quotes would be control characters.
TITLE = "“Café” – 5 €"
NAMED = ColumnsConfig(*[""] * 6)
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "cp1252"]


@pytest.fixture
def doctor():
  return doctor_lib.Doctor("test")


def written(path, text, encoding):
  mark = b"\xfe\xff" if encoding == "utf-16-be" else b""
  path.write_bytes(mark + text.encode(encoding))
  return path


def rows_of(path, doctor, places):
  wrong = mistakes.Mistakes(path)
  found = tables.read(
    tables.peek(path), places, [], "auto", doctor, wrong, list
  )
  assert not len(wrong)
  return [row for _, row in found]


def of_table(path, doctor):
  return dict(rows_of(path, doctor, [0, 1]))


def of_objects(path, doctor):
  return {"1": rows_of(path, doctor, [1])[0][0]}


def of_lines(path, doctor):
  rows = (line.split(",") for _, line in raw_files.lines(path, doctor))
  return {key: title for key, title in rows}


def of_new_items(path, doctor):
  return {item.external_id: item.title for item in new_items.read(path, NAMED)}


def of_rows(path, doctor):
  return list(raw_files.json_rows(path, doctor))[0][1]


READERS = {
  "table.csv": ("id,title\n1,{}\n2,b\n", of_table),
  "log.csv": ("0,a\n1,{}\n", of_lines),
  "titles.csv": (
    "id,title\n1,{}\n",
    lambda p, d: title_files.read(p, "auto", d),
  ),
  "id2name.txt": ("{}\t1\nb\t2\n", lambda p, d: title_files.read(p, "auto", d)),
  "titles.json": ('{{"1": "{}"}}', lambda p, d: title_files.read(p, "auto", d)),
  "rows.json": ('[{{"1": "{}"}}]', of_rows),
  "objects.jsonl": ('{{"a": "1", "b": "{}"}}\n', of_objects),
  "genres.json": ('{{"1": "{}"}}', lambda p, d: attributes.read(p)),
  "movies.dat": ("1::a::{}\n", lambda p, d: attributes.read(p)),
  "new.csv": ("item_id,title\n1,{}\n", of_new_items),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_reader_reads_every_encoding(tmp_path, doctor, name, encoding):
  text, read = READERS[name]
  path = written(tmp_path / name, text.format(TITLE), encoding)
  assert read(path, doctor)["1"] == TITLE
  found = doctor.to_dict()
  if encoding == "cp1252" and name not in (
    "genres.json",
    "movies.dat",
    "new.csv",
  ):
    (told,) = (own for own in found["findings"] if own["count"])
    assert told["what"].startswith(
      f"lines of {name} that aren't UTF-8, read as"
    )
    assert told["count"] == 1 and "Café" in told["examples"][0]


def test_a_damaged_line_is_told_and_costs_no_other(tmp_path, doctor):
  path = tmp_path / "log.txt"
  raw = "日本\n“\n".encode() + b"bad \xe2\x80 and \x81\n"
  path.write_bytes(raw)
  lines = [line for _, line in raw_files.lines(path, doctor)]
  assert lines == ["日本", "“", "bad � and �"]
  (told,) = doctor.to_dict()["findings"]
  assert "U+FFFD" in told["what"] and told["examples"][0].startswith("line 3")


@pytest.mark.parametrize(
  ("encoding", "raw"),
  [
    ("utf-8", b"id,title\n1,a\n2,\xe9\n"),
    ("cp1252", b"id,title\n1,a\n2,\x81\n"),
    ("auto", "id,title\n1,a\n2,b".encode("utf-16")[:-1]),
  ],
)
def test_what_is_not_of_a_named_encoding_is_an_error(
  tmp_path, doctor, encoding, raw
):
  path = tmp_path / "titles.csv"
  path.write_bytes(raw)
  with pytest.raises(errors.UserError, match="titles.csv: line 3: .* expected"):
    title_files.read(path, encoding, doctor)
  with pytest.raises(errors.UserError, match="data.encoding may be"):
    encodings.Text(path, encoding).whole()


def test_utf16_without_its_mark_can_be_named(tmp_path, doctor):
  path = tmp_path / "titles.csv"
  path.write_bytes(f"id,title\n1,{TITLE}\n".encode("utf-16-le"))
  assert title_files.read(path, "utf-16", doctor) == {"1": TITLE}


def test_long_json_is_judged_a_string_at_a_time(tmp_path, monkeypatch, doctor):
  monkeypatch.setattr(raw_files, "_CHUNK", 1 << 20)
  path = tmp_path / "rows.json"
  rows = json.dumps([{"a": "日本", "b": "X"}], ensure_ascii=False).encode()
  path.write_bytes(rows.replace(b"X", b"CAF\xc9\x94"))
  ((_, row),) = raw_files.json_rows(path, doctor)
  assert row["a"] == "日本" and row["b"] == "CAFɔ"  # It is UTF-8 by itself.
  path.write_bytes(rows.replace(b"X", b"\x93CAF\xc9\x94"))
  ((_, row),) = raw_files.json_rows(path, doctor)
  assert row["b"] == "“CAFÉ”"
