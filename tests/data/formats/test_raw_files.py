import gzip
import json

import pytest

from bigrec_jax import errors
from bigrec_jax.data.formats import opened, raw_files
from bigrec_jax.data.prepared import doctor as doctor_lib

ROWS = [
  {"instruction": "i", "input": 'Say "]" or "}"\n ', "output": '"é [1]"'},
  {"instruction": "", "input": "", "output": ""},
]


@pytest.fixture
def doctor():
  return doctor_lib.Doctor("test")


@pytest.mark.parametrize("chunk", [1, 2, 7, 1 << 20])
@pytest.mark.parametrize("indent", [None, 4])
def test_json_rows_streams_arrays(tmp_path, monkeypatch, chunk, indent):
  monkeypatch.setattr(raw_files, "_CHUNK", chunk)
  path = tmp_path / "rows.json"
  path.write_text(json.dumps(ROWS * 3, indent=indent) + "\n")
  found = list(raw_files.json_rows(path))
  assert found == list(enumerate(ROWS * 3, 1))


def test_json_rows_reads_json_lines_and_gzip(tmp_path):
  path = tmp_path / "rows.jsonl.gz"
  with gzip.open(path, "wt") as file:
    for row in ROWS:
      file.write(json.dumps(row) + "\n")
  assert [row for _, row in raw_files.json_rows(path)] == ROWS


@pytest.mark.parametrize("text", ["[]", "", "  \n"])
def test_json_rows_of_nothing(tmp_path, text):
  path = tmp_path / "rows.json"
  path.write_text(text)
  assert list(raw_files.json_rows(path)) == []


@pytest.mark.parametrize(
  "text, message",
  [
    ('[{"a": 1}, {"b"', "row 2: not valid JSON"),
    ('[{"a": 1}', r"ends after row 1, '\]' expected"),
    ('[{"a": 1} {"a": 1}]', r"row 2: '{' found, ',' or '\]' expected"),
    ("[1]", "row 1: int found, an object"),
    ("nonsense", "row 1: not valid JSON"),
  ],
)
def test_json_rows_names_the_row(tmp_path, text, message):
  path = tmp_path / "rows.json"
  path.write_text(text)
  with pytest.raises(errors.UserError, match=f"rows.json: .*{message}"):
    list(raw_files.json_rows(path))


def test_truncated_gzip_is_named_with_its_line(tmp_path, doctor):
  path = tmp_path / "log.txt.gz"
  content = gzip.compress(b"".join(b"%d\n" % n**5 for n in range(20_000)))
  path.write_bytes(content[: len(content) // 2])
  with pytest.raises(errors.UserError, match=r"log.txt.gz: line \d+: damaged"):
    list(raw_files.lines(path, doctor))
  path.write_bytes(b"not gzip at all")
  with pytest.raises(errors.UserError, match="line 1: damaged"):
    list(raw_files.lines(path, doctor))
  with pytest.raises(errors.UserError, match="row 1: damaged"):
    list(raw_files.json_rows(path))
  with pytest.raises(errors.UserError, match="damaged"):
    opened.content(path)


def test_lines_that_are_not_utf8_are_counted(tmp_path, doctor):
  path = tmp_path / "log.txt"
  path.write_bytes(
    "caf\xe9\r\n日本\nplain".encode().replace(b"\xc3\xa9", b"\xe9")
  )
  assert list(raw_files.lines(path, doctor)) == [
    (1, "café"),
    (2, "日本"),
    (3, "plain"),
  ]
  (finding,) = doctor.to_dict()["findings"]
  assert finding["count"] == 1


def test_half_a_surrogate_pair_is_replaced():
  assert raw_files.repaired("a\ud83d") == "a\ufffd"
  assert raw_files.repaired("🎮 é") == "🎮 é"
