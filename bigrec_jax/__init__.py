"""BIGRec on JAX: a language model writes a title, grounding finds the item.

  import bigrec_jax
  recommender = bigrec_jax.Recommender.load("runs/demo")
  lists = recommender([["Halo 3", "B000FRS9JK"], []], k=10)
  lists[0][0].external_id, lists[0][0].title, lists[0][0].score

Everything else is in the packages below (docs/design.md).
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from bigrec_jax.errors import UserError
  from bigrec_jax.recommend.conversation import Conversation, chat
  from bigrec_jax.recommend.recommendations import (
    Provenance,
    Recommendation,
    Recommendations,
  )
  from bigrec_jax.recommend.recommender import Recommender

__all__ = [
  "Conversation",
  "Provenance",
  "Recommendation",
  "Recommendations",
  "Recommender",
  "UserError",
  "chat",
]

# Where they are; imported on first use, so that `import bigrec_jax` is cheap.
_PUBLIC = {
  "Conversation": "bigrec_jax.recommend.conversation",
  "Provenance": "bigrec_jax.recommend.recommendations",
  "Recommendation": "bigrec_jax.recommend.recommendations",
  "Recommendations": "bigrec_jax.recommend.recommendations",
  "Recommender": "bigrec_jax.recommend.recommender",
  "UserError": "bigrec_jax.errors",
  "chat": "bigrec_jax.recommend.conversation",
}


def __getattr__(name: str) -> Any:
  """Returns a public name of a module that is imported only now."""
  if name not in _PUBLIC:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  value = getattr(importlib.import_module(_PUBLIC[name]), name)
  globals()[name] = value
  return value


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
