import gzip
import json

import numpy as np
import pytest

from bigrec_jax import errors
from bigrec_jax.data.prepared import histories
from bigrec_jax.data.prepared.catalogue import Catalogue

CATALOGUE = Catalogue(
  ("10", "11", "12", "13"),
  ("Halo 3", ' "Portal" ', "10", "Doom, Part II"),
  np.zeros(4, np.int64),
)


def write(path, *rows):
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return path


def test_ids_and_titles_are_found_and_other_keys_kept(tmp_path):
  path = write(
    tmp_path / "users.jsonl",
    {"user": 7, "history": ["Halo 3", 11, "13"]},
    {"history": []},
    {"history": ["Portal"]},
  )
  found = histories.find(histories.read(path), CATALOGUE, "error")
  assert found.items == [[0, 1, 3], [], [1]]
  table = found[1:].padded()
  assert table.tolist() == [[-1], [1]] and table.dtype == np.int32
  # Titles are the catalogue's own, whatever the user wrote.
  assert found.titles[0] == ["Halo 3", ' "Portal" ', "Doom, Part II"]
  assert found.titles[2] == [' "Portal" ']
  assert found.rows[0].content["user"] == 7
  assert len(found) == 3


def test_an_id_goes_before_a_title():
  rows = histories.from_flags(["10"])
  assert histories.find(rows, CATALOGUE, "error").items == [[0]]


def test_gzip_and_blank_lines(tmp_path):
  path = tmp_path / "users.jsonl.gz"
  with gzip.open(path, "wt") as file:
    file.write('\n{"history": ["10"]}\n\n')
  (row,) = histories.read(path)
  assert row.place.endswith("line 2")


@pytest.mark.parametrize(
  ("values", "items"),
  [
    (["Doom, Part II", "10"], [[3, 0]]),  # A comma is a part of a title.
    (['["Doom, Part II", 10]'], [[3, 0]]),
    (["11", '["10"]'], [[1, 0]]),
  ],
)
def test_the_history_of_the_command_line(values, items):
  found = histories.find(histories.from_flags(values), CATALOGUE, "error")
  assert found.items == items


def test_a_title_that_begins_with_a_bracket_is_a_title():
  (row,) = histories.from_flags(["[PROTOTYPE]"])
  assert row.content["history"] == ["[PROTOTYPE]"]


@pytest.mark.parametrize(
  ("unknown", "titles"),
  [("text", ["Halo 3", "Hallo 4"]), ("skip", ["Halo 3"])],
)
def test_what_becomes_of_an_unknown_item(unknown, titles):
  rows = histories.from_flags(["Halo 3", "Hallo 4"])
  found = histories.find(rows, CATALOGUE, unknown)
  assert found.titles == [titles]
  assert found.items == [[0]]
  assert found.unknown == [["Hallo 4"]]


@pytest.mark.parametrize(
  ("line", "words"),
  [
    ('{"history": ["10"]', ["line 2", "column", "JSON"]),
    ('["10"]', ["line 2", "list found"]),
    ('{"histroy": ["10"]}', ["line 2", "'histroy'", '"history"']),
    ("{}", ["line 2", "no key found"]),
    ('{"history": "10"}', ["line 2", "str found", "list of ids"]),
    ('{"history": ["10", 1.5]}', ["line 2", "item 2", "1.5"]),
    ('{"history": [true]}', ["line 2", "item 1", "True"]),
    ('{"history": ["Halo 4"]}', ["line 2", "'Halo 4'", "mean 'Halo 3'"]),
    ('{"history": [], "age": NaN}', ["line 2", "NaN found", "finite"]),
    ('{"history": [], "age": 1e400}', ["line 2", "NaN or infinity"]),
    ('{"history": [], "scores": [1]}', ["line 2", "'scores'", "another name"]),
    # A number is an id, never a title.
    ('{"history": [3]}', ["line 2", "item 1", "'3'"]),
  ],
)
def test_a_mistake_is_one_line_that_names_the_place(tmp_path, line, words):
  path = tmp_path / "users.jsonl"
  path.write_text(f'{{"history": ["11"]}}\n{line}\n')
  with pytest.raises(errors.UserError) as error:
    histories.find(histories.read(path), CATALOGUE, "error")
  message = str(error.value)
  assert str(path) in message and "\n" not in message
  for word in words:
    assert word in message


def test_an_empty_file_is_refused(tmp_path):
  path = tmp_path / "users.jsonl"
  path.write_text("\n")
  with pytest.raises(errors.UserError, match="no line found"):
    histories.read(path)
