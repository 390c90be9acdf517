"""Memory that isn't there: one line that names what to lower."""

import contextlib
from collections.abc import Iterator

from bigrec_jax import errors

_WORDS = ("RESOURCE_EXHAUSTED", "Out of memory")
# Sizes that a stage's memory depends on, beside its batches.
_ALSO = {
  "pretrain": ("pretrain.max_length", "model.arch"),
  "train": ("train.max_length", "train.loss_chunk", "lora.rank"),
  "train_cf": ("cf.batch_size", "cf.hidden_size", "cf.num_seeds"),
  "generate": ("generate.num_beams", "generate.max_new_tokens"),
  "ground_eval": ("ground.batch_size", "ground.block_items"),
  "recommend": ("generate.num_beams", "recommend.k"),
  "prepare": ("data.max_history", "data.synthetic"),
}


@contextlib.contextmanager
def named(mode: str, batches: tuple[str, ...]) -> Iterator[None]:
  """Turns what Python or XLA raises where memory ends into one line.

  Args:
    mode: that makes the artefact.
    batches: keys of its batches.

  Raises:
    UserError: there was not enough memory.
  """
  try:
    yield
  except MemoryError as error:
    raise _refusal(mode, batches, str(error)) from None
  except RuntimeError as error:  # XLA's own is one; JAX need not be imported.
    if not any(words in str(error) for words in _WORDS):
      raise
    raise _refusal(mode, batches, str(error)) from None


def _refusal(
  mode: str, batches: tuple[str, ...], text: str
) -> errors.UserError:
  said = " ".join(text.split())[:160] or "MemoryError"
  keys = [f"config.{key}" for key in (*batches, *_ALSO.get(mode, ()))]
  less = f"; less of {', '.join(keys)} expected" if keys else ""
  return errors.UserError(f"{mode}: not enough memory ({said}){less}")
