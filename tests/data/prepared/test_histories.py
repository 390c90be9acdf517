import gzip
import json
import time

import numpy as np
import pytest

from bigrec_jax import errors
from bigrec_jax.data.prepared import histories
from bigrec_jax.data.prepared.catalogue import Catalogue
from bigrec_jax.workdir import fingerprints

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
    ('{"history": [], "age": 1e400}', ["line 2", "1e400 found", "finite"]),
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
    list(histories.read(path))


def test_a_survey_names_what_it_does_not_keep(tmp_path):
  rows = [{"user": n, "history": [str(10 + n % 4)]} for n in range(9)]
  path = write(tmp_path / "users.jsonl", *rows, {"history": [], "ö": "\ud800"})
  given = list(histories.read(path))
  found = histories.survey(histories.read(path), CATALOGUE, "error")
  # The name that records of before have.
  contents = [row.content for row in given]
  assert found == (10, fingerprints.of_value(contents))
  assert fingerprints.OfList().name() == fingerprints.of_value([])
  write(path, *rows, {"history": ["Nothing"]})
  with pytest.raises(errors.UserError, match="line 10.*'Nothing'"):
    histories.survey(histories.read(path), CATALOGUE, "error")
  assert histories.survey(histories.read(path), CATALOGUE, "skip").users == 10


def test_a_long_history_does_not_widen_the_table_of_others(monkeypatch):
  monkeypatch.setattr(histories, "_MOST_IN_A_TABLE", 40)
  rows = [{"history": ["10"] * n} for n in (1, 3, 2, 100, 1, 5, 5, 5, 5, 5, 5)]
  given = [histories.Row("", row, "") for row in rows]
  found = histories.find(given, CATALOGUE, "error")
  parts = list(found.parts())
  assert [(p.start, p.stop) for p in parts] == [(0, 3), (3, 4), (4, 11)]
  assert [found[p].padded().shape for p in parts] == [(3, 3), (1, 100), (7, 5)]
  assert list(found[:0].parts()) == []


def test_a_page_in_place_of_a_title_is_cut_and_told(caplog):
  page = "<span>" * 4000
  (row,) = histories.from_flags([page])
  with caplog.at_level("WARNING", "absl"):
    found = histories.find([row], CATALOGUE, "text")
  assert found.titles == [[page[:1000]]] and found.unknown == [[page]]
  (line,) = [record.getMessage() for record in caplog.records]
  assert "item 1: a text of 24000 characters" in line and len(line) < 120
  with pytest.raises(errors.UserError) as error:
    histories.find([row], CATALOGUE, "error")
  assert "(24000 characters)" in str(error.value)
  assert len(str(error.value)) < 500


def test_the_nearest_of_many_titles_is_found_soon():
  """Letter by letter a page, or a hundred thousand titles, took minutes."""
  count = 100_000
  titles = [f"The {n * 7919 % count}th Adventure of {n}" for n in range(count)]
  titles[count // 2] = "Halo: Combat Evolved"
  titles[3] = "<span>" * 4000
  many = Catalogue(
    tuple(map(str, range(count))), tuple(titles), np.zeros(count)
  )
  start = time.process_time()
  for text in ("Hallo Combat Evolved", "x" * 20_000, "A", ""):
    (row,) = histories.from_flags([f"{text}?"])
    with pytest.raises(errors.UserError) as error:
      histories.find([row], many, "error")
    near = "did you mean 'Halo: Combat Evolved'?" in str(error.value)
    assert near == text.startswith("Hallo")
  assert time.process_time() - start < 5


def test_titles_are_found_in_any_case_and_the_nearest_on_request():
  rows = histories.from_flags(["HALO 3", "doom,  part ii", "Hallo 3"])
  found = histories.find(rows, CATALOGUE, "nearest")
  assert found.items == [[0, 3, 0]]
  assert found.titles == [["Halo 3", "Doom, Part II", "Halo 3"]]
  assert found.nearest == [{"Hallo 3": "Halo 3"}] and found.unknown == [[]]
  with pytest.raises(errors.UserError, match="mean 'Halo 3'"):
    histories.find(histories.from_flags(["hAlLo 3"]), CATALOGUE, "error")
  nothing = histories.from_flags(["Something else entirely"])
  with pytest.raises(errors.UserError, match="nearest takes"):
    histories.find(nothing, CATALOGUE, "nearest")
  titles = ["Doom I", "Doom II", "Doom III", "Heretic"]
  near = histories.nearest("DOOM IIII", titles)
  assert near[0] == "Doom III" and set(near) == set(titles[:3])
