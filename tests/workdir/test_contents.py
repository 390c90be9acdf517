import json
import os
import re

import pytest

from bigrec_jax.workdir import contents, digests, paths, records

PATTERNS = ("a/*", "b.json")


@pytest.fixture
def root(tmp_path):
  for name in ("a/one", "a/in/two", "b.json", "c/three"):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"content of {name}")
  (tmp_path / "a" / ".hidden").touch()
  return tmp_path


def test_a_star_stands_for_folders_and_hidden_files_are_nobodys(root):
  assert contents.find(root, PATTERNS) == ["a/in/two", "a/one", "b.json"]
  assert contents.find(root, ["c", "none/*", "none.json"]) == []


def test_nothing_is_read_while_sizes_and_times_hold(root, monkeypatch):
  content = contents.take(root, PATTERNS, {})
  monkeypatch.setattr(digests, "of_files", None)
  found = contents.compare(root, content, PATTERNS)
  assert not found.problems and not found.digested
  assert found.content == content


def test_another_time_is_another_digest_and_then_none(root):
  content = contents.take(root, PATTERNS, {})
  os.utime(root / "b.json", ns=(1, 1))
  found = contents.compare(root, content, PATTERNS)
  assert not found.problems and found.digested == (17,)
  assert found.content.files["b.json"].mtime_ns == 1
  assert not contents.compare(root, found.content, PATTERNS).digested


@pytest.mark.parametrize(
  ("change", "said"),
  [
    (lambda root: (root / "a/one").unlink(), "a/one: missing"),
    (lambda root: (root / "a/one").write_text("x"), "a/one: its content isn't"),
    (
      lambda root: (root / "a/one").write_text("content of a/onf"),
      r"a/one: its content isn't what was written \(digest",
    ),
    (lambda root: (root / "a/new").touch(), "a/new: found, though nothing"),
    (
      lambda root: ((root / "a/one").unlink(), (root / "a/one").mkdir()),
      "a/one: ",
    ),
  ],
)
def test_every_change_is_a_line_with_the_file(root, change, said):
  content = contents.take(root, PATTERNS, {})
  change(root)
  (line,) = contents.compare(root, content, PATTERNS).problems
  assert line.startswith(str(root))
  assert re.search(said, line)


def test_what_no_longer_belongs_to_an_artefact_does_not_matter(root):
  content = contents.take(root, PATTERNS, {})
  (root / "b.json").unlink()
  assert not contents.compare(root, content, ["a/*"]).problems
  assert contents.compare(root, content, None).problems


def test_verify_reads_all(root):
  content = contents.take(root, PATTERNS, {})
  path = root / "a" / "one"
  state = path.stat()
  path.write_text("content of a/onf")
  os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
  assert not contents.compare(root, content, PATTERNS).problems
  found = contents.compare(root, content, PATTERNS, verify=True)
  assert len(found.problems) == 1 and len(found.digested) == 3


def test_files_that_changed_places_are_recognised(root):
  record = paths.Paths(root).record("some")
  (root / "a" / "one").write_text("0" * 9)
  (root / "b.json").write_text("1" * 9)
  content = contents.take(root, PATTERNS, {})
  records.rewrite(record, {}, content.to_json())
  (root / "a" / "one").write_text("1" * 9)
  os.utime(root / "a" / "one", ns=(1, 1))
  (line,) = contents.altered(paths.Paths(root))
  assert line.endswith(": it is that of b.json)")


def test_parts_of_a_shared_file_are_told_apart(root):
  path = root / "shared.json"
  path.write_text(json.dumps({"mine": [1], "others": [2]}))

  def mine():
    return {"shared.json: mine": contents.read_shared(path, "mine")}

  content = contents.take(root, (), mine())
  path.write_text(json.dumps({"mine": [1], "others": [3]}))
  assert not contents.compare_values(content, mine())
  for value in ({"mine": [3]}, {}, [], "x"):
    path.write_text(json.dumps(value))
    (line,) = contents.compare_values(content, mine())
    assert line.startswith("shared.json: mine: its content")
  path.write_text("{")
  assert contents.compare_values(content, mine())


@pytest.mark.parametrize("size", [0, 1, 5, 8, 9, 24, 31])
def test_digests_do_not_depend_on_threads(tmp_path, monkeypatch, size):
  path = tmp_path / "file"
  path.write_bytes(bytes(range(size)))
  monkeypatch.setattr(digests, "_BLOCK", 8)
  plain = digests.of_files([path])[path]
  monkeypatch.setattr(digests, "_FEW", -1)
  monkeypatch.setattr(digests, "_LONG", 0)
  assert digests.of_files([path])[path] == plain
  assert plain.size == size and plain.is_of(path.stat())
  for at in range(size):
    changed = bytearray(range(size))
    changed[at] ^= 1
    path.write_bytes(changed)
    assert digests.of_file(path) != plain.digest


def test_digests_of_no_stamps_are_none():
  for value in (None, 1, [], {"a": 1}, {"a": [1, 2]}, {"a": [1, True, "x"]}):
    assert digests.parse(value) is None
