"""How likely titles are behind prompts, a token on average.

Every candidate of a user is scored in one packed pass, in which the prompt is
read once (decoding/likelihood.py). Without the history a title's score is its
linguistic bias: what the model thinks of the words, whoever the user is.

Letters: N users, M candidates of a user, A titles.
"""

from collections.abc import Sequence

import numpy as np

from bigrec_jax import config as config_lib, errors, progress as reports
from bigrec_jax.decoding import likelihood
from bigrec_jax.tasks import protocol
from bigrec_jax.workdir import parts as parts_lib


class Scorer:
  """One adapter, or none, for any number of users."""

  def __init__(
    self,
    tuned: protocol.Tuned,
    titles: Sequence[Sequence[int]],
    config: config_lib.GenerateConfig,
  ):
    """Keeps what all calls share.

    Args:
      tuned: network and adapter.
      titles: [A] tokens of each title.
      config: for batch_size and prompt_buckets.
    """
    self._tuned, self._titles, self._config = tuned, titles, config
    self._lengths = np.array([len(ids) for ids in titles], np.float32)

  def __call__(
    self,
    prompts: Sequence[Sequence[int]],
    candidates: np.ndarray,
    progress: reports.Reports,
    kept: parts_lib.Vectors | None = None,
  ) -> np.ndarray:
    """Returns mean log-probabilities a token, [N, M] float32.

    Args:
      prompts: [N] tokens.
      candidates: [N, M] titles.
      progress: told of every user done.
      kept: sums of the users who were done before, and where others go.

    Raises:
      NonFiniteError: the network gives NaN for a user.
    """
    network = self._tuned.network
    sums = likelihood.score(
      network.model,
      network.params,
      self._tuned.adapter,
      prompts,
      self._titles,
      np.asarray(candidates, np.int32),
      network.mesh,
      batch_size=self._config.batch_size,
      buckets=self._config.prompt_buckets,
      progress=progress,
      kept=kept,
    )
    return sums / self._lengths[candidates]

  def alone(self, prompt: Sequence[int]) -> np.ndarray:
    """Returns the scores [A] of all titles after one prompt."""
    every = np.arange(len(self._titles))[None]
    try:
      return self([prompt], every, reports.NullProgress())[0]
    except errors.NonFiniteError as error:
      raise error.of(0, "the prompt without history") from None
