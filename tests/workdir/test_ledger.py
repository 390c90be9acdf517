import os

import pytest

from bigrec_jax.workdir import digests, fingerprints, ledger, paths

LARGE = 5 << 20  # Its ends are not all of it.


@pytest.fixture
def base(tmp_path):
  folder = tmp_path / "base"
  folder.mkdir()
  (folder / "config.json").write_text("{}")
  (folder / "model.safetensors").write_bytes(bytes(LARGE))
  return folder


def _open(tmp_path, *, keeps=True, verify=False):
  found = ledger.Ledger(paths.Paths(tmp_path / "run"))
  found.keeps, found.verify = keeps, verify
  return found


def _change_middle(path, *, hide=False):
  state = path.stat()
  with open(path, "r+b") as file:
    file.seek(LARGE // 2)
    file.write(b"\1")
  times = (state.st_atime_ns, state.st_mtime_ns + (0 if hide else 10**9))
  os.utime(path, ns=times)


def test_the_first_content_has_the_name_of_its_ends(tmp_path, base):
  expected = fingerprints.of_folder(base, "*.safetensors")
  assert _open(tmp_path).of_folder(base, "*.safetensors") == expected
  assert _open(tmp_path).of_folder(base, "*.json") == (
    fingerprints.of_folder(base, "*.json")
  )


def test_another_content_with_the_same_ends_has_another_name(tmp_path, base):
  path = base / "model.safetensors"
  first = _open(tmp_path).of_folder(base, "*.safetensors")
  _change_middle(path)
  assert fingerprints.of_folder(base, "*.safetensors") == first
  for keeps in (False, True, False, True):
    changed = _open(tmp_path, keeps=keeps)
    second = changed.of_folder(base, "*.safetensors")
    assert second != first
    if keeps:
      break
    (note,) = changed.notes
    assert str(path) in note and "changed since" in note
  assert _open(tmp_path).of_folder(base, "*.safetensors") == second
  path.write_bytes(bytes(LARGE))
  assert _open(tmp_path).of_folder(base, "*.safetensors") == first


def test_a_file_is_digested_once(tmp_path, base, monkeypatch):
  for expected in ([LARGE], [], []):
    found = _open(tmp_path)
    found.of_folder(base, "*")
    assert found.digested == expected and not found.notes
  os.utime(base / "model.safetensors", ns=(1, 1))
  for expected in ([LARGE], []):  # Copied, say.
    found = _open(tmp_path)
    found.of_folder(base, "*")
    assert found.digested == expected and not found.notes
  moved = base.with_name("moved")
  base.rename(moved)
  first = _open(tmp_path).of_folder(moved, "*")
  monkeypatch.setattr(digests, "of_files", None)
  assert _open(tmp_path).of_folder(moved, "*") == first


def test_who_only_reads_writes_nothing_and_digests_nothing_new(tmp_path, base):
  found = _open(tmp_path, keeps=False)
  found.of_folder(base, "*")
  assert not found.digested and not (tmp_path / "run").exists()


def test_verify_finds_what_size_and_time_hide(tmp_path, base):
  first = _open(tmp_path).of_folder(base, "*")
  _change_middle(base / "model.safetensors", hide=True)
  assert _open(tmp_path).of_folder(base, "*") == first
  found = _open(tmp_path, verify=True)
  assert found.of_folder(base, "*") != first
  assert found.digested == [LARGE] and len(found.notes) == 1


@pytest.mark.parametrize("content", ["", "{", "null", "[]", '{"files": 1}'])
def test_a_damaged_ledger_is_forgotten(tmp_path, base, content):
  first = _open(tmp_path).of_folder(base, "*")
  (tmp_path / "run" / "given.json").write_text(content)
  found = _open(tmp_path)
  assert found.of_folder(base, "*") == first and not found.notes


def test_a_flipped_byte_in_the_ledger_makes_nothing_stale(tmp_path, base):
  first = _open(tmp_path).of_folder(base, "*")
  path = tmp_path / "run" / "given.json"
  whole = path.read_bytes()
  for at in range(0, len(whole), 7):
    changed = bytearray(whole)
    changed[at] ^= 1
    path.write_bytes(changed)
    assert _open(tmp_path, keeps=False).of_folder(base, "*") == first


def test_a_ledger_that_cannot_be_written_is_a_warning(tmp_path, base, caplog):
  (tmp_path / "run" / "given.json").mkdir(parents=True)
  _open(tmp_path).of_folder(base, "*")
  assert "given.json is not kept" in caplog.text
