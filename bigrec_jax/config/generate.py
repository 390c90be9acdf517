"""Section `generate`."""

import dataclasses
from typing import Annotated

from bigrec_jax import errors
from bigrec_jax.config import checks
from bigrec_jax.config.cf import CF_MODELS


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
  prior: str
  prior_weight: Annotated[float, checks.Range(0, 1)]
  prompt_buckets: Annotated[tuple[int, ...], checks.Range(1, 2**24)]
  sample: bool
  temperature: Annotated[float, checks.Range(1e-6, 1e6)]
  top_k: Annotated[int, checks.ANY]
  top_p: Annotated[float, checks.Range(0, 1)]

  def __post_init__(self):
    checks.choice("generate.split", self.split, ("valid", "test", "all"))
    checks.choice("generate.prior", self.prior, ("", *CF_MODELS))
    if self.has_prior and (self.sample or not self.constrained):
      raise errors.UserError(
        f"config.generate.prior: {self.prior} found with"
        f" constrained={self.constrained} and sample={self.sample}; a prior is"
        " over titles, so constrained=True and sample=False expected"
      )

  @property
  def has_prior(self) -> bool:
    """Whether a CF model has a say in what is written."""
    return bool(self.prior) and self.prior_weight > 0

  @property
  def looks_ahead(self) -> bool:
    """Whether `lookahead` has anything to do: several beams of titles."""
    beams = self.num_beams > 1 and not self.sample
    return self.lookahead > 0 and self.constrained and beams

  @property
  def splits(self) -> tuple[str, ...]:
    """The splits to decode, valid first."""
    return ("valid", "test") if self.split == "all" else (self.split,)
