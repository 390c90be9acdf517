import json

import numpy as np
import pytest

from bigrec_jax import errors
from bigrec_jax.data.prepared import catalogue
from bigrec_jax.workdir import paths as paths_lib

TITLES = ("Doom", " Doom ", "Zelda: Échoes", "Doom", "None", '"Quake"')


@pytest.fixture
def items():
  return catalogue.Catalogue(
    ("a", "b", "c", "d", "e", "f"), TITLES, np.arange(6, dtype=np.int64)
  )


def test_equal_titles_share_the_number_of_their_first_row(items):
  assert items.groups.tolist() == [0, 0, 2, 0, 4, 5]
  assert items.groups.dtype == np.int32


def test_titles_are_found_exactly_first_then_cleaned(items):
  assert items.index_of_title(" Doom ") == 1
  assert items.index_of_title("Doom") == 0
  assert items.index_of_title("Doom\n") == 0
  assert items.index_of_title("Quake") == 5
  assert items.index_of_title("Hexen") is None
  assert items.index_of_external_id("d") == 3
  assert items.index_of_external_id("Doom") is None


def test_it_survives_the_disk(items, tmp_path):
  paths = paths_lib.Paths(tmp_path)
  catalogue.save(items, paths)
  loaded = catalogue.load(paths)
  assert loaded.external_ids == items.external_ids
  assert loaded.titles == items.titles
  assert loaded.popularity.tolist() == items.popularity.tolist()
  assert loaded.fingerprint == items.fingerprint
  first = json.loads(paths.catalogue.read_text().splitlines()[0])
  assert first == {
    "item": 0,
    "external_id": "a",
    "title": "Doom",
    "popularity": 0,
  }


def test_the_fingerprint_names_ids_and_titles_in_order(items):
  def made(ids, titles, popularity):
    return catalogue.Catalogue(
      tuple(ids), tuple(titles), np.array(popularity)
    ).fingerprint

  base = made("ab", "xy", [1, 2])
  assert made("ab", "xy", [3, 4]) == base
  assert made("ba", "yx", [1, 2]) != base
  assert made("ab", "xz", [1, 2]) != base


def test_a_damaged_file_is_named_with_its_line(items, tmp_path):
  paths = paths_lib.Paths(tmp_path)
  with pytest.raises(errors.UserError, match="not found"):
    catalogue.load(paths)
  catalogue.save(items, paths)
  lines = paths.catalogue.read_text().splitlines()
  paths.catalogue.write_text("\n".join([lines[0], lines[2]]))
  with pytest.raises(errors.UserError, match="line 2: .*item 1 with"):
    catalogue.load(paths)
  paths.catalogue.write_text(lines[0] + "\n" + lines[1][:20])
  with pytest.raises(errors.UserError, match="line 2"):
    catalogue.load(paths)


@pytest.mark.parametrize(
  "field", ['"title": null', '"external_id": 7', '"popularity": true']
)
@pytest.mark.parametrize("number", ["1e999", "[" * 9999, "9" * 5000, "{}"])
def test_fields_of_another_type_are_named(tmp_path, field, number):
  paths = paths_lib.Paths(tmp_path)
  paths.catalogue.parent.mkdir(parents=True)
  good = '"item": 0, "external_id": "a", "title": "A", "popularity": 1'
  name = field.partition(":")[0]
  for bad in (field, f"{name}: {number}"):
    paths.catalogue.write_text(f"{{{good}, {bad}}}\n")
    with pytest.raises(errors.UserError, match="catalogue.jsonl: line 1: "):
      catalogue.load(paths)
