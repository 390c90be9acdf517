"""Answers of the network in training, for choosing epochs."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bigrec_jax import config as config_lib, progress
from bigrec_jax.data.text import pipeline, source
from bigrec_jax.decoding import generate
from bigrec_jax.models import soft_tokens
from bigrec_jax.tasks import protocol


class Writer:
  """The questions of a split, tokenised once, for any number of adapters."""

  def __init__(
    self,
    network: protocol.Network,
    texts: source.TextSource,
    vectors: np.ndarray | None,
    config: config_lib.Config,
  ):
    """Tokenises the questions.

    Args:
      network: base and tokenizer.
      texts: of the split.
      vectors: of all items, [I, E]; None = there are no soft tokens.
      config: section `generate`, and the seed.
    """
    self._network, self._config = network, config
    asked = pipeline.soft_questions(texts, network.tokenizer)
    self._tokens = [example.tokens.tolist() for example in asked]
    self._soft = None
    if vectors is not None:
      self._soft = soft_tokens.Prompts(
        [example.places for example in asked],
        [example.items for example in asked],
        vectors,
      ).placed(network.mesh)

  def __call__(self, trained: Any) -> Sequence[str]:
    """Returns the first answer to each question.

    Args:
      trained: the adapter, with the task's own weights where it has some.
    """
    network, config = self._network, self._config
    found = generate.generate(
      network.model,
      network.params,
      trained,
      self._tokens,
      config.generate,
      network.tokenizer.eos_ids,
      network.mesh,
      seed=config.seed,
      norm_lengths=None,
      trie=None,
      progress=progress.NullProgress(),
      soft=self._soft,
    )
    return [network.tokenizer.decode(own[0]) for own in found.tokens]
