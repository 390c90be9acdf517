"""Section `generate`."""

import dataclasses

from bigrec_jax.config import checks


@dataclasses.dataclass(frozen=True)
class GenerateConfig:
  """Decoding: beams by default, sampling by option."""

  split: str
  batch_size: int
  num_beams: int
  max_new_tokens: int
  length_penalty: float
  early_stopping: bool
  length_norm_includes_prompt: bool
  constrained: bool
  prompt_buckets: tuple[int, ...]
  sample: bool
  temperature: float
  top_k: int
  top_p: float

  def __post_init__(self):
    checks.choice("generate.split", self.split, ("valid", "test", "all"))
    for key in ("batch_size", "num_beams", "max_new_tokens"):
      checks.at_least(f"generate.{key}", getattr(self, key), 1)

  @property
  def splits(self) -> tuple[str, ...]:
    """The splits to decode, valid first."""
    return ("valid", "test") if self.split == "all" else (self.split,)
