"""Free text that a network writes after any prompts."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bigrec_jax import progress as reports
from bigrec_jax.config import GenerateConfig
from bigrec_jax.tasks import protocol
from bigrec_jax.workdir import parts as parts_lib

if TYPE_CHECKING:
  from bigrec_jax.decoding import generate


def greedy(config: GenerateConfig) -> GenerateConfig:
  """Returns settings whose one hypothesis takes the likeliest token each time.

  A beam alone stops at the first hypothesis that ends: what would come after
  its second choice is never looked at.
  """
  return dataclasses.replace(
    config,
    num_beams=1,
    early_stopping=True,
    sample=False,
    constrained=False,
    prior="",
    lookahead=0,
  )


class Writer:
  """A network with an adapter or none, ready for prompts."""

  def __init__(
    self,
    network: protocol.Network,
    adapter: Any | None,
    config: GenerateConfig,
    seed: int,
  ):
    """Keeps the parts.

    Args:
      network: base, tokenizer and mesh.
      adapter: the weights of collection `lora`, or None.
      config: how many texts of a prompt, and how long.
      seed: of sampling.
    """
    self._network, self._adapter = network, adapter
    self._config, self._seed = config, seed

  def __call__(
    self,
    tokens: Sequence[Sequence[int]],
    progress: reports.Reports | None = None,
    kept: parts_lib.Rows | None = None,
    prefix: "generate.Prefix | None" = None,
  ) -> list[list[str]]:
    """Returns the texts of each prompt, best first.

    Args:
      tokens: [N] prompts.
      progress: told of every prompt done.
      kept: the prompts that were done before, and where others go.
      prefix: what all prompts begin with, where that was read before.

    Raises:
      NonFiniteError: the network gives NaN for a prompt.
    """
    from bigrec_jax.decoding import generate

    network = self._network
    progress = progress or reports.NullProgress()
    written: dict[int, list[str]] = {} if kept is None else dict(kept.known)
    progress.skip(len(written))

    def finished(row: int, beams: list[list[int]], _: Any) -> None:
      written[row] = [network.tokenizer.decode(ids) for ids in beams]
      if kept is not None:
        kept.add(row, written[row])

    generate.generate(
      network.model,
      network.params,
      self._adapter,
      tokens,
      self._config,
      network.tokenizer.eos_ids,
      network.mesh,
      seed=self._seed,
      norm_lengths=None,
      trie=None,
      progress=progress,
      prefix=prefix,
      finished=finished,
      rest=[n for n in range(len(tokens)) if n not in written],
    )
    return [written[n] for n in range(len(tokens))]
