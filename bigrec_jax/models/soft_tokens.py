"""Soft tokens: places of a text whose embedding is a projected item vector.

A text says where they are and which item each stands for
(data/text/source.py). The item's vector, of a frozen CF model, goes through a
small network to the width of the language model, and its result stands in the
place of a token's embedding (LLaRA, Liao et al., SIGIR 2024, section 3.2):

  p_i = W2 gelu(W1 e_i + b1) + b2

W1, b1, W2, b2 are weights of the task's own (own_weights.py), below
`variables["own"]["projector"]`; the e_i are `TABLE`, a row an item.

Letters: R rows, T places of a row, S of them at most that are soft, D width,
I items, E width of their vectors.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bigrec_jax.devices import sharding
from bigrec_jax.models import own_weights

if TYPE_CHECKING:
  from bigrec_jax.models.protocol import LanguageModel

Tree = Any
# Names in a batch: int32 [R, S] places (T = none) and items (see
# data/text/packing.py), and float32 [I, E] vectors of all items.
PLACES, ITEMS, TABLE = "soft_places", "soft_items", "soft_table"
_PROJECTOR = "projector"


class Soft(NamedTuple):
  """Soft tokens of rows.

  Attributes:
    places: int32 [R, S]; T or more where a row has fewer.
    items: int32 [R, S], rows of `table`.
    table: float32 [I, E].
  """

  places: jax.Array
  items: jax.Array
  table: jax.Array


class Prompts(NamedTuple):
  """Soft tokens of prompts, on the host.

  Attributes:
    places: of each prompt, int32 [n], ascending.
    items: of each prompt, int32 [n]; -1 = the place's token is meant.
    table: float32 [I, E].
  """

  places: Sequence[np.ndarray]
  items: Sequence[np.ndarray]
  table: Any

  @property
  def first(self) -> int | None:
    """The first place that is soft in any prompt; None if there is none."""
    return min((int(p[0]) for p in self.places if len(p)), default=None)

  @property
  def most(self) -> int:
    """S, soft places of the prompt that has most."""
    return max(map(len, self.places), default=0)

  def placed(self, mesh: Mesh) -> "Prompts":
    """Returns them with the table on the mesh."""
    return self._replace(table=sharding.put_replicated(mesh, self.table))

  def laid_out(
    self, numbers: np.ndarray, shift: int, width: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns places and items of some prompts, int32 [R, S] each.

    Args:
      numbers: [R] of the prompts; -1 = none.
      shift: how many tokens the rows lack at their beginning.
      width: T of the rows.
    """
    shape = len(numbers), max(self.most, 1)
    places, items = np.full(shape, width, np.int32), np.zeros(shape, np.int32)
    for row in np.flatnonzero(numbers >= 0):
      number = numbers[row]
      real = self.items[number] >= 0
      places[row, : real.sum()] = self.places[number][real] - shift
      items[row, : real.sum()] = self.items[number][real]
    return places, items


def projector(inputs: int, outputs: int) -> tuple[own_weights.Weight, ...]:
  """Returns the projector's weights; fresh ones are as those of nn.Linear.

  Args:
    inputs: E.
    outputs: D, also between its two layers.
  """
  found = []
  for name, size in (("in", inputs), ("out", outputs)):
    scale = 1 / math.sqrt(size)
    found += [
      own_weights.Weight(
        (_PROJECTOR, name, "kernel"), (size, outputs), ("", "embed"), scale
      ),
      own_weights.Weight(
        (_PROJECTOR, name, "bias"), (outputs,), ("norm",), scale
      ),
    ]
  return tuple(found)


def project(own: Tree, vectors: jax.Array) -> jax.Array:
  """Maps item vectors [..., E] to embeddings [..., D], float32.

  Args:
    own: the task's own weights.
    vectors: float32.
  """
  hidden = _linear(own[_PROJECTOR]["in"], vectors)
  hidden = jax.nn.gelu(hidden, approximate=False)
  return _linear(own[_PROJECTOR]["out"], hidden)


def _linear(weights: Tree, x: jax.Array) -> jax.Array:
  bias = jnp.reshape(weights["bias"], (1,) * (x.ndim - 1) + (-1,))
  return jnp.matmul(x, weights["kernel"]) + bias


def embed(
  model: "LanguageModel",
  variables: Mapping[str, Tree],
  tokens: jax.Array,
  soft: Soft,
) -> jax.Array:
  """Maps tokens [R, T] to embeddings [R, T, D], soft ones in their places.

  Args:
    model: the language model.
    variables: its collections, `own` among them.
    tokens: whatever stands in soft places.
    soft: of the rows.
  """
  x = model.apply(variables, tokens, method="embed")
  with jax.named_scope("soft_tokens"):
    vectors = jnp.take(soft.table, soft.items, axis=0)  # [R, S, E]
    put = project(variables["own"], vectors).astype(x.dtype)

    def one_row(x: jax.Array, places: jax.Array, put: jax.Array) -> jax.Array:
      return x.at[places].set(put, mode="drop")

    return jax.vmap(one_row)(x, soft.places, put)


def inputs(
  model: "LanguageModel",
  variables: Mapping[str, Tree],
  batch: Mapping[str, jax.Array],
) -> jax.Array:
  """Returns what the layers of a micro-batch read: tokens, or embeddings.

  Args:
    model: the language model.
    variables: its collections.
    batch: rows; embeddings where it has soft tokens.
  """
  if PLACES not in batch:
    return batch["tokens"]
  soft = Soft(batch[PLACES], batch[ITEMS], batch[TABLE])
  return embed(model, variables, batch["tokens"], soft)
