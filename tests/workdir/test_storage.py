"""JSON files: what isn't one valid value is one line that names the file."""

import os

import pytest

from bigrec_jax import errors
from bigrec_jax.workdir import storage


@pytest.mark.parametrize(
  ("content", "told"),
  [
    (b"[1][2]", "Extra data"),
    (b'{"a": 1', "delimiter"),
    (b"", "Expecting value"),
    (b'{"a": NaN}', "NaN found"),
    (b"[-Infinity]", "-Infinity found"),
    (b"[" * 200_000, "nested too deeply"),
    (b"[" + b"9" * 5_000 + b"]", "digits"),
    (b'"\xff"', "decode"),
    ("[]".encode("utf-16"), "decode"),
  ],
)
def test_no_json_is_one_line(tmp_path, content, told):
  path = tmp_path / "file.json"
  path.write_bytes(content)
  with pytest.raises(errors.UserError, match=told) as raised:
    storage.read_json(path)
  assert str(raised.value).startswith(f"{path}: not valid JSON: ")
  assert "\n" not in str(raised.value)


def test_a_byte_order_mark_is_no_content(tmp_path):
  path = tmp_path / "file.json"
  path.write_bytes(b"\xef\xbb\xbf[1]")
  assert storage.read_json(path) == [1]


@pytest.mark.parametrize("name", ["absent.json", "folder", "nul\0.json"])
def test_no_file_is_one_line(tmp_path, name):
  (tmp_path / "folder").mkdir()
  with pytest.raises(errors.UserError, match=name.split("\0")[0]):
    storage.read_json(tmp_path / name)


def test_what_never_ends_is_not_read(tmp_path):
  os.mkfifo(tmp_path / "pipe")
  for path in (tmp_path / "pipe", "/dev/full"):
    with pytest.raises(errors.UserError, match="a pipe or device found"):
      storage.read_json(path)
