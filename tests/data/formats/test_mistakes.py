"""All mistakes of all files of a format are told in one go."""

import json

import pytest

from bigrec_jax import errors
from bigrec_jax.data.formats import mistakes, registry
from bigrec_jax.data.prepared import doctor as doctor_lib
from bigrec_jax.data.text import prompts
from tests.data import settings

ROW = {"instruction": "i", "input": "", "output": '"One"'}

# Files by name, keys of the configuration, and what one error has to name.
FORMATS = {
  "movielens": (
    {
      "movies.dat": "1::One::x\nno bars\n2::Two::x\n::Three\n",
      "ratings.dat": "1::1::5::30\n1::1::five::30\n1::1::5::never\n1::1\n",
    },
    {"raw_dir": "."},
    ["movies.dat: line 2: 'no bars'", "line 4", "ratings.dat: line 2: rating"]
    + ["line 3: timestamp", "line 4: '1::1'"],
  ),
  "amazon": (
    {
      "A_5.json": '{"reviewerID": "u"}\nnonsense\n{"reviewerID": "u", "asin":'
      ' "1", "overall": 5, "unixReviewTime": "x"}\n',
      "meta_A.json": '[]\n{"asin": 7}\n',
    },
    {"raw_dir": "."},
    ["A_5.json: line 1: no asin", "line 2: not valid JSON", "line 3: unixRev"]
    + ["meta_A.json: line 1: list found", "line 2: 7 found, asin as text"],
  ),
  "sequences": (
    {"s.txt": "1 2 3 4\n9\n8\n", "titles.csv": "id,title\n1\n2,b\n3\n"},
    {"train": "s.txt", "catalogue": "titles.csv"},
    ["s.txt: line 2: '9' found", "line 3: '8'", "titles.csv: line 2: 1 fields"]
    + ["line 4: 1 fields"],
  ),
  "bigrec": (
    {
      "train.json": json.dumps(
        [ROW, {**ROW, "output": '"Two"'}, {"input": ""}]
      ),
      "valid.json": json.dumps([ROW]),
      "test.csv": "item_ids\nx\n\"['7']\"\n",
      "titles.txt": "One\t1\n",
    },
    {
      "train": "train.json",
      "valid": "valid.json",
      "test": "test.csv",
      "catalogue": "titles.txt",
    },
    ["train.json: row 2: output", "row 3: ", "test.csv: line 2"]
    + ["line 3: target '7'"],
  ),
  "csv": (
    {
      "log.jsonl": '{"user_id": 1, "item_id": 1, "rating": "x"}\nnonsense\n',
      "items.csv": "item_id,title\n,a\n,b\n",
    },
    {"interactions": "log.jsonl", "items": "items.csv"},
    ["items.csv: line 2: no id", "line 3: no id", "log.jsonl: line 1: rating"]
    + ["line 2: not valid JSON"],
  ),
}


def read(tmp_path, name, keys):
  files = {key: tmp_path / file for key, file in keys.items()}
  data, _ = settings.sections(format=name, **files)
  prompt = prompts.Prompt("consistent", "i", "h")
  return registry.read(data, prompt, doctor_lib.Doctor(name))


@pytest.mark.parametrize("name", FORMATS)
def test_all_mistakes_of_all_files_are_told_at_once(tmp_path, name):
  files, keys, wanted = FORMATS[name]
  for file, text in files.items():
    (tmp_path / file).write_text(text)
  with pytest.raises(errors.UserError) as error:
    read(tmp_path, name, keys)
  for part in wanted:
    assert part in str(error.value), (part, str(error.value))
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["sequences", "bigrec", "csv"])
def test_all_missing_files_are_told_at_once(tmp_path, name):
  _, keys, _ = FORMATS[name]
  with pytest.raises(errors.UserError) as error:
    read(tmp_path, name, keys)
  for key in keys:
    assert f"config.data.{key}: " in str(error.value)


def test_what_ends_the_reading_comes_after_what_was_noted(tmp_path):
  path = tmp_path / "a.csv"
  with pytest.raises(errors.UserError) as error, mistakes.of(path) as wrong:
    wrong.add("rows", "line 1", "one")
    raise errors.UserError(f"{path}: line 9: a quote opens")
  assert str(error.value) == f"{path}: line 1: one; line 9: a quote opens"
  with (
    pytest.raises(errors.UserError, match="no further") as error,
    mistakes.of(path) as wrong,
  ):
    for number in range(20_000):
      wrong.add("rows", f"line {number}", "one")
  assert len(wrong) == 10_000 and len(str(error.value)) < 1000
