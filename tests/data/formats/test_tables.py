"""Format csv on small files in the layouts of public data sets, and its words.

Files are made up; names of files, columns, separators and dates are those of
GroupLens, the Amazon releases of 2018 and 2023, Steam and Goodreads.
"""

import datetime
import gzip
import json

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from bigrec_jax import errors
from bigrec_jax.data.formats import csv_files, mistakes, moments, registry
from bigrec_jax.data.prepared import doctor as doctor_lib
from bigrec_jax.data.text import prompts
from tests.data import settings


def _write(path, content):
  if isinstance(content, list):  # Objects, one a line.
    content = "".join(json.dumps(row) + "\n" for row in content)
  if isinstance(content, dict):
    parquet.write_table(pyarrow.table(content), path)
  elif path.suffix == ".gz":
    with gzip.open(path, "wt") as file:
      file.write(content)
  else:
    encoding = "latin-1" if path.name.startswith("u.") else "utf-8"
    path.write_text(content, encoding=encoding)
  return path


def _read(folder, log, items, **columns):
  """Returns (interactions, doctor) of two files, (name, content) each."""
  data, _ = settings.sections(
    format="csv",
    interactions=_write(folder / log[0], log[1]),
    items=_write(folder / items[0], items[1]),
  )
  for name, value in columns.items():
    object.__setattr__(data.columns, name, value)
  doctor = doctor_lib.Doctor("csv")
  return csv_files.read(data, doctor), doctor


def _rows(names, *rows):
  return [dict(zip(names.split(), row, strict=True)) for row in rows]


