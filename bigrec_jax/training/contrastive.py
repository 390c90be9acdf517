"""Contrastive terms beside the language model's loss, as CALRec has them.

Li et al., RecSys 2024 (arXiv 2405.02429): with h_U the pooled states of a
user's prompt, h_T those of the target's text on its own and h_T' those of
another view of it, all of length 1,

  L = (1 - a - b) L_LM + a L_TT + b L_UT
  L_TT = InfoNCE(h_T, h_T'), L_UT = InfoNCE(h_U, h_T)
  InfoNCE(x, y) = -mean_i log(exp(x_i.y_i / t) / sum_j exp(x_i.y_j / t))

where j runs over the examples of the whole optimizer step (coupled.py). Other
examples with the very same target are no negatives.

Letters: B examples of a step, D width.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from bigrec_jax.config import ContrastiveConfig
from bigrec_jax.data.text import source, tokenization, views
from bigrec_jax.models import LanguageModel, soft_tokens
from bigrec_jax.training import coupled, loss, objective as objective_lib

Tree = Any
_FAR = -1e30  # A similarity whose exponential is 0.
_SHORTEST = 1e-12  # What lengths are raised to, as torch's normalize does.


@dataclasses.dataclass(frozen=True, eq=False)
class Contrastive:
  """Language modelling with target-target and user-target terms.

  Evaluations are of the language model alone.

  Attributes:
    batch_size: B, the most examples of a step.
    config: a, b, t, and of which states and views the vectors are.
    extras: the three terms without their weights.
    item_vectors: float32 [I, E], of a frozen CF model, where texts have soft
      tokens.
  """

  batch_size: int
  config: ContrastiveConfig
  extras: tuple[str, ...] = ("language", "target_target", "user_target")
  item_vectors: Any = None

  @property
  def reads_header(self) -> bool:
    """Whether texts may come without what all begin with.

    Not where the states of whole prompts are averaged.
    """
    return self.config.pooling == "last"

  @property
  def tables(self) -> Mapping[str, Any]:
    """The items' vectors, if there are any."""
    if self.item_vectors is None:
      return {}
    return {soft_tokens.TABLE: self.item_vectors}

  @property
  def num_pools(self) -> int:
    """Vectors of a step: each example has one of each role."""
    return self.batch_size * len(views.ROLES)

  def views(
    self,
    train: source.TextSource,
    tokenizer: tokenization.Tokenizer,
    max_length: int,
    seed: int,
  ) -> views.Views:
    """Returns what encodes targets on their own; see `Coupled`.

    Raises:
      TypeError: the samples have no targets.
    """
    if not isinstance(train, views.Targets):
      raise TypeError(
        f"{type(train).__name__} found, a source of targets expected"
      )
    return views.Views(
      train, tokenizer, self.config, max_length=max_length, seed=seed
    )

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
    """Returns the terms; see `Objective`."""
    model, variables, hidden = objective_lib.states(
      model, variables, batch, key, prefix
    )
    rows = (batch["tokens"], batch["segment_ids"], batch["loss_mask"])
    total, count = loss.of_rows(model, variables, hidden, *rows, chunk, mesh)
    none = jnp.zeros((), jnp.float32)
    extras = {"language": total, "target_target": none, "user_target": none}
    if coupled.PULL in batch:
      language = 1.0 - self.config.target_weight - self.config.user_weight
      total = total * jnp.float32(language) + coupled.pull(hidden, batch)
    return objective_lib.Terms(total, count, extras)

  def couple(
    self, vectors: jax.Array, present: jax.Array, groups: jax.Array
  ) -> tuple[jax.Array, Mapping[str, jax.Array]]:
    """Returns a L_TT + b L_UT, and both terms; see `Coupled`."""
    lengths = jnp.linalg.norm(vectors, axis=-1, keepdims=True)
    apart = jnp.where(present[:, None], lengths, 1.0)
    units = vectors / jnp.maximum(apart, _SHORTEST)
    shape = (self.batch_size, len(views.ROLES))
    units = units.reshape(*shape, -1)  # [B, roles, D]
    there = present.reshape(shape)
    target = views.ROLES.index(views.TARGET)
    same = groups.reshape(shape)[:, target]
    terms = {}
    for name, query, key in (
      ("target_target", views.TARGET, views.OTHER),
      ("user_target", views.USER, views.TARGET),
    ):
      one, two = views.ROLES.index(query), views.ROLES.index(key)
      terms[name] = info_nce(
        units[:, one],
        units[:, two],
        there[:, one] & there[:, two],
        same,
        self.config.temperature,
      )
    weighted = jnp.float32(self.config.target_weight) * terms["target_target"]
    weighted += jnp.float32(self.config.user_weight) * terms["user_target"]
    return weighted, terms


def info_nce(
  queries: jax.Array,
  keys: jax.Array,
  present: jax.Array,
  groups: jax.Array,
  temperature: float,
) -> jax.Array:
  """Returns InfoNCE of queries against keys, a mean over pairs; 0 of none.

  Args:
    queries: float32 [B, D], of length 1.
    keys: likewise; the key of each query is in its row.
    present: bool [B], which pairs there are.
    groups: int32 [B]; of equal ones neither is a negative of the other.
    temperature: what similarities are divided by.
  """
  similar = jnp.einsum("id,jd->ij", queries, keys) / jnp.float32(temperature)
  own = jnp.eye(len(queries), dtype=jnp.bool_)
  other = present[None] & (groups[:, None] != groups[None])
  logits = jnp.where(own | other, similar, _FAR)
  losses = jax.nn.logsumexp(logits, axis=1) - jnp.diagonal(similar)
  total = jnp.sum(jnp.where(present, losses, 0.0))
  pairs = jnp.sum(present, dtype=jnp.int32)
  return total / jnp.maximum(pairs, 1).astype(jnp.float32)
