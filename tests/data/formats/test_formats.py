"""Each raw format: what it reads and what it says of bad input."""

import dataclasses
import gzip
import json

import numpy as np
import pytest

from bigrec_jax import errors
from bigrec_jax.data.formats import (
  amazon,
  bigrec_json,
  csv_files,
  movielens,
  registry as formats,
  sequences,
)
from bigrec_jax.data.prepared import doctor as doctor_lib
from bigrec_jax.data.text import prompts
from tests.data import raw, settings


@pytest.fixture
def doctor():
  return doctor_lib.Doctor("test")


def removed(doctor, rule):
  return {
    entry["rule"]: entry["removed"] for entry in doctor.to_dict()["rules"]
  }[rule]


def found(doctor, start):
  return sum(
    entry["count"]
    for entry in doctor.to_dict()["findings"]
    if entry["what"].startswith(start)
  )


class TestMovieLens:
  def data(self, folder, **more):
    return settings.sections(
      "movie", format="movielens", raw_dir=folder, **more
    )[0]

  def test_dat_and_csv_and_gz_give_the_same(self, tmp_path, doctor):
    dat = raw.movielens(tmp_path / "dat")
    csv = tmp_path / "csv"
    csv.mkdir()
    with gzip.open(csv / "ratings.csv.gz", "wt") as file:
      file.write("timestamp,userId,movieId,rating\n")
      for line in open(dat / "ratings.dat"):
        user, movie, rating, time = line.strip().split("::")
        file.write(f"{time},{user},{movie},{rating}\n")
    with open(csv / "movies.csv", "w", encoding="utf-8") as file:
      file.write("movieId,title,genres\n")
      for line in open(dat / "movies.dat", encoding="utf-8"):
        key, title, _ = line.split("::")
        quoted = title.replace('"', '""')
        file.write(f'{key},"{quoted}",Drama\n')
    one = movielens.read(self.data(dat), doctor)
    two = movielens.read(self.data(csv), doctor)
    np.testing.assert_array_equal(one.user, two.user)
    np.testing.assert_array_equal(one.item, two.item)
    np.testing.assert_array_equal(one.timestamp, two.timestamp)
    assert dict(one.titles) == dict(two.titles)

  def test_users_are_numbered_by_first_line_items_by_the_title_file(
    self, tmp_path, doctor
  ):
    (tmp_path / "movies.dat").write_text("9::Nine::x\n2::Two::x\n9::Neuf::x\n")
    (tmp_path / "ratings.dat").write_text(
      "7::2::5::30\n3::9::1::20\n7::404::5::10\n7::9::0.5::10\n"
    )
    log = movielens.read(self.data(tmp_path), doctor)
    assert log.user.tolist() == [0, 1, 0]
    assert log.item.tolist() == [1, 0, 0]
    assert log.timestamp.tolist() == [30, 20, 10]
    assert dict(log.titles) == {"9": "Neuf", "2": "Two"}
    assert removed(doctor, "movies that movies.dat lacks") == 1

  @pytest.mark.parametrize(
    "encoding, title",
    [("auto", "Amélie"), ("utf-8", "Amélie"), ("iso-8859-1", "AmÃ©lie")],
  )
  def test_the_encoding_of_utf8_titles(self, tmp_path, doctor, encoding, title):
    (tmp_path / "movies.dat").write_text("1::Amélie::x\n", encoding="utf-8")
    (tmp_path / "ratings.dat").write_text("1::1::5::30\n")
    log = movielens.read(self.data(tmp_path, encoding=encoding), doctor)
    assert list(log.titles.values()) == [title]

  def test_latin1_titles(self, tmp_path, doctor):
    (tmp_path / "movies.dat").write_bytes("1::Amélie::x\n".encode("latin-1"))
    (tmp_path / "ratings.dat").write_text("1::1::5::30\n")
    log = movielens.read(self.data(tmp_path), doctor)
    assert list(log.titles.values()) == ["Amélie"]
    with pytest.raises(
      errors.UserError, match="movies.dat: line 1: byte 0xe9 found"
    ):
      movielens.read(self.data(tmp_path, encoding="utf-8"), doctor)

  @pytest.mark.parametrize(
    "ratings, message",
    [
      ("1::1::5\n", "line 1: .*user::movie::rating::timestamp expected"),
      ("1::1::5::3\n1::1::five::3\n", "line 2: rating 'five' found, a number"),
      ("1::1::5::noon\n", "line 1: timestamp 'noon' found, whole seconds"),
      ("1::404::5::3\n", "1 interactions found, none of them with an item"),
      ("", "0 interactions found"),
    ],
  )
  def test_bad_ratings_are_named(self, tmp_path, doctor, ratings, message):
    (tmp_path / "movies.dat").write_text("1::One::x\n")
    (tmp_path / "ratings.dat").write_text(ratings)
    with pytest.raises(errors.UserError, match=f"ratings.dat: {message}"):
      movielens.read(self.data(tmp_path), doctor)

  @pytest.mark.parametrize(
    "movies, message",
    [
      ("", "no titles found"),
      ("1::One::x\njunk\n", "line 2: 'junk' found, id::title::genres"),
    ],
  )
  def test_bad_titles_are_named(self, tmp_path, doctor, movies, message):
    (tmp_path / "movies.dat").write_text(movies)
    (tmp_path / "ratings.dat").write_text("1::1::5::3\n")
    with pytest.raises(errors.UserError, match=f"movies.dat: {message}"):
      movielens.read(self.data(tmp_path), doctor)

  def test_bad_csv_is_named(self, tmp_path, doctor):
    (tmp_path / "movies.csv").write_text("movieId,title\n1,One\n")
    path = tmp_path / "ratings.csv"
    path.write_text("userId,movieId,timestamp\n1,1,1\n")
    with pytest.raises(
      errors.UserError, match="line 1: columns userId, movieId"
    ):
      movielens.read(self.data(tmp_path), doctor)
    path.write_text("userId,movieId,rating,timestamp\n1,1,1,1\n1,1,1\n")
    with pytest.raises(errors.UserError, match="line 3: 3 fields found, 4"):
      movielens.read(self.data(tmp_path), doctor)

  def test_missing_files_are_named(self, tmp_path):
    with pytest.raises(errors.UserError, match="config.data.raw_dir: empty"):
      movielens.files(self.data(""))
    with pytest.raises(errors.UserError, match="nowhere: no such folder"):
      movielens.files(self.data(tmp_path / "nowhere"))
    with pytest.raises(errors.UserError, match="no ratings.dat, ratings.csv"):
      movielens.files(self.data(tmp_path))
    (tmp_path / "ratings.dat").write_text("1::1::5::3\n")
    with pytest.raises(errors.UserError, match="ratings.dat but no movies.dat"):
      movielens.files(self.data(tmp_path))
    with pytest.raises(
      errors.UserError, match="config.data.catalogue: .*no such"
    ):
      movielens.files(self.data(tmp_path, catalogue=tmp_path / "none.txt"))


