"""Facts of docs/reference.md that no other test shows."""

import dataclasses
import gzip
import json
import pathlib
import re
import types

import numpy as np
import pytest

from bigrec_jax import config as config_lib, errors
from bigrec_jax.data.formats import movielens, title_files
from bigrec_jax.data.prepared import doctor, examples, splits
from bigrec_jax.data.prepared.catalogue import Catalogue
from bigrec_jax.data.text import prompts
from bigrec_jax.models import last_state
from bigrec_jax.recommend import decoder
from bigrec_jax.stages import embed, injected, predictions
from bigrec_jax.tasks import next_title
from bigrec_jax.workdir import ledger, parts, paths
from configs import common, game, movie
from tests.data import settings

ROOT = pathlib.Path(__file__).resolve().parents[2]
TITLES = ("Doom", " Myst", "Pokémon &amp; Friends")


def test_every_test_that_the_table_names_exists():
  """A row of docs/reference.md whose test was renamed says nothing."""
  text = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
  named = re.findall(r"`(tests/[\w/]+\.py)::((?:\w+::)?test_\w+)`", text)
  assert len(named) > 40
  for file, name in named:
    source = (ROOT / file).read_text(encoding="utf-8")
    assert f"def {name.split('::')[-1]}(" in source, f"{file}::{name}"


def test_the_table_has_every_quirk():
  text = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
  numbers = re.findall(r"^\| (\d+) \|", text, re.MULTILINE)
  assert numbers == [str(n) for n in range(1, len(numbers) + 1)]
  assert len(numbers) >= 37


def test_every_option_that_the_table_names_exists():
  text = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
  tree = common.get_config()
  sections = "|".join(tree.keys())
  named = re.findall(rf"`((?:{sections})\.(?!json)[a-z_0-9.]+)[=`]", text)
  assert len(named) > 15
  for key in named:
    node = tree
    for part in key.split("."):
      assert part in node, key
      node = node[part]


def test_defaults_are_the_readmes():
  """The published command line, not the defaults of its train.py."""
  for make in (movie, game):
    config = make.get_config()
    train = config.train
    assert (train.learning_rate, train.train_on_inputs) == (1e-4, True)
    assert (train.batch_size, train.micro_batch_size) == (128, 4)
    assert (train.num_epochs, train.warmup_steps) == (50, 20)
    assert (train.early_stopping_patience, train.max_length) == (5, 512)
    assert (train.max_grad_norm, train.weight_decay) == (1.0, 0.0)
    lora = config.lora
    assert (lora.rank, lora.alpha, lora.dropout) == (8, 16.0, 0.05)
    assert lora.target_modules == ("q_proj", "v_proj")
    decode = config.generate
    assert (decode.num_beams, decode.max_new_tokens) == (4, 128)
    assert (decode.length_penalty, decode.early_stopping) == (1.0, False)
    assert not decode.sample
    assert config.ground.cutoffs == (1, 3, 5, 10, 20, 50)
  assert movie.get_config().ground.duplicates == "last"
  assert movie.get_config().ground.gamma_grid == "movie_ci"
  assert game.get_config().ground.duplicates == "best"
  assert game.get_config().ground.gamma_grid == "game_ci"


def test_old_length_norms_count_the_widest_prompt_of_eight():
  tokens = [[5] * n for n in (3, 9, 4, 1, 2, 6, 7, 8, 2, 5, 1)]
  options = config_lib.from_config_dict(common.get_config()).generate
  assert decoder.norm_lengths(tokens, options) is None
  tree = common.get_config()
  tree.generate.length_norm_includes_prompt = True
  options = config_lib.from_config_dict(tree).generate
  found = decoder.norm_lengths(tokens, options)
  assert found.tolist() == [9] * 8 + [5] * 3


def make_run(tmp_path, predict):
  """A stand-in for a session with two test examples and a predictions file."""
  tree = common.get_config()
  tree.ground.predictions.test = str(tmp_path / "test.json")
  rows = [
    {"instruction": "", "input": "", "output": f'"{TITLES[n]}"', "predict": p}
    for n, p in zip((1, 2), predict, strict=True)
  ]
  (tmp_path / "test.json").write_text(json.dumps(rows))
  wanted = examples.Examples(
    "test",
    np.arange(2),
    np.zeros((2, 1), np.int32),
    np.array([1, 2], np.int32),
    np.arange(2),
    np.arange(2),
  )
  run = types.SimpleNamespace(
    config=config_lib.from_config_dict(tree),
    catalogue=Catalogue(("a", "b", "c"), TITLES, np.array([5, 0, 2])),
    examples=lambda split: wanted,
    ledger=ledger.Ledger(paths.Paths(tmp_path)),
  )
  run.offered = run.catalogue
  run.prompt = prompts.Prompt.from_config(run.config.prompt)
  run.task = next_title.Task(run)
  return run


def test_only_the_first_hypothesis_counts(tmp_path):
  run = make_run(tmp_path, [['"Doom"\n', '"Myst"'], ["Quake", '"Doom"']])
  assert predictions.titles(run, "test") == ["Doom", "Quake"]