LAYOUTS = {
  "MovieLens 100K": (
    ("u.data", "9\t3\t5\t881250949\n9\t7\t2\t881250940\n1\t7\t4\t891717742\n"),
    (
      "u.item",
      "7|Amélie, or (2001)|01-Jan-1995||http://x|0|1\n"
      "3|Heat (1995)|01-Jan-1995||http://y|1|0\n",
    ),
  ),
  "MovieLens 1M": (
    (
      "ratings.dat",
      "9::3::5::881250949\n9::7::2::881250940\n1::7::4::891717742\n",
    ),
    ("movies.dat", "7::Amélie, or (2001)::Drama|War\n3::Heat (1995)::Crime\n"),
  ),
  "MovieLens 25M and 32M": (
    (
      "ratings.csv",
      "userId,movieId,rating,timestamp\n9,3,5.0,881250949\n"
      "9,7,2.0,881250940\n1,7,4.0,891717742\n",
    ),
    (
      "movies.csv",
      'movieId,title,genres\n7,"Amélie, or (2001)",Drama|War\n'
      "3,Heat (1995),Crime\n",
    ),
  ),
  "Amazon 2018": (
    (
      "Movies_5.json.gz",
      _rows(
        "overall reviewerID asin unixReviewTime",
        (5.0, "9", "3", 881250949),
        (2.0, "9", "7", 881250940),
        (4.0, "1", "7", 891717742),
      ),
    ),
    (
      "meta_Movies.json",
      [
        {"asin": "7", "title": "Amélie, or (2001)", "also_buy": ["3"]},
        {"asin": "3", "title": "Heat (1995)", "description": ["x" * 3000]},
      ],
    ),
  ),
  "Amazon 2023": (
    (
      "Movies.jsonl",
      _rows(
        "rating title asin parent_asin user_id timestamp",
        (5, "Great", "B3", "3", "9", 881250949123),
        (2, "Meh", "B7", "7", "9", 881250940456),
        (4, "Good", "B7", "7", "1", 891717742001),
      ),
    ),
    (
      "meta_Movies.jsonl",
      [
        {"title": "Amélie, or (2001)", "price": None, "parent_asin": "7"},
        {"title": "Heat (1995)", "price": 4.5, "parent_asin": "3"},
      ],
    ),
  ),
  "Steam": (
    (
      "steam_reviews.json",
      "{u'username': u'9', u'product_id': u'3', u'date': u'1997-12-04'}\n"
      "{u'username': u'9', u'product_id': u'7', u'date': u'1997-12-03'}\n"
      "{u'username': u'1', u'product_id': u'7', u'date': u'1998-04-04',"
      " u'user_id': u'765'}\n",  # As few of them have.
    ),
    (
      "steam_games.json",
      "{u'id': u'7', u'title': u'Am\\xe9lie, or (2001)', u'price': 9.99}\n"
      "{u'id': u'3', u'app_name': u'Heat', u'title': u'Heat (1995)'}\n",
    ),
  ),
  "Goodreads": (
    (
      "interactions.json",
      _rows(
        "user_id book_id rating date_added",
        ("9", "3", 5, "Thu Dec 04 15:55:49 -0800 1997"),
        ("9", "7", 2, "Thu Dec 04 15:55:40 -0800 1997"),
        ("1", "7", 4, "Sat Apr 04 11:22:22 -0800 1998"),
      ),
    ),
    (
      "books.json",
      [
        {"isbn": "", "title": "Amélie, or (2001)", "book_id": "7"},
        {"isbn": "0", "title": "Heat (1995)", "book_id": "3"},
      ],
    ),
  ),
  "Parquet": (
    (
      "log.parquet",
      {
        "user_id": [9, 9, 1],
        "item_id": [3, 7, 7],
        "date": [
          datetime.datetime(1997, 12, 4, 23, 55, 49, 500),
          datetime.datetime(1997, 12, 4, 23, 55, 49),
          datetime.datetime(1998, 4, 4),
        ],
        "rating": [5.0, 2.0, None],
      },
    ),
    (
      "items.parquet",
      {"item_id": [7, 3], "title": ["Amélie, or (2001)", "Heat (1995)"]},
    ),
  ),
  "BookCrossing": (
    (
      "r.csv",
      '"User-ID";"ISBN";"Book-Rating"\n"9";"7";"2"\n"9";"3";"5"\n"1";"7";"4"\n',
    ),
    (
      "b.csv",
      '"ISBN";"Book-Title";"Publisher"\n"7";"Amélie, or (2001)";"A"\n'
      '"3";"Heat (1995)";"B"\n',
    ),
  ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_of_public_data_are_understood(tmp_path, name):
  log, doctor = _read(tmp_path, *LAYOUTS[name])
  assert dict(log.titles) == {"7": "Amélie, or (2001)", "3": "Heat (1995)"}
  assert log.users == ["9", "1"]
  order = np.lexsort((log.timestamp, log.user))
  assert log.item[order].tolist() == [0, 1, 0]
  if name == "Steam":
    assert log.rating is None
  else:
    last = np.nan if name == "Parquet" else 4.0
    np.testing.assert_array_equal(log.rating[order], [2.0, 5.0, last])
  told = " ".join(doctor.to_dict()["understood"])
  assert log and "user = " in told and "title = " in told
  if name != "BookCrossing":
    assert "1997-12-0" in told and "1998-04-04" in told
  assert not any(rule["removed"] for rule in doctor.to_dict()["rules"])


def test_other_columns_are_attributes(tmp_path):
  log, doctor = _read(tmp_path, *LAYOUTS["MovieLens 25M and 32M"])
  assert json.loads(log.attributes["7"]) == {"genres": "Drama|War"}
  assert "attributes: genres" in " ".join(doctor.to_dict()["understood"])
  log, _ = _read(tmp_path, *LAYOUTS["Amazon 2018"])
  assert json.loads(log.attributes["7"]) == {"also_buy": ["3"]}
  assert json.loads(log.attributes["3"]) == {}  # As long as a review.
  log, _ = _read(tmp_path, *LAYOUTS["Amazon 2023"])
  assert json.loads(log.attributes["3"]) == {"price": 4.5}


def test_a_file_without_header_by_numbers(tmp_path):
  rows = "x,u,b,good\ny,v,a,bad\n"
  log, _ = _read(
    tmp_path,
    ("log.csv", rows),
    ("items.csv", "a,One\nb,Two\n"),
    user="2",
    item="3",
  )
  assert log.users == ["u", "v"] and log.item.tolist() == [1, 0]


@pytest.mark.parametrize(
  ("log", "words"),
  [
    ("a,b,c\nu,x,1\n", ["columns a, b, c found", "columns.user", "=<number>"]),
    # Two numbers: of which one is the time?
    ("1,2,900000000,900000001\n3,4,900000000,900000002\n", ["expected"]),
    ("1,2,3,4,5\n1,2,3,4,5\n", ["columns 1, 2, 3, 4, 5 found"]),
  ],
)
def test_what_may_be_read_in_two_ways_is_asked(tmp_path, log, words):
  with pytest.raises(errors.UserError) as error:
    _read(tmp_path, ("log.csv", log), ("items.csv", "id,title\na,One\n"))
  for word in words:
    assert word in str(error.value)


def test_all_mistakes_of_both_files_are_told_at_once(tmp_path):
  rows = [
    f"u{n},a,{'noon' if n % 2 else n},{'x' if n == 8 else 3}" for n in range(20)
  ]
  log = "user,item,time,rating\n" + "\n".join(rows) + "\n"
  items = "id,title\na,One\n,Two\n"
  with pytest.raises(errors.UserError) as error:
    _read(tmp_path, ("log.csv", log), ("items.csv", items))
  text = str(error.value)
  assert "items.csv: line 3: no id found" in text and "\n" not in text
  assert "log.csv: line 3: time 'noon' found" in text
  assert (
    "7 more such times (line 9, line 11, line 13, line 15, line 17, ...)"
    in text
  )
  assert "line 10: rating 'x' found" in text


def test_mistakes_end_somewhere(tmp_path, monkeypatch):
  monkeypatch.setattr(mistakes, "_MOST", 5)
  log = "user,item,time\n" + "u,a,noon\n" * 50
  with pytest.raises(errors.UserError, match="no further was looked"):
    _read(tmp_path, ("log.csv", log), ("items.csv", "id,title\na,One\n"))


def test_rows_without_a_user_are_counted_with_what_keeps_them(tmp_path):
  log, doctor = _read(
    tmp_path,
    ("log.csv", "user,item\nu,a\n,a\nu,\nu,c\n"),
    ("items.csv", "id,title\na,One\nb,\n"),
  )
  assert len(log) == 1
  rules = {r["rule"]: r for r in doctor.to_dict()["rules"] if r["removed"]}
  assert rules["rows of log.csv without a user or an item"]["removed"] == 2
  lines = doctor_lib.summary(doctor.to_dict())
  assert any(
    "removed 1 of 2 interactions" in x and "to keep them: add" in x
    for x in lines
  )
  assert any(
    "without a title" in x and "to keep them: give" in x for x in lines
  )


@pytest.mark.parametrize(
  ("value", "expected"),
  [
    ("881250949", (881250949, 0, False)),
    (" 30.0 ", (30, 0, False)),
    ("1.5", (1, 500_000, False)),
    (-1.25, (-2, 750_000, False)),
    ("1970-01-02", (86_400, 0, True)),
    ("1970-01-01T00:00:01.25Z", (1, 250_000, True)),
    ("1970-01-01 01:00:00+01:00", (0, 0, True)),
    ("Thu Jan 01 00:00:07 +0000 1970", (7, 0, True)),
    (datetime.date(1970, 1, 3), (172_800, 0, True)),
    ("noon", None),
    ("1_000", None),
    ("nan", None),
    (True, None),
    (None, None),
  ],
)
def test_times_are_read_exactly(value, expected):
  assert moments.parse(value) == expected


def test_fractions_keep_their_order():
  clock = moments.Clock()
  times = ["1.75", "1970-01-01T00:00:01.5", "1"]
  whole = np.array([clock.read(time) for time in times])
  assert clock.whole(whole).tolist() == [1_750_000, 1_500_000, 1_000_000]
  plain = moments.Clock()
  own = np.array(
    [plain.read(time) for time in ("1700000000123", "1600000000000")]
  )
  assert plain.whole(own).tolist() == [1_700_000_000_123, 1_600_000_000_000]
  assert str(plain) == "epoch milliseconds, 2020-09-13 to 2023-11-14"


def test_short_users_give_examples_and_the_others_are_told(tmp_path):
  rows = "".join(
    f"u{user},{item},{100 * user + item}\n"
    for user in range(12)
    for item in range(1 + user % 4)
  )
  log = _write(tmp_path / "log.csv", "user,item,time\n" + rows)
  items = _write(
    tmp_path / "items.csv",
    "id,title\n" + "".join(f"{n},T{n}\n" for n in range(4)),
  )

  def read(**more):
    data, prompt = settings.sections(
      format="csv", interactions=log, items=items, **more
    )
    doctor = doctor_lib.Doctor("csv")
    content = registry.read(data, prompts.Prompt.from_config(prompt), doctor)
    rules = {r["rule"]: r for r in doctor.to_dict()["rules"]}
    count = sum(map(len, content.windows.values()))
    return count, rules

  count, rules = read()
  own = rules["with fewer than 2 items: they give no example"]
  assert count == 3 * (1 + 2 + 3) and own["removed"] == 3
  assert "data.windows=tail" in own["keep"]
  assert read(windows="tail")[0] == 12
  count, rules = read(windows="full", max_history=2)
  own = rules["with fewer than 3 items: they give no example"]
  assert count == 3 * (1 + 2) and own["removed"] == 6
  assert "data.windows=every" in own["keep"]


def test_a_header_in_latin1_names_attributes_as_text(tmp_path):
  path = tmp_path / "u.items.csv"  # "u." writes Latin-1 here.
  items = "item_id;title;Größe\n7;Stuhl;groß\n3;Bank;klein\n"
  found, _ = _read(
    tmp_path, ("log.csv", "user_id,item_id\n1,7\n1,3\n"), (path.name, items)
  )
  assert json.loads(found.attributes["7"]) == {"Größe": "groß"}


def test_blanks_around_ids_are_no_part_of_them(tmp_path):
  log = ("log.csv", "user_id, item_id, timestamp\n1, 7, 5\n1 , 3, 6\n")
  found, _ = _read(tmp_path, log, ("items.csv", "item_id,title\n7 ,A\n3,B\n"))
  assert found.titles == {"7": "A", "3": "B"}
  assert (found.user.tolist(), found.item.tolist()) == ([0, 0], [0, 1])


def test_a_column_of_items_may_be_named_in_one_file_alone(tmp_path):
  log = ("log.csv", "user_id,item_id\n1,7\n1,3\n")
  items = ("items.csv", "code,title\n7,A\n3,B\n")
  found, _ = _read(tmp_path, log, items, item="code")
  assert found.item.tolist() == [0, 1]


def test_ratings_with_a_decimal_comma(tmp_path):
  log = ("log.csv", "user_id;item_id;rating\n1;7;4,5\n1;3;2\n")
  items = ("items.csv", "item_id;title\n7;A\n3;B\n")
  assert _read(tmp_path, log, items)[0].rating.tolist() == [4.5, 2.0]
  with pytest.raises(errors.UserError, match=r"line 2: rating '4,500' found"):
    _read(tmp_path, (log[0], log[1].replace("4,5", "4,500")), items)


def test_ids_that_never_meet_are_shown_beside_each_other(tmp_path):
  log = ("log.csv", "user_id,item_id\n1,7.0\n")
  with pytest.raises(
    errors.UserError, match=r"such as '7\.0', titles are of '"
  ):
    _read(tmp_path, log, ("items.csv", "item_id,title\n7,A\n"))
