"""Endless packed rows of text, for pretraining a base from scratch."""

from collections.abc import Iterable
from typing import Any

from bigrec_jax import errors
from bigrec_jax.data.text import encoding, packing

_DRAWN_AT_ONCE = 64  # Examples.
_PATIENCE = 4  # Pools that may pass before a text that fits badly goes first.


class TextStream:
  """Endless packed rows of full training texts, for pretraining.

  A pool of some two batches of texts is packed by best fit, the fullest rows
  are given and the rest stays in the pool, so hardly a slot is lost. Every
  text is given once per epoch of the order; rows with a text that has waited
  too long go first.

  Attributes:
    tokens: real tokens given so far.
    slots: places for tokens given so far.
  """

  def __init__(
    self,
    encoded: encoding.EncodedExamples,
    pad_id: int,
    *,
    batch_size: int,
    max_length: int,
    seed: int,
  ):
    import grain  # Here, because it takes a second and few modes need it.

    if not len(encoded):
      raise errors.UserError("train split: 0 examples found, some expected")
    self._encoded = encoded
    self._pad_id = pad_id
    self._shape = (batch_size, max_length)
    self._order = (
      grain.MapDataset.range(len(encoded)).seed(seed).shuffle().repeat()
    )
    self._position = 0  # In the endless order of examples.
    self._pool: list[int] = []  # Positions drawn but not given, ascending.
    self.tokens = self.slots = 0

  def __iter__(self) -> "TextStream":
    return self

  def __next__(self) -> packing.MicroBatch:
    batch_size, max_length = self._shape
    examples = self._fill_pool()
    lengths = [len(e.tokens) for e in examples]
    overdue = self._position - _PATIENCE * len(self._pool)
    rows = packing.best_fit(lengths, max_length)
    rows.sort(
      key=lambda row: (
        all(self._pool[i] >= overdue for i in row),
        -sum(lengths[i] for i in row),
      )
    )
    given = rows[:batch_size]
    taken = {i for row in given for i in row}
    self._pool = [k for i, k in enumerate(self._pool) if i not in taken]
    self.tokens += sum(lengths[i] for i in taken)
    self.slots += batch_size * max_length
    return packing.fill(
      [[examples[i] for i in row] for row in given],
      batch_size,
      max_length,
      self._pad_id,
    )

  def _fill_pool(self) -> list[encoding.Encoded]:
    """Draws until the pool holds two batches; returns what it holds."""
    batch_size, max_length = self._shape
    examples = self._read(self._pool)
    wanted = 2 * batch_size * max_length
    while sum(len(e.tokens) for e in examples) < wanted:
      end = self._position + _DRAWN_AT_ONCE
      drawn = range(self._position, end)
      self._pool += drawn
      self._position = end
      examples += self._read(drawn)
    return examples

  def _read(self, positions: Iterable[int]) -> list[encoding.Encoded]:
    return self._encoded.get([int(self._order[k]) for k in positions])

  @property
  def utilisation(self) -> float:
    """Share of the given slots that hold real tokens; 1.0 before the first."""
    return self.tokens / self.slots if self.slots else 1.0

  def get_state(self) -> dict[str, Any]:
    """Returns where the stream is, as JSON."""
    return {
      "position": self._position,
      "pool": list(self._pool),
      "tokens": self.tokens,
      "slots": self.slots,
    }

  def set_state(self, state: dict[str, Any]) -> None:
    """Goes to where another stream of equal arguments was."""
    self._position, self._pool = state["position"], list(state["pool"])
    self.tokens, self.slots = state["tokens"], state["slots"]