class TestAmazon:
  def data(self, folder, **more):
    return settings.sections(format="amazon", raw_dir=folder, **more)[0]

  def write(self, folder, reviews, meta):
    for name, values in (("G_5.json", reviews), ("meta_G.json", meta)):
      text = "".join(json.dumps(value) + "\n" for value in values)
      (folder / name).write_text(text)

  def review(self, user, item, time, **more):
    return {
      "reviewerID": user,
      "asin": item,
      "unixReviewTime": time,
      "overall": 5.0,
      **more,
    }

  def test_titles_and_reviews_are_filtered_as_published(self, tmp_path, doctor):
    incomplete = self.review("u", "b", 3)
    del incomplete["overall"]
    self.write(
      tmp_path,
      [
        self.review("short", "x", 1),
        self.review("v", "b", 2),
        incomplete,
        self.review("u", "a", 9),
        self.review("u", "missing", 9),
      ],
      [
        {"asin": "unreviewed", "title": "Nobody"},
        {"asin": "a", "title": "&amp; one"},
        {"asin": "x", "title": "X"},
        {"asin": "b", "title": " two"},
        {"asin": "a", "title": "last counts"},
        {"asin": "b", "title": ""},
      ],
    )
    log = amazon.read(self.data(tmp_path), doctor)
    assert dict(log.titles) == {"a": "last counts", "b": " two"}
    assert log.user.tolist() == [0, 1]
    assert log.item.tolist() == [1, 0]
    assert removed(doctor, "reviews without overall or unixReviewTime") == 1
    assert removed(doctor, "items without a title") == 2
    assert removed(doctor, "title missing or shorter than 2 characters") == 2
    assert found(doctor, "reviewed items that the metadata lack") == 1

  def test_a_catalogue_file_replaces_the_metadata(self, tmp_path, doctor):
    self.write(tmp_path, [self.review("u", "a", 1)], [])
    names = tmp_path / "id2name.txt"
    names.write_text("None\tb\n A \ttitle\ta\n")
    log = amazon.read(self.data(tmp_path, catalogue=names), doctor)
    assert dict(log.titles) == {"b": "None", "a": " A \ttitle"}

  @pytest.mark.parametrize(
    "line, message",
    [
      ("{'asin': 'a'}", "line 2: .*a JSON object expected .*Python dict"),
      ('{"asin": "a"', "line 2: .*a JSON object expected"),
      ("[1]", "line 2: list found, a JSON object expected"),
      ('{"asin": "a"}', "line 2: no reviewerID found"),
      (
        '{"asin":"a","reviewerID":"u","overall":1,"unixReviewTime":"x"}',
        "line 2: unixReviewTime 'x' found, whole seconds",
      ),
    ],
  )
  def test_bad_lines_are_named(self, tmp_path, doctor, line, message):
    self.write(tmp_path, [self.review("u", "a", 1)], [])
    path = tmp_path / "G_5.json"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(errors.UserError, match=f"G_5.json: {message}"):
      amazon.read(self.data(tmp_path), doctor)

  def test_files_are_found_by_name(self, tmp_path, doctor):
    with pytest.raises(errors.UserError, match="none; exactly one"):
      amazon.files(self.data(tmp_path))
    (tmp_path / "G_5.json.gz").touch()
    with pytest.raises(errors.UserError, match="no meta_G.json"):
      amazon.files(self.data(tmp_path))
    (tmp_path / "H_5.json").touch()
    with pytest.raises(errors.UserError, match="G_5.json, H_5.json; exactly"):
      amazon.files(self.data(tmp_path))

  def test_no_titles_at_all(self, tmp_path, doctor):
    self.write(tmp_path, [self.review("u", "a", 1)], [{"asin": "a"}])
    with pytest.raises(errors.UserError, match="meta_G.json: no reviewed item"):
      amazon.read(self.data(tmp_path), doctor)


