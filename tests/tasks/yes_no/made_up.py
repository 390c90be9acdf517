"""A few samples, their words and a tokenizer for the tests of yes_no."""

import numpy as np

from bigrec_jax.data.text import pipeline, prompts, tokenization
from bigrec_jax.tasks.yes_no import samples, texts
from bigrec_jax.testing import store

PROMPT = prompts.Prompt("tallrec", "", "")


def make(split, count, seed, width=5):
  """Returns random samples, some with short histories."""
  rng = np.random.default_rng(seed)
  history = rng.integers(0, store.ITEMS, (count, width)).astype(np.int32)
  kept = rng.integers(1, width + 1, count)
  history[np.arange(width) >= kept[:, None]] = -1
  return samples.Samples(
    split,
    np.arange(count),
    np.arange(count),
    history,
    (rng.random((count, width)) < 0.5) & (history >= 0),
    rng.integers(0, store.ITEMS, count).astype(np.int32),
    rng.random(count) < 0.4,
  )


def source(split, count, seed, noun="movie"):
  """Returns random samples as text."""
  made = make(split, count, seed)
  return texts.Texts(made, store.catalogue(), PROMPT, noun)


def tokenizer(directory, size=600):
  """Trains a BPE tokenizer that has both answers into `directory`."""
  words = pipeline.training_texts(source("train", 60, 0))
  tokenization.train_bpe(words, size, directory)
  return tokenization.load_tokenizer(directory)
