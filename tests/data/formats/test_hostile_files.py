"""Raw files that would lose rows in silence, or end in a traceback."""

import gzip
import json
import pathlib

import pytest

from bigrec_jax import errors
from bigrec_jax.data.formats import (
  amazon,
  bigrec_json,
  csv_files,
  csv_rows,
  movielens,
  opened,
  raw_files,
  sequences,
  title_files,
  values,
)
from bigrec_jax.data.prepared import doctor as doctor_lib, histories
from bigrec_jax.data.text import prompts
from tests.data import settings

CASES = pathlib.Path(__file__).resolve().parents[4] / "shared" / "cases"


@pytest.fixture
def doctor():
  return doctor_lib.Doctor("test")


@pytest.fixture
def cases():
  if not CASES.is_dir():
    pytest.skip(f"the inputs of bug reports are not here: {CASES}")
  return CASES


def refused(read, *words):
  with pytest.raises(errors.UserError) as error:
    read()
  message = str(error.value)
  assert errors.one_line(message) == message and len(message) < 1000
  for word in words:
    assert word in message, message
  return message


def rows_of(path, text, keys=(0,), **more):
  """What csv_rows makes of a text."""
  path.write_text(text)
  with open(path, newline="") as lines:
    rows = csv_rows.Rows(path, lines, **more)
    rows.keys = keys
    return list(rows)


HEADER = "id,title,genre\n"
BODY = "".join(f"{n},Title {n},Drama\n" for n in range(2, 9))


class TestQuotes:
  @pytest.mark.parametrize(
    "text, line",
    [
      ('1,"open,Drama\n' + BODY, 2),  # To the end of the file.
      ('1,"open,Drama\n' + "x,y,z\n" * 1100, 2),
      ('1,"open,Drama\n2,"closed,Drama\n', 2),  # On the very next line.
      ('1,"open,Drama\n' + BODY + '9,"closed,Drama\n', 2),
      ('1,"open,Drama\n' + BODY + '9,"clo, sed",Drama\n', 2),
      (BODY + '"9,open,Drama\n10,"closed,Drama\n', 9),  # In the id.
      (BODY + '9,last,"Drama\n', 9),
      (BODY + '9,last,"Drama', 9),
    ],
  )
  def test_a_row_that_swallows_lines_is_named(self, tmp_path, text, line):
    path = tmp_path / "items.csv"
    refused(
      lambda: rows_of(path, HEADER + text),
      "items.csv",
      f"line {line}:",
      "quote",
    )

  @pytest.mark.parametrize(
    "text",
    [
      '1,"two\nlines",Drama\n',
      '1,"two, or\nthree, lines, of\n\ntext",Drama\n',
      '1,"a ""quoted"" one\nand 3, 4",Drama\n',
      '1,"windows\r\nbreak",Drama\r\n',
      '1,Weird "Night,Drama\n',
      '1,"closed" and more,Drama\n',
    ],
  )
  def test_a_text_with_line_breaks_is_kept(self, tmp_path, text):
    import csv

    path = tmp_path / "items.csv"
    found = rows_of(path, HEADER + text + BODY)
    expected = list(csv.reader((HEADER + text + BODY).splitlines(True)))
    assert [row for _, row in found] == expected
    assert found[1][0] == 2 and found[-1][0] == found[-2][0] + 1

  def test_long_fields_are_read_and_endless_ones_are_not(self, tmp_path):
    ids = ", ".join(["1234567"] * 50_000)
    found = rows_of(tmp_path / "a.csv", f'id,items\n1,"[{ids}]"\n')
    assert found[1][1][1] == f"[{ids}]"

  def test_no_rating_is_lost(self, tmp_path, doctor):
    data = settings.sections(format="movielens", raw_dir=tmp_path)[0]
    (tmp_path / "movies.csv").write_text("movieId,title\n1,One\n2,Two\n")
    good = "".join(f"1,{1 + n % 2},3,{n}\n" for n in range(20))
    path = tmp_path / "ratings.csv"
    for bad in ('1,"2,3,4\n', '"1,2,3,4\n', '1,2,"3,4\n', '1,2,3,"4\n'):
      for end in ("", '1,"1,1,1\n', '1,2,3,"4"\n'):
        path.write_text(
          f"userId,movieId,rating,timestamp\n{good}{bad}{good}{end}"
        )
        refused(lambda: movielens.read(data, doctor), "ratings.csv: line 22:")

  @pytest.mark.parametrize("part", ["titles", "ratings", "swallowed"])
  def test_the_reported_files(self, cases, doctor, part):
    folder = cases / "csv_unclosed_quote" / part
    data = settings.sections(format="movielens", raw_dir=folder)[0]
    line = 11 if part == "ratings" else 21
    refused(lambda: movielens.read(data, doctor), f".csv: line {line}: a quote")


