"""Rows, wording and samples of a small store."""

import dataclasses

import numpy as np

from bigrec_jax import config as config_lib
from bigrec_jax.data.prepared.catalogue import Catalogue
from bigrec_jax.data.prepared.examples import Examples
from bigrec_jax.data.text import prompts
from bigrec_jax.tasks.auxiliary import negatives, samples, wording
from configs import cao

ITEMS = 40


def config(**changes):
  """Returns section task.auxiliary of the config with changes."""
  values = cao.get_config("tiny")
  values.task.auxiliary.update(changes)
  return config_lib.from_config_dict(values).task.auxiliary


def catalogue():
  """Returns items of several words; two have one title."""
  words = "red blue iron moon star quest saga racer puzzle city".split()
  rng = np.random.default_rng(3)
  titles = [
    " ".join(rng.choice(words, rng.integers(1, 5))) + f" {n}"
    for n in range(ITEMS)
  ]
  titles[9] = titles[4]
  ids = tuple(f"B{n:03}" for n in range(ITEMS))
  return Catalogue(ids, tuple(titles), np.ones(ITEMS, np.int64))


def examples(split="train", count=30, seed=0):
  """Returns rows of ten users with histories of 0 to 6 items and ratings."""
  rng = np.random.default_rng(seed)
  history = rng.integers(0, ITEMS, (count, 6)).astype(np.int32)
  kept = rng.integers(0, 7, count)
  history[np.arange(6) >= kept[:, None]] = -1
  ratings = rng.integers(1, 6, (count, 6)).astype(np.float32)
  rating = rng.integers(1, 6, count).astype(np.float32)
  rating[::7] = np.nan
  return Examples(
    split,
    rng.permutation(count) + 100,
    history,
    rng.integers(0, ITEMS, count).astype(np.int32),
    rng.integers(0, 10, count),
    np.arange(count),
    history_rating=np.where(history >= 0, ratings, np.float32(np.nan)),
    rating=rating,
  )


PROMPT = prompts.Prompt("consistent", "What comes next?", "Had: ")


def words(section, attributes=None):
  """Returns the wording of a section."""
  return wording.Wording(
    catalogue(), PROMPT, attributes or {}, section, lambda text: text
  )


def make(rows=None, attributes=None, seed=5, **changes):
  """Returns samples of rows, all of which say who had what."""
  section, rows = config(**changes), examples() if rows is None else rows
  own = words(section, attributes)
  had = negatives.Negatives(
    lambda: [rows], own.catalogue.groups, np.ones(ITEMS, bool)
  )
  return samples.Samples(rows, own, section, had, seed)


def one(history, target, ratings=None, rating=np.nan, user=0):
  """Returns a single row."""
  table = np.full((1, 6), -1, np.int32)
  table[0, : len(history)] = history
  known = np.full((1, 6), np.nan, np.float32)
  known[0, : len(ratings or ())] = ratings or ()
  return Examples(
    "train",
    np.array([7]),
    table,
    np.array([target], np.int32),
    np.array([user]),
    np.array([0]),
    history_rating=known,
    rating=np.array([rating], np.float32),
  )


def titled(names):
  """Returns the catalogue with the first titles in place of its own."""
  found = catalogue()
  return dataclasses.replace(
    found, titles=(*names, *found.titles[len(names) :])
  )