class TestSequences:
  def data(self, path, **more):
    return settings.sections(format="sequences", train=path, **more)[0]

  def test_one_user_a_line(self, tmp_path, doctor):
    path = tmp_path / "s.txt"
    path.write_text("7 10 9 10 2\n\n3 2 9\n1 9 2 10\n")
    log = sequences.read(self.data(path), doctor)
    assert list(log.titles) == ["2", "9", "10"]
    assert list(log.titles.values()) == ["item 2", "item 9", "item 10"]
    assert log.user.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert log.item.tolist() == [2, 1, 2, 0, 1, 0, 2]
    assert removed(doctor, "fewer than 3 items") == 1

  def test_titles_of_a_catalogue(self, tmp_path, doctor):
    path, names = tmp_path / "s.txt", tmp_path / "n.json"
    path.write_text("u a b c d\n")
    names.write_text(json.dumps({"c": "C!", "a": "A!", "b": "B!"}))
    log = sequences.read(self.data(path, catalogue=names), doctor)
    assert list(log.titles.values()) == ["C!", "A!", "B!"]
    assert log.item.tolist() == [1, 2, 0]
    assert removed(doctor, "items that n.json lacks") == 1

  @pytest.mark.parametrize(
    "text, message",
    [
      ("1 1 2 3\n2\n", "line 2: '2' found, a user and at least one item"),
      ("1 1 2 3\n1 4 5 6\n", "line 2: user '1' a second time"),
      ("1 2 3\n", "no user with at least 3 items"),
      ("", "no user with at least 3 items"),
    ],
  )
  def test_bad_lines_are_named(self, tmp_path, doctor, text, message):
    path = tmp_path / "s.txt"
    path.write_text(text)
    with pytest.raises(errors.UserError, match=f"s.txt: {message}"):
      sequences.read(self.data(path), doctor)


