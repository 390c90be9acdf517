"""Language models and text encoders as Flax Linen: families, adapters, files.

Families are found by name (registry.py); nothing outside this package imports
one.
"""

from bigrec_jax.models.protocol import (
  Architecture,
  LanguageModel,
  TextEncoder,
)
from bigrec_jax.models.registry import (
  build,
  from_arch,
  read_architecture,
  read_config,
)

__all__ = [
  "Architecture",
  "LanguageModel",
  "TextEncoder",
  "build",
  "from_arch",
  "read_architecture",
  "read_config",
]