def test_predictions_that_changed_are_told_whatever_their_name(tmp_path):
  run = make_run(tmp_path, [['"Doom"'], ['"Doom"']])
  path = (tmp_path / "test.json").rename(tmp_path / "test[1]*.json")
  given = dataclasses.replace(run.config.ground.predictions, test=str(path))
  ground = dataclasses.replace(run.config.ground, predictions=given)
  run.config = dataclasses.replace(run.config, ground=ground)
  predictions.titles(run, "test")
  assert run.ledger.notes == []
  path.write_text(path.read_text() + "\n")
  predictions.titles(run, "test")
  assert [
    note.partition(": changed since")[0] for note in run.ledger.notes
  ] == [str(path)]


def test_predictions_of_other_rows_are_refused(tmp_path):
  run = make_run(tmp_path, [['"Doom"'], ['"Doom"']])
  path = tmp_path / "test.json"
  rows = json.loads(path.read_text())
  path.write_text(json.dumps(rows[::-1]))
  with pytest.raises(errors.UserError, match="row 0: output .*2 rows differ"):
    predictions.titles(run, "test")
  path.write_text(json.dumps(rows[:1]))
  with pytest.raises(errors.UserError, match="1 rows found, the 2 of split"):
    predictions.titles(run, "test")


def test_titles_are_embedded_by_the_base_without_quotes(tmp_path, monkeypatch):
  run = make_run(tmp_path, [['"Doom"'], ['"Doom"']])
  network = types.SimpleNamespace(config=types.SimpleNamespace(hidden_size=1))
  run.encoder = last_state.LastState(
    model=network,
    params="base weights",
    tokenizer=types.SimpleNamespace(encode_data=lambda texts: texts),
    batch_size=4,
    mesh=None,
    fingerprint="",
  )

  class Stage:
    def __enter__(self):
      return None

    def __exit__(self, *error):
      return None

  run.stage = lambda *names: Stage()
  seen = []

  def embed_texts(model, params, tokens, *rest):
    seen.append((model, params, tokens))
    return np.arange(len(tokens), dtype=np.float32)[:, None]

  monkeypatch.setattr(last_state, "embed_texts", embed_texts)
  items = np.array([[10], [11], [12]], np.float32)
  kept = parts.Parts(tmp_path / "parts", "test")
  texts = [prompts.extract_title(t) for t in ('"Myst"', ' "Quake" \n', "Doom")]
  found = embed.embed_queries(run, texts, items, "test", kept)
  assert seen == [(network, "base weights", ["Quake"])]
  # Titles of the catalogue take the very vectors of the catalogue.
  assert found.tolist() == [[11], [0], [10]]


def test_popularity_file_is_keyed_by_external_id(tmp_path):
  run = make_run(tmp_path, [['"Doom"'], ['"Doom"']])
  assert injected.popularity(run).tolist() == [5, 0, 2]
  path = tmp_path / "popularity.json"
  path.write_text('{"c": 7, "unknown": 9}')
  tree = common.get_config()
  tree.ground.popularity = str(path)
  run.config = config_lib.from_config_dict(tree)
  assert injected.popularity(run).tolist() == [0, 0, 7]
  path.write_text('{"unknown": 9}')
  with pytest.raises(errors.UserError, match="none of its 1 ids"):
    injected.popularity(run)


def test_low_ratings_and_repeated_items_are_targets(tmp_path):
  (tmp_path / "movies.dat").write_text("1::One::x\n2::Two::x\n")
  lines = [f"7::{1 + n % 2}::0.5::{n}\n" for n in range(12)]
  (tmp_path / "ratings.dat").write_text("".join(lines))
  data, _ = settings.sections("movie", format="movielens", raw_dir=tmp_path)
  log = movielens.read(data, doctor.Doctor("movielens"))
  parts = splits.chronological(splits.timeline(log), "full", 10)
  rows = [
    (history, target)
    for part in parts.values()
    for history, target in zip(
      part.columns(slice(None))["history"].tolist(),
      part.columns(slice(None))["target"].tolist(),
      strict=True,
    )
  ]
  assert len(rows) == 2
  assert all(target in history for history, target in rows)


def test_rows_of_one_day_fall_on_both_sides_of_a_split():
  log = types.SimpleNamespace(
    user=np.zeros(31, np.int64),
    item=np.arange(31, dtype=np.int32),
    timestamp=np.full(31, 86_400),
    rating=None,
  )
  parts = splits.chronological(splits.timeline(log), "every", 10)
  assert [len(part) for part in parts.values()] == [24, 3, 3]
  days = {
    d for p in parts.values() for d in p.columns(slice(None))["timestamp"]
  }
  assert days == {86_400}


def test_the_published_game_catalogue(shared_data, tmp_path):
  source = shared_data / "bigrec-catalogues" / "game_id2name.txt.gz"
  path = tmp_path / "id2name.txt"
  path.write_bytes(gzip.decompress(source.read_bytes()))
  titles = title_files.read(path, "auto", doctor.Doctor("amazon"))
  assert list(titles) == [str(n) for n in range(17_408)]
  items = Catalogue(
    tuple(titles), tuple(titles.values()), np.zeros(len(titles), np.int64)
  )
  sizes = np.bincount(items.groups, minlength=len(items))
  assert np.count_nonzero(sizes) == 16_920
  assert np.count_nonzero(sizes > 1) == 383
  assert sizes[sizes > 1].sum() == 871
  assert sum(title == "None" for title in titles.values()) == 19
  assert sum("&amp;" in title for title in titles.values()) > 100
  assert titles["1"] == " Cake Mania 2 - Nintendo DS"