class TestBigrec:
  NAMES = {
    "7": "Doom",
    "3": 'A", "B',
    "5": "Pokémon",
    "9": "Doom",
    "4": " Myst",
  }

  def rows(self, *pairs, lead=None):
    prompt = settings.sections()[1]
    return [
      {
        "instruction": prompt.instruction,
        "input": (prompt.history if lead is None else lead)
        + ", ".join(f'"{title}"' for title in history)
        + "\n ",
        "output": f'"{target}"',
      }
      for history, target in pairs
    ]

  def data(self, folder, train, **more):
    names = folder / "names.json"
    names.write_text(json.dumps(self.NAMES))
    spare = folder / "spare.json"
    spare.write_text(json.dumps(self.rows((["Doom"], "Pokémon"))))
    path = folder / "train.json"
    path.write_text(json.dumps(train))
    return settings.sections(
      format="bigrec",
      train=path,
      valid=spare,
      test=spare,
      catalogue=names,
      **more,
    )

  def read(self, sections, doctor):
    data, prompt = sections
    rows = bigrec_json.read(data, prompts.Prompt.from_config(prompt), doctor)
    columns = rows.windows["train"].columns(slice(None))
    histories = [
      [n for n in row if n >= 0] for row in columns["history"].tolist()
    ]
    return histories, columns["target"].tolist(), rows

  def test_texts_become_ids_where_the_prompt_gives_them_back(
    self, tmp_path, doctor
  ):
    train = self.rows(
      (["Doom", 'A", "B', "Pokémon"], " Myst"),
      ([], "Doom"),
      ([" Myst"], "Myst"),
    )
    histories, targets, rows = self.read(self.data(tmp_path, train), doctor)
    assert histories == [[0, 1, 2], [], [4]]
    assert targets == [4, 0, 4]
    assert rows.overrides["train"] == {}
    assert rows.train_popularity()[0].tolist() == [1, 0, 0, 0, 2]

  def test_other_texts_are_kept(self, tmp_path, doctor):
    train = (
      self.rows((["Doom"], "Doom"), lead="You had: ")
      + self.rows((["Doom", "Unheard of", "Pokémon"], "Doom"))
      + self.rows((["PokÃ©mon"], "PokÃ©mon"))
      + [{"instruction": "Go", "input": 'the "best one', "output": "Doom"}]
      + self.rows((["Doom"] * 12, "Doom"))
    )
    histories, targets, rows = self.read(self.data(tmp_path, train), doctor)
    assert histories == [[0], [0, 2], [2], [], [0] * 10]
    assert targets == [0, 0, 2, 0, 0]
    assert rows.overrides["train"] == {
      n: (row["instruction"], row["input"]) for n, row in enumerate(train)
    }
    assert found(doctor, "history items that the catalogue lacks") == 1
    assert found(doctor, "inputs that aren't a list") == 1
    assert found(doctor, "titles found only after undoing") == 2
    assert found(doctor, "histories longer than") == 1
    assert found(doctor, "train rows that keep") == 5

  def test_the_prompt_of_other_files_is_told(self, tmp_path, doctor):
    train = self.rows(*[(["Doom"], "Doom")] * 3, lead="Had: ")
    _, _, rows = self.read(self.data(tmp_path, train), doctor)
    assert rows.instructions[0] == (
      settings.sections()[1].instruction,
      "Had: ",
    )
    (note,) = doctor.to_dict()["notes"]
    assert note.startswith("3 rows have the instruction") and "'Had: '" in note

  @pytest.mark.parametrize(
    "row, message",
    [
      (
        {"instruction": "", "input": ""},
        "row 1: instruction, input found, output as text expected",
      ),
      (
        {"instruction": "", "input": "", "output": None},
        "row 1: output None found, output as text expected",
      ),
      (
        {"instruction": "", "input": "", "output": '"Hexen"'},
        "row 1: output '\"Hexen\"' found, a title of config.data.catalogue",
      ),
    ],
  )
  def test_bad_rows_are_named(self, tmp_path, doctor, row, message):
    with pytest.raises(errors.UserError, match=f"train.json: {message}"):
      self.read(self.data(tmp_path, [row]), doctor)

  def test_an_empty_file_is_named(self, tmp_path, doctor):
    with pytest.raises(errors.UserError, match="train.json: no rows found"):
      self.read(self.data(tmp_path, []), doctor)

  def test_missing_keys_are_named(self, tmp_path):
    data, _ = settings.sections(format="bigrec")
    with pytest.raises(errors.UserError, match="config.data.catalogue: empty"):
      bigrec_json.files(data)
    data, _ = self.data(tmp_path, [])
    (tmp_path / "spare.json").unlink()
    with pytest.raises(errors.UserError, match="config.data.valid: .*no such"):
      bigrec_json.files(data)

  def csv(self, folder, text, **more):
    path = folder / "rows.csv"
    path.write_text(text)
    names = folder / "names.json"
    names.write_text(json.dumps(self.NAMES))
    return settings.sections(
      format="bigrec", train=path, test=path, catalogue=names, **more
    )

  def test_csv_rows_have_ids_users_and_times(self, tmp_path, doctor):
    lines = "".join(
      f'{n % 4},"[7, 3, {5 - n % 2 * 2}]",{n}\n' for n in range(18)
    )
    sections = self.csv(tmp_path, f"user_id,item_ids,timestamp\n{lines}")
    histories, targets, rows = self.read(sections, doctor)
    assert histories == [[0, 1]] * 16
    assert targets == [2, 1] * 8
    valid = rows.windows["valid"].columns(slice(None))
    assert valid["timestamp"].tolist() == [16, 17]
    assert valid["user"].tolist() == [0, 1]
    assert rows.train_popularity()[0].tolist() == [4, 4, 2, 0, 0]

  @pytest.mark.parametrize(
    "text, message",
    [
      ("item_ids\n5\n", "line 2: item_ids '5' found, a list with"),
      ('item_ids\n"[5, 404]"\n', "line 2: target 404 found, an id of"),
      ("item_ids\n[5\n", "line 2: item_ids '\\[5' and timestamp None found"),
      ("items\n[5]\n", "line 1: columns items found, item_ids expected"),
      ("user_id,item_ids\n[5]\n", "line 2: 1 fields found, 2 expected"),
      ("item_ids\n[5]\n", "no timestamp to cut a valid split by"),
    ],
  )
  def test_bad_csv_is_named(self, tmp_path, doctor, text, message):
    with pytest.raises(errors.UserError, match=f"rows.csv.*{message}"):
      self.read(self.csv(tmp_path, text), doctor)