class TestLines:
  def test_a_line_without_end_is_never_held(
    self, tmp_path, monkeypatch, doctor
  ):
    monkeypatch.setattr(opened, "LONGEST_LINE", 1 << 18)
    for name, write in (("a.txt", open), ("a.txt.gz", gzip.open)):
      path = tmp_path / name
      with write(path, "wb") as file:
        file.write(b"1 2 3\n" + b"7" * (1 << 22) + b"\n")
      words = (name, "line 2:", "262,144 bytes", "end of a line")
      refused(lambda p=path: list(raw_files.lines(p, doctor)), *words)
      refused(lambda p=path: title_files.read(p, "auto", doctor), name)
    # A JSON array may be one line; a row in it may not be endless.
    monkeypatch.setattr(raw_files, "_LONGEST_ROW", 1 << 18)
    rows = [{"a": "x" * 1000}] * 900
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows))
    assert len(list(raw_files.json_rows(path))) == 900
    path.write_text(json.dumps([{"a": 1}, {"a": "x" * (1 << 23)}]))
    refused(lambda: list(raw_files.json_rows(path)), "row 2:", "no end found")

  def test_what_cannot_be_read_in_parts_has_a_bound(
    self, tmp_path, monkeypatch, doctor
  ):
    monkeypatch.setattr(opened, "LONGEST_FILE", 1 << 16)
    path = tmp_path / "names.json.gz"
    path.write_bytes(gzip.compress(b" " * (1 << 24) + b"{}"))
    refused(lambda: title_files.read(path, "auto", doctor), "65,536 bytes")

  @pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
  def test_any_end_of_line(self, tmp_path, doctor, end):
    path = tmp_path / "s.txt"
    path.write_bytes(end.join(["1 2 3 4", "2 3 4 5", ""]).encode())
    assert [line for _, line in raw_files.lines(path, doctor)] == [
      "1 2 3 4",
      "2 3 4 5",
    ]
    path = tmp_path / "n.csv"
    path.write_bytes(end.join(["id,title", '1,"a"', "2,b"]).encode())
    assert title_files.read(path, "auto", doctor) == {"1": "a", "2": "b"}

  @pytest.mark.parametrize(
    "content, kind",
    [
      ("1 2 3 4\n".encode("utf-16-le"), "UTF-16"),
      ("1 2 3 4\n".encode("utf-32"), "UTF-32"),
      (gzip.compress(b"1 2 3 4\n", mtime=0), "gzip data"),
      (b"PK\x03\x04rest", "zip"),
      (b"PAR1rest", "Parquet"),
    ],
  )
  def test_what_is_no_text_is_named(self, tmp_path, doctor, content, kind):
    path = tmp_path / "s.txt"
    path.write_bytes(content)
    for read in (
      lambda: list(raw_files.lines(path, doctor)),
      lambda: list(raw_files.json_rows(path)),
      lambda: title_files.read(path, "auto", doctor),
    ):
      refused(read, "s.txt", kind, "expected")

  @pytest.mark.parametrize(
    "content",
    [
      b"no gzip",
      gzip.compress(b"1 2 3 4\n" * 999, mtime=0)[:-20],
      gzip.compress(b"1 2 3 4\n", mtime=0) + b"garbage behind",
      gzip.compress(b"1 2 3 4\n" * 999, mtime=0).replace(b"\x08", b"\x09", 1),
      b"",
    ],
  )
  def test_a_damaged_gz_is_named(self, tmp_path, doctor, content):
    path = tmp_path / "s.txt.gz"
    path.write_bytes(content)
    data = settings.sections(format="sequences", train=path)[0]
    refused(lambda: sequences.read(data, doctor), "s.txt.gz")

  def test_bytes_that_are_a_mark_of_utf8_are_skipped(self, tmp_path, doctor):
    path = tmp_path / "ratings.csv"
    path.write_bytes(b"\xef\xbb\xbfid,title\n1,a\n")
    assert title_files.read(path, "utf-8", doctor) == {"1": "a"}


