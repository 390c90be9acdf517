"""A catalogue that grows and shrinks on disk, and what a kill leaves of it."""

import json

import numpy as np
import pytest

from bigrec_jax import config, errors
from bigrec_jax.data.prepared import (
  catalogue as catalogue_lib,
  editions,
  new_items,
)
from bigrec_jax.testing import store as tiny
from bigrec_jax.workdir import paths as paths_lib, storage

ENCODER = "encoder"


@pytest.fixture
def prepared():
  return tiny.catalogue()


@pytest.fixture
def store(tmp_path, prepared):
  return editions.Store(paths_lib.Paths(tmp_path), prepared.fingerprint)


def add(store, before, *names):
  rng = np.random.default_rng(len(names))
  vectors = rng.normal(size=(len(names), 3)).astype(np.float32)
  ids, titles = [f"new{n}" for n in names], [f"Title {n}" for n in names]
  return store.added(before, ids, titles, vectors, ENCODER), vectors


def test_what_is_written_is_read_again(store, prepared):
  assert store.current().number == 0
  assert store.current().fingerprint == prepared.fingerprint
  assert store.current().offered(prepared) is prepared
  one, first = add(store, store.current(), "a", "b")
  two, second = add(store, one, "c")
  gone = store.with_withdrawn(two, ["newa", prepared.external_ids[2]])
  found = store.current()
  assert (found.number, found.parent) == (3, 2)
  assert found.titles == gone.titles == ("Title a", "Title b", "Title c")
  assert found.fingerprint == gone.fingerprint != two.fingerprint
  vectors = store.vectors(found, ENCODER, 3)
  np.testing.assert_array_equal(vectors, np.concatenate([first, second]))
  offered = found.offered(prepared)
  listed = found.listed(offered)
  assert np.flatnonzero(~listed).tolist() == [2, len(prepared)]
  back = store.rolled_back(found)
  assert back.number == store.current().number == 2
  assert back.listed(offered) is None
  # A number is never given again, so nothing that was is overwritten.
  three, _ = add(store, back, "d")
  assert (three.number, three.parent) == (4, 2)
  assert store.read(3).withdrawn == gone.withdrawn
  for _ in range(3):
    store.rolled_back(store.current())
  with pytest.raises(errors.UserError, match="something before it"):
    store.rolled_back(store.current())


def test_an_extended_catalogue_is_as_one_that_was_made_at_once(prepared):
  title = prepared.titles[4]
  ids, titles = ["a", "b", "c"], ["New one", f' "{title}" ', "New one"]
  whole = prepared.extended(ids, titles, "name")
  made = catalogue_lib.Catalogue(
    (*prepared.external_ids, *ids),
    (*prepared.titles, *titles),
    np.concatenate([prepared.popularity, [0, 0, 0]]),
  )
  np.testing.assert_array_equal(whole.groups, made.groups)
  np.testing.assert_array_equal(whole.popularity, made.popularity)
  assert whole.fingerprint == "name"
  for text in (*made.titles, "New one", title, f"{title} ", "nothing"):
    assert whole.index_of_title(text) == made.index_of_title(text)
    assert whole.index_of_clean_title(text) == made.index_of_clean_title(text)
  for own in (*made.external_ids, "zzz"):
    assert whole.index_of_external_id(own) == made.index_of_external_id(own)
  assert prepared.index_of_title("New one") is None  # As it was.