def test_too_little_data_for_three_splits_is_said(tmp_path, doctor):
  (tmp_path / "movies.dat").write_text("1::One::x\n")
  (tmp_path / "ratings.dat").write_text("1::1::5::3\n" * 11)
  data, prompt = settings.sections(
    "movie", format="movielens", raw_dir=tmp_path
  )
  with pytest.raises(errors.UserError, match="train 0, valid 0, test 1"):
    formats.read(data, prompts.Prompt.from_config(prompt), doctor)


def test_popularity_is_counted_on_train_only(tmp_path, doctor):
  folder = raw.amazon(tmp_path)
  data, prompt = settings.sections(format="amazon", raw_dir=folder)
  content = formats.read(data, prompts.Prompt.from_config(prompt), doctor)
  assert content.popularity.sum() == content.counts["train_interactions"]
  assert content.counts["train_interactions"] < content.counts["interactions"]


class TestMovieLens100K:
  def test_tabs_and_bars_are_read(self, tmp_path, doctor):
    (tmp_path / "u.item").write_bytes(
      "7|Amélie (2001)|01-Jan-2001||http://x|0\n3|Heat (1995)|x||y|1\n".encode(
        "latin-1"
      )
    )
    (tmp_path / "u.data").write_text("9\t3\t5\t20\n9\t7\t2\t10\n1\t7\t4\t5\n")
    data = settings.sections("movie", format="movielens", raw_dir=tmp_path)[0]
    log = movielens.read(data, doctor)
    assert dict(log.titles) == {"7": "Amélie (2001)", "3": "Heat (1995)"}
    assert log.user.tolist() == [0, 0, 1]
    assert log.item.tolist() == [1, 0, 0]
    assert log.timestamp.tolist() == [20, 10, 5]
    assert log.rating.tolist() == [5.0, 2.0, 4.0]

  def test_another_separator_is_named(self, tmp_path, doctor):
    (tmp_path / "u.item").write_text("7|Heat|x\n")
    (tmp_path / "u.data").write_text("9 7 5 20\n")
    data = settings.sections("movie", format="movielens", raw_dir=tmp_path)[0]
    with pytest.raises(errors.UserError, match="line 1: .*user<TAB>movie<TAB>"):
      movielens.read(data, doctor)


