"""The sum of the heads' losses over candidates.

score, late, options  binary cross-entropy of every candidate, right or not, on
                      average over the candidates of a prompt
towers                cross-entropy of the right one among the candidates

The heads share the adapter, but for `options`, which has none: what it learns
does not depend on the others.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from bigrec_jax.config import HeadsConfig
from bigrec_jax.models import LanguageModel
from bigrec_jax.tasks.heads import heads
from bigrec_jax.training import objective as objective_lib

Tree = Any
_NEVER = -1e30  # The score of what isn't there: no sum of it is NaN.


@dataclasses.dataclass(frozen=True)
class HeadsLoss:
  """An `Objective` of prompts with candidates; extras are the heads' losses.

  Attributes:
    config: section `task.heads`.
  """

  config: HeadsConfig
  reads_header: bool = False

  @property
  def extras(self) -> tuple[str, ...]:
    """A loss for each head."""
    return self.config.heads

  @property
  def tables(self) -> Mapping[str, Any]:
    """None."""
    return {}

  def __call__(
    self,
    model: LanguageModel,
    variables: Mapping[str, Tree],
    batch: objective_lib.Batch,
    key: jax.Array | None,
    *,
    chunk: int,
    mesh: Mesh | None,
    prefix: Tree | None,
  ) -> objective_lib.Terms:
    """Returns the terms; see `Objective`.

    Raises:
      ValueError: a prefix; prompts are whole.
    """
    del chunk  # No logits are made.
    if prefix is not None:
      raise ValueError("prompts with candidates are read whole")
    model, variables = model.executable(variables)
    there = batch["answer_lengths"] > 0  # [R, M]
    used = jnp.any(there, axis=1)
    losses = {}
    for number, head in enumerate(self.config.heads):
      own = None if key is None else jax.random.fold_in(key, number)
      reader = heads.Reader(model, variables, self.config, mesh, own)
      each = loss(
        head, reader.scores(head, batch), batch["answer_right"], there
      )
      losses[head] = jnp.sum(jnp.where(used, each, 0.0))
    total = sum(losses.values(), start=jnp.float32(0))
    return objective_lib.Terms(total, jnp.sum(used, dtype=jnp.int32), losses)


def loss(
  head: str, scores: jax.Array, right: jax.Array, there: jax.Array
) -> jax.Array:
  """Returns the loss [R] of scores [R, M].

  Args:
    head: its name.
    scores: float32.
    right: int32 [R], the right one's column.
    there: bool [R, M].
  """
  if head == "towers":
    known = jnp.where(there, scores, _NEVER)
    own = jnp.take_along_axis(scores, right[:, None], axis=1)[:, 0]
    return jax.nn.logsumexp(known, axis=1) - own
  columns = jnp.arange(scores.shape[1], dtype=jnp.int32)[None]
  signed = jnp.where(columns == right[:, None], -scores, scores)
  each = jnp.where(there, jax.nn.softplus(signed), 0.0)
  count = jnp.maximum(jnp.sum(there, axis=1), 1).astype(jnp.float32)
  return jnp.sum(each, axis=1) / count