def test_a_kill_leaves_the_edition_before(store, monkeypatch):
  """At whichever of its writes it comes."""
  one, _ = add(store, store.current(), "a")
  written = []
  replace = storage.os.replace

  def count(*names):
    written.append(names)
    replace(*names)

  monkeypatch.setattr(storage.os, "replace", count)
  add(store, one, "b")
  for kept in range(len(written)):
    store.rolled_back(store.current())
    left = [kept]

    def dies(*names, left=left):
      if not left[0]:
        raise KeyboardInterrupt
      left[0] -= 1
      replace(*names)

    monkeypatch.setattr(storage.os, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
      add(store, store.current(), "b")
    monkeypatch.setattr(storage.os, "replace", replace)
    found = store.current()
    assert found.titles == one.titles and found.number == one.number
    after, _ = add(store, found, "b")
    assert store.current().titles == after.titles == ("Title a", "Title b")


def _cut(path):
  path.write_bytes(path.read_bytes()[:-3])


def _edited(key, value):
  def change(path):
    content = json.loads(path.read_text())
    content[key] = value
    path.write_text(json.dumps(content))

  return change


@pytest.mark.parametrize(
  ("name", "change", "words"),
  [
    ("items-*.jsonl", _cut, "were changed since"),
    ("items-*.npy", _cut, "were changed since"),
    ("items-*.npy", lambda path: path.unlink(), "No such file"),
    ("current.json", _cut, "not valid JSON"),
    ("current.json", _edited("number", 7), "edition-000007.json: not found"),
    ("edition-*.json", _cut, "not valid JSON"),
    ("edition-*.json", _edited("prepared", "x"), "were prepared anew"),
    ("edition-*.json", _edited("schema", 9), "schema 9 found"),
    ("edition-*.json", _edited("segments", [{}]), r"segments\[0\]: nothing"),
  ],
)
def test_damage_is_one_line(store, name, change, words):
  add(store, store.current(), "a")
  (path,) = store.directory.glob(name)
  change(path)
  with pytest.raises(errors.UserError, match=words) as error:
    store.current()
  assert "\n" not in str(error.value)


def test_vectors_are_of_the_present_encoder(store):
  found, _ = add(store, store.current(), "a")
  with pytest.raises(errors.UserError, match="made with encoder encoder, x"):
    store.vectors(found, "x", 3)
  with pytest.raises(errors.UserError, match=r"\[1, 4\] expected"):
    store.vectors(found, ENCODER, 4)


NAMED = config.ColumnsConfig(
  **dict.fromkeys(("user", "item", "time", "rating", "title", "author"), "")
)


@pytest.mark.parametrize(
  ("name", "text"),
  [
    (
      "a.jsonl",
      '{"external_id": "7", "title": "A; b"}\n'
      '{"external_id": "8", "title": "C"}\n',
    ),
    ("a.csv", "item_id,title,price\n7,A; b,3\n8,C,4\n"),
    ("a.tsv", "title\tmovieId\nA; b\t7\nC\t8\n"),
  ],
)
def test_items_of_a_file(tmp_path, name, text):
  path = tmp_path / name
  path.write_text(text)
  found = [
    (item.external_id, item.title) for item in new_items.read(path, NAMED)
  ]
  assert found == [("7", "A; b"), ("8", "C")]


@pytest.mark.parametrize(
  ("name", "text", "words"),
  [
    ("a.csv", "item_id,title\n7,\n", "line 2.title: '' found"),
    ("a.csv", "item_id,title\n", "no item found"),
    ("a.csv", "number,colour\n1,red\n", "columns number, colour"),
  ],
)
def test_a_mistake_names_the_line(tmp_path, name, text, words):
  path = tmp_path / name
  path.write_text(text)
  with pytest.raises(errors.UserError, match=words):
    new_items.read(path, NAMED)


def test_what_is_there_is_not_new(prepared):
  first = prepared.external_ids[0]

  def items(*pairs):
    return [
      new_items.NewItem(own, title, f"items[{n}]")
      for n, (own, title) in enumerate(pairs)
    ]

  found = new_items.compare(
    items((first, prepared.titles[0]), ("z", "Z"), ("z", "Z")), prepared
  )
  assert [item.external_id for item in found.new] == ["z"]
  assert found.known == [first]
  with pytest.raises(errors.UserError, match=r"items\[0\].title: 'Other'"):
    new_items.compare(items((first, "Other")), prepared)
  with pytest.raises(errors.UserError, match=r"items\[1\].title: 'Y' found"):
    new_items.compare(items(("z", "Z"), ("z", "Y")), prepared)
