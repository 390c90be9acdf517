"""Every program that a request can ask for, compiled before there is one.

A program is made for the shapes of its arguments. So requests are served in
few shapes: lists of two lengths, histories of two widths, one user or as many
as there are slots; and here each is called once.
"""

from typing import TYPE_CHECKING

from absl import logging

from bigrec_jax.config import ServeConfig
from bigrec_jax.serving import compilations

if TYPE_CHECKING:
  from bigrec_jax.serving import engine as engine_lib, served

# Words of the texts that are embedded: lengths far into the longest that are
# written, in steps no larger than any bucket of `models/embedding.py`.
_STEP, _MOST_WORDS = 3, 192
WORDS = range(1, _MOST_WORDS + 1, _STEP)
# Of those that are embedded one at a time, which is slow: a word has from one
# to three tokens, and every bucket of the longest title that can be added, and
# of texts beyond, has one of these.
WORDS_ALONE = (*range(1, 65, 9), *range(73, _MOST_WORDS + 1, 24))


def list_lengths(
  config: ServeConfig, recommender: "served.Served"
) -> list[int]:
  """Returns the lengths that lists are made in, ascending; all are cut."""
  usual = recommender.config.recommend.k
  return sorted({min(usual, config.max_k), config.max_k})


def history_widths(
  config: ServeConfig, recommender: "served.Served"
) -> list[int]:
  """Returns the widths that histories are padded to, ascending."""
  usual = recommender.history
  return sorted({usual, max(usual, config.max_history)})


def warm_up(engine: "engine_lib.Engine") -> None:
  """Calls all that `Engine` calls, in every shape that it calls it in."""
  own, config = engine.recommender, engine.config
  with engine.devices:
    engine.slots_running.warm_up()
    logging.info("serve: %d programs for decoding", compilations.count())
    own.embed_anew([_text(words) for words in WORDS])
    for words in WORDS_ALONE:
      own.embed_anew([_text(words)])
    for size in sorted({1, engine.slots}):
      for k in list_lengths(config, own):
        for width in history_widths(config, own):
          own.warm_up(size, k, width)
    own.warm_up_growth()
  logging.info("serve: %d programs in all", compilations.count())


def _text(words: int) -> str:
  """Returns a text that no catalogue has."""
  return " ".join(["qz"] * words)
