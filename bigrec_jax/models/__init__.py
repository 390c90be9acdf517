"""Language models as Flax Linen: families, adapters, caches, files.

Families are found by name (registry.py); nothing outside this package imports
one.
"""

from bigrec_jax.models.protocol import Architecture, LanguageModel
from bigrec_jax.models.registry import (
  build,
  from_arch,
  read_architecture,
  read_config,
)

__all__ = [
  "Architecture",
  "LanguageModel",
  "build",
  "from_arch",
  "read_architecture",
  "read_config",
]
