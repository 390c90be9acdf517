"""Decoding that can only write titles of the catalogue (D3, arXiv 2406.14900).

The titles, as token sequences that end with EOS, form a trie. A beam at a
node chooses among the node's children alone: the other tokens have a
probability of zero, and the rest is not renormalised, so a score is the
model's own probability of the title.
"""

from bigrec_jax.decoding.constraints.building import build_trie, rounded
from bigrec_jax.decoding.constraints.prior import Masses, Prior
from bigrec_jax.decoding.constraints.titles import (
  Encoded,
  continuations,
  title_tokens,
)
from bigrec_jax.decoding.constraints.trie import TitleRows, Trie

__all__ = [
  "Encoded",
  "Masses",
  "Prior",
  "TitleRows",
  "Trie",
  "build_trie",
  "continuations",
  "rounded",
  "title_tokens",
]