class TestCsv:
  def read(self, tmp_path, doctor, log, items="id,title\na,One\nb,Two\n", **x):
    for name, text in (("log.csv", log), ("items.csv", items)):
      (tmp_path / name).write_text(text, encoding="latin-1")
    data, _ = settings.sections(
      "movie",
      format="csv",
      interactions=tmp_path / "log.csv",
      items=tmp_path / "items.csv",
    )
    data = dataclasses.replace(
      data, columns=dataclasses.replace(data.columns, **x)
    )
    return csv_files.read(data, doctor)

  def test_columns_by_usual_names_and_any_separator(self, tmp_path, doctor):
    log = self.read(
      tmp_path,
      doctor,
      "Rating\tUser-ID\tISBN\tTimestamp\n4.5\tu\tb\t1970-01-02\n\tv\ta\t30.0\n",
      "Book-Title|ISBN\nEins|a\nZwei|b\n",
    )
    assert dict(log.titles) == {"a": "Eins", "b": "Zwei"}
    assert log.item.tolist() == [1, 0]
    assert log.timestamp.tolist() == [86400, 30]
    assert log.rating[0] == 4.5 and np.isnan(log.rating[1])

  def test_without_times_and_ratings_the_order_counts(self, tmp_path, doctor):
    rows = "who,item\nu,b\nu,a,a\nu,a\n"
    log = self.read(tmp_path, doctor, rows, user="who")
    assert log.timestamp.tolist() == sorted(log.timestamp.tolist())
    assert log.item.tolist() == [1, 0]
    assert log.rating is None
    assert removed(doctor, "rows of log.csv without 2 fields") == 1

  def test_authors_stand_behind_titles(self, tmp_path, doctor):
    log = self.read(
      tmp_path,
      doctor,
      "user,item\nu,a\n",
      "id,title,by\na,One,A. B.\nb,,C\n",
      author="by",
    )
    assert dict(log.titles) == {"a": "One written by A. B."}
    assert removed(doctor, "items without a title") == 1

  @pytest.mark.parametrize(
    "log, columns, message",
    [
      ("who,item\nu,a\n", {}, "columns who, item found, user or userid or"),
      ("user,item\nu,a\n", {"time": "when"}, "when expected .*columns.time"),
      ("user,item,time\nu,a,noon\n", {}, "line 2: time 'noon' found, seconds"),
      ("user,item,rating\nu,a,good\n", {}, "line 2: rating 'good' found, a"),
    ],
  )
  def test_bad_tables_are_named(self, tmp_path, doctor, log, columns, message):
    with pytest.raises(errors.UserError, match=f"log.csv: .*{message}"):
      self.read(tmp_path, doctor, log, **columns)