class TestJson:
  @pytest.mark.parametrize(
    "text, words",
    [
      ('[{"a": 1}][{"a": 2}]', ["after row 1", "several arrays"]),
      ('[{"a": 1}] x', ["behind the ']'"]),
      ("[]{}", ["behind the ']'"]),
      ('{"a": 1}]{"a": 2}', ["row 2"]),
      ('[{"a": NaN}]', ["row 1", "NaN"]),
      ('[{"a": ' + "9" * 5000 + "}]", ["row 1", "digits"]),
      ('[{"a": ' + "[" * 100_000, ["row 1", "nested"]),
      ('[{"a": 1}, null]', ["row 2", "NoneType found"]),
      ('[{"a": 1},]', ["row 2"]),
      ('"text"', ["row 1", "str found"]),
    ],
  )
  def test_rows(self, tmp_path, text, words):
    path = tmp_path / "rows.json"
    path.write_text(text)
    refused(lambda: list(raw_files.json_rows(path)), "rows.json", *words)

  @pytest.mark.parametrize(
    "value",
    ["null", "1", "[]", "{}", "true", "1e999", "[" * 9999, "9" * 5000],
  )
  @pytest.mark.parametrize("key", ["reviewerID", "asin", "unixReviewTime"])
  def test_fields_of_reviews(self, tmp_path, doctor, key, value):
    if (key, value) == ("unixReviewTime", "1"):
      pytest.skip("a time")
    good = {"reviewerID": "u", "asin": "a", "overall": 5, "unixReviewTime": 7}
    (tmp_path / "meta_G.json").write_text('{"asin": "a", "title": "One"}')
    line = json.dumps(good | {key: "\ue000"}, ensure_ascii=False)
    (tmp_path / "G_5.json").write_text(line.replace('"\ue000"', value))
    data = settings.sections(format="amazon", raw_dir=tmp_path)[0]
    refused(lambda: amazon.read(data, doctor), "G_5.json: line 1:")

  def test_ratings_that_are_none_are_counted(self, tmp_path, doctor):
    rows = [
      {"reviewerID": "u", "asin": "a", "overall": v, "unixReviewTime": 7}
      for v in (5, "5.0", None, [], True, "five", 1e300)
    ]
    (tmp_path / "meta_G.json").write_text('{"asin": "a", "title": "One"}')
    text = "\n".join(map(json.dumps, rows)) + "\n"
    (tmp_path / "G_5.json").write_text(text)
    data = settings.sections(format="amazon", raw_dir=tmp_path)[0]
    assert len(amazon.read(data, doctor)) == 7
    (found,) = (
      f for f in doctor.to_dict()["findings"] if "overall" in f["what"]
    )
    assert found["count"] == 5

  @pytest.mark.parametrize(
    "text, words",
    [
      ("[]", ["list found"]),
      ('{"1": null}', ["key '1'", "None found"]),
      ('{"1": "a"}{}', ["not valid JSON"]),
      ("[" * 100_000, ["nested"]),
      ('{"1": ' + "9" * 5000 + "}", ["digits"]),
    ],
  )
  def test_titles(self, tmp_path, doctor, text, words):
    path = tmp_path / "names.json"
    path.write_text(text)
    refused(
      lambda: title_files.read(path, "auto", doctor), "names.json", *words
    )

  def test_histories(self, tmp_path):
    path = tmp_path / "h.jsonl"
    for value in ('["a", NaN]', "[" * 99_999, '[{"a": 1}]', "{}", "[1e999]"):
      path.write_text(f'{{"history": []}}\n{{"history": {value}}}\n')
      refused(lambda: list(histories.read(path)), "h.jsonl: line 2")
    for value in ("[NaN]", "[" * 99_999, "[" + "9" * 5000 + "]"):
      (row,) = histories.from_flags([value])  # May be a title.
      assert row.content == {"history": [value]}

  def test_the_reported_file(self, cases, doctor):
    folder = cases / "two_arrays"
    data, prompt = settings.sections(
      format="bigrec",
      catalogue=folder / "id2name.txt",
      **{s: folder / f"{s}.json" for s in ("train", "valid", "test")},
    )
    prompt = prompts.Prompt.from_config(prompt)
    refused(
      lambda: bigrec_json.read(data, prompt, doctor), "train.json", "row 6"
    )


