import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models

from bigrec_jax.data.prepared import doctor as doctor_lib
from bigrec_jax.data.text import tokenization


@pytest.fixture
def doctor():
  return doctor_lib.Doctor("amazon")


def findings(doctor):
  return {
    entry["what"]: entry["count"] for entry in doctor.to_dict()["findings"]
  }


def test_titles(doctor):
  titles = [
    "Doom",
    '"Doom"',
    "None",
    "<b>Bold</b>",
    "3 < 4 > 2",
    "A &amp; B",
    "R&D",
    "x" * 201,
    " ",
    "Pokémon",
    "bad \ufffd",
    "line\nbreak",
    "dedirrevo \u202etitle",
  ]
  doctor_lib.examine_titles(doctor, titles)
  found = findings(doctor)
  assert list(found.values()) == [2, 2, 1, 2, 1, 1, 1, 1, 1, 3]
  assert "titles with markup" in found


def test_the_tokenizer_says_what_it_makes_of_titles(doctor, tmp_path):
  """Where a model is given: special-token text, and what it can't write."""
  words = ["<unk>", "<s>", "</s>", "a", "b", " "]
  tokenizer = tokenizers.Tokenizer(
    models.BPE({w: i for i, w in enumerate(words)}, [], unk_token="<unk>")
  )
  tokenizer.add_special_tokens(words[:3])
  tokenizer.decoder = decoders.Fuse()
  tokenizer.save(str(tmp_path / "tokenizer.json"))
  (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
  doctor_lib.examine_tokens(
    doctor,
    ["a b", "a</s>b", "a ç", "ab"],
    tokenization.load_tokenizer(tmp_path),
  )
  special, changed = doctor.to_dict()["findings"]
  assert (special["count"], special["examples"]) == (1, ["a</s>b"])
  # Its angle brackets are no tokens either.
  assert changed["examples"] == ["a</s>b", "a ç"]


def test_a_title_cannot_break_the_lines_it_is_shown_in(doctor):
  title = "a\nb\x1b[2J\u202ec\x9b\ud800"
  doctor.found("odd titles", 1, [title])
  doctor.removed("rule", "items", 2, 1, [title])
  lines = doctor_lib.summary(doctor.to_dict())
  for line in lines[1:]:
    assert line.endswith("a\\nb\\u001b[2J\\u202ec\\u009b\\ud800")
  assert doctor.to_dict()["findings"][0]["examples"] == [title]


def test_users(doctor):
  user = np.array([0, 0, 0, 2, 2, 3])
  item = np.array([5, 5, 6, 5, 6, 0])
  doctor_lib.examine_users(doctor, user, item, 2)
  assert list(findings(doctor).values()) == [3, 1, 2, 1]


def test_splits(doctor):
  block = {
    "history": np.array([[1, 2, -1], [3, 1, 2], [-1, -1, -1], [2, 4, -1]]),
    "target": np.array([2, 3, 0, 2]),
  }
  doctor_lib.examine_split(
    doctor, "test", [block, block], np.array([0, 1, 1, 1])
  )
  assert list(findings(doctor).values()) == [2, 6, 2, 2]


def test_times(doctor):
  times = {
    "train": np.array([1, 3]),
    "valid": np.array([3, 3, 9]),
    "test": np.array([8, 10]),
  }
  doctor_lib.examine_times(doctor, times)
  checks = doctor.to_dict()["checks"]
  assert [check["holds"] for check in checks] == [True, False]
  assert "2 valid rows share" in checks[0]["detail"]


def test_the_summary_tells_what_matters(doctor):
  doctor.removed("no title", "items", 10, 8, ["B1", "B2"])
  doctor.removed("nothing", "items", 8, 8)
  doctor.found("odd things", 1_000, ["x" * 100])
  doctor.found("no such things", 0)
  doctor.check("order", False, "3 > 2")
  doctor.note("a choice")
  assert doctor_lib.summary(doctor.to_dict()) == [
    "data of format amazon",
    "  removed 2 of 10 items: no title, e.g. B1",
    f"  found 1,000 odd things, e.g. {'x' * 57}...",
    "  NOT SO: order (3 > 2)",
    "  note: a choice",
  ]
