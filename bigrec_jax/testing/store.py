"""A small store: catalogue, examples, prompt and tokenizer for whole runs."""

import os
import pathlib

import numpy as np

from bigrec_jax.data.prepared import catalogue as catalogue_lib
from bigrec_jax.data.prepared.examples import Examples
from bigrec_jax.data.text import pipeline, prompts, tokenization
from bigrec_jax.tasks import next_title

ITEMS = 17


def catalogue() -> catalogue_lib.Catalogue:
  """Returns a catalogue of titles of 1 to 4 words."""
  words = "red blue iron moon star quest saga racer puzzle city".split()
  rng = np.random.default_rng(11)
  titles = [
    " ".join(rng.choice(words, rng.integers(1, 5))) + f" {i}"
    for i in range(ITEMS)
  ]
  return catalogue_lib.Catalogue(
    tuple(f"x{i}" for i in range(ITEMS)), tuple(titles), np.ones(ITEMS, int)
  )


def examples(split: str, count: int, seed: int) -> Examples:
  """Returns examples with histories of 1 to 5 items."""
  rng = np.random.default_rng(seed)
  history = rng.integers(0, ITEMS, (count, 5)).astype(np.int32)
  for row in history:
    row[rng.integers(1, 6) :] = -1
  return Examples(
    split,
    np.arange(count),
    history,
    rng.integers(0, ITEMS, count).astype(np.int32),
    np.arange(count),
    np.arange(count),
  )


def source(split: str, count: int, seed: int) -> next_title.Titles:
  """Returns such examples as BIGRec words them."""
  return next_title.Titles(examples(split, count, seed), catalogue(), PROMPT)


PROMPT = prompts.Prompt("consistent", "Say what comes next.", "Seen: ")


def tokenizer(directory: str | os.PathLike) -> tokenization.Tokenizer:
  """Trains a BPE tokenizer of 300 tokens into `directory`."""
  texts = pipeline.training_texts(source("train", 50, 0))
  folder = pathlib.Path(directory)
  tokenization.train_bpe(texts, 300, folder)
  return tokenization.load_tokenizer(folder)