class TestSequences:
  def read(self, path, doctor):
    return sequences.read(
      settings.sections(format="sequences", train=path)[0], doctor
    )

  @pytest.mark.parametrize(
    "lines",
    [
      ["9 1 2", "1 1 2 3", "9 3 4 5 6"],
      ["9 3 4 5 6", "1 1 2 3", "9 1 2"],
      ["9 1", "1 2", "9 3 4 5 6"],
      ["9 1", "9 3", "1 1 2 3 4"],
    ],
  )
  def test_a_user_twice_is_refused_in_any_order(self, tmp_path, doctor, lines):
    path = tmp_path / "s.txt"
    path.write_text("\n".join(lines) + "\n")
    again = 2 if lines[1].startswith("9") else 3
    refused(
      lambda: self.read(path, doctor), f"line {again}:", "'9'", "on line 1"
    )

  def test_one_interaction_a_line_is_read(self, tmp_path, doctor):
    whole, pairs = tmp_path / "w.txt", tmp_path / "p.txt"
    whole.write_text("7 3 2 3 1\n5 1 2 3\n6 1 1\n")
    # Users' lines are seldom all together.
    pairs.write_text("7 3\n5 1\n7 2\n7 3\n6 1\n5 2\n7 1\n5 3\n6 1\n")
    one, other = self.read(whole, doctor), self.read(pairs, doctor)
    assert one.user.tolist() == other.user.tolist()
    assert one.item.tolist() == other.item.tolist()
    assert dict(one.titles) == dict(other.titles)

  def test_the_reported_files(self, cases, doctor):
    folder = cases / "sequences_user_twice"
    for name in ("short_first", "long_first"):
      refused(lambda n=name: self.read(folder / f"{n}.txt", doctor), "time")
    assert len(self.read(folder / "pairs.txt", doctor)) > 100


class TestNumbers:
  @pytest.mark.parametrize(
    "text",
    ["nan", "inf", "-inf", "1e300", "9" * 30, "1_000", "", "True", "0x10"],
  )
  def test_times_that_are_none(self, tmp_path, doctor, text):
    assert values.seconds(text) is None
    items, log = tmp_path / "items.csv", tmp_path / "log.csv"
    items.write_text("id,title\n1,One\n")
    log.write_text(f"user,item,time\nu,1,5\nu,1,{text}\n")
    data = settings.sections(format="csv", interactions=log, items=items)[0]
    refused(lambda: csv_files.read(data, doctor), "log.csv: line 3: time")

  @pytest.mark.parametrize("text", ["nan", "inf", "1e39", "-1e300", "1_0", "x"])
  def test_ratings_that_are_none(self, tmp_path, doctor, text):
    (tmp_path / "movies.dat").write_text("1::One::x\n")
    (tmp_path / "ratings.dat").write_text(f"1::1::3::5\n1::1::{text}::5\n")
    data = settings.sections(format="movielens", raw_dir=tmp_path)[0]
    refused(lambda: movielens.read(data, doctor), "line 2: rating")

  def test_odd_clocks_are_told(self, tmp_path, doctor):
    items, log = tmp_path / "items.csv", tmp_path / "log.csv"
    items.write_text("id,title\n1,One\n")
    times = ["5", "-5", "1969-12-31", "1e9", "1700000000123", "2024-05-31"]
    log.write_text("user,item,time\n" + "".join(f"u,1,{t}\n" for t in times))
    data = settings.sections(format="csv", interactions=log, items=items)[0]
    found = csv_files.read(data, doctor).timestamp.tolist()
    assert found == [5, -5, -86400, 10**9, 1700000000123, 1717113600]
    told = {f["what"]: f["count"] for f in doctor.to_dict()["findings"]}
    assert told["interactions before 1970"] == 2
    assert [n for what, n in told.items() if "9999" in what] == [1]


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "a\nb"])
def test_names_that_no_file_has_are_one_line(tmp_path, name):
  given = str(tmp_path / name)
  refused(lambda: raw_files.given("data.train", given), "config.data.train: ")
  refused(
    lambda: raw_files.given_directory("data.raw_dir", given),
    "config.data.raw_dir: ",
  )
