"""Losses over items: the right one's score against those of others.

LMRecSys (Zhang et al., 2021; yuhui-zh15/LMRecSys, model.py, 309ca19): an
item's score is the mean log-probability of its title's tokens after the
prompt, and the loss is the cross-entropy, or the multi-class hinge, over the
scores of all items. In place of all, any number of candidates may be given.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from bigrec_jax.models import LanguageModel
from bigrec_jax.training import answers, objective as objective_lib

Tree = Any
LOSSES = ("item_softmax", "item_hinge")
_NEVER = -1e30  # The score of what isn't there: no sum of it is NaN.


@dataclasses.dataclass(frozen=True)
class ItemLoss:
  """Softmax or hinge over candidates; an `Objective` of laid-out batches.

  A term is a prompt. `first` is the share of prompts whose right candidate
  scores higher than all others.

  Attributes:
    loss: one of LOSSES.
    margin: of the hinge.
  """

  loss: str
  margin: float = 1.0
  extras: tuple[str, ...] = ("first",)
  reads_header: bool = False

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
    if prefix is not None:
      raise ValueError("prompts with candidates are read whole")
    scores = answers.mean_logs(model, variables, batch, key, chunk, mesh)
    there = batch["answer_lengths"] > 0  # [R, M]
    right = batch["answer_right"][:, None]
    own = jnp.take_along_axis(scores, right, axis=1)  # [R, 1]
    columns = jnp.arange(scores.shape[1], dtype=jnp.int32)[None]
    others = there & (columns != right)
    if self.loss == "item_hinge":
      lacking = jnp.maximum(self.margin + scores - own, 0.0)
      each = jnp.sum(jnp.where(others, lacking, 0.0), axis=1)
    else:
      known = jnp.where(there, scores, _NEVER)
      each = jax.nn.logsumexp(known, axis=1) - own[:, 0]
    used = jnp.any(there, axis=1)  # Not the rows that only fill.
    best = jnp.all(~others | (scores < own), axis=1)
    return objective_lib.Terms(
      jnp.sum(jnp.where(used, each, 0.0)),
      jnp.sum(used, dtype=jnp.int32),
      {"first": jnp.sum(used & best, dtype=jnp.float32)},
    )
