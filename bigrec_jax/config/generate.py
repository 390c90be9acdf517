"""Section `generate`."""

import dataclasses
from typing import Annotated

from bigrec_jax.config import checks


@dataclasses.dataclass(frozen=True)
class GenerateConfig:
  """Decoding: beams by default, sampling by option."""

  split: str
  batch_size: Annotated[int, checks.ROWS]
  num_beams: Annotated[int, checks.Range(1, 2**16)]
  max_new_tokens: Annotated[int, checks.Range(1, 2**20)]
  length_penalty: Annotated[float, checks.Range(-8, 8)]
  early_stopping: bool
  length_norm_includes_prompt: bool
  constrained: bool
  lookahead: Annotated[int, checks.Range(0, 64)]
  prompt_buckets: Annotated[tuple[int, ...], checks.Range(1, 2**24)]
  sample: bool
  temperature: Annotated[float, checks.Range(1e-6, 1e6)]
  top_k: Annotated[int, checks.ANY]
  top_p: Annotated[float, checks.Range(0, 1)]

  def __post_init__(self):
    checks.choice("generate.split", self.split, ("valid", "test", "all"))

  @property
  def splits(self) -> tuple[str, ...]:
    """The splits to decode, valid first."""
    return ("valid", "test") if self.split == "all" else (self.split,)
