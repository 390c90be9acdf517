"""The beginning that all examples share, computed once an optimizer step.

With causal attention nothing that follows a text's beginning changes what the
network computes there. So a step runs the header once, its micro-batches
attend to the keys and values it left, and the gradients by them are collected
until the step's end, when the header runs backward once:

  open    params -> keys and values
  (every micro-batch adds its gradient by them, and its examples)
  close   their sum -> gradient by the params, and the header's own loss

Letters: C tokens of the header, P = C - 1 of them that rows attend to, K key
heads, H head size, V vocabulary, D width.
"""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from bigrec_jax.models import LanguageModel
from bigrec_jax.training import loss, state

Tree = Any


class Header(flax.struct.PyTreeNode):
  """An open header.

  Attributes:
    prefix: keys [K, H, P] and values [K, P, H] of every layer, or both with
      the layers stacked in front.
    grads: float32, as `prefix`: gradient of the summed loss so far.
    examples: int32 scalar, how many examples began with it so far.
  """

  prefix: Tree
  grads: Tree
  examples: jax.Array

  def add(self, grads: Tree, segment_ids: jax.Array) -> "Header":
    """Returns the header after a micro-batch.

    Args:
      grads: of its loss by `prefix`.
      segment_ids: int32 [R, T] of its rows.
    """
    return self.replace(
      grads=state.add_float32(self.grads, grads),
      examples=self.examples + count_examples(segment_ids),
    )


def new(prefix: Tree) -> Header:
  """Returns a header that no example has used yet."""
  grads = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), prefix)
  return Header(prefix, grads, jnp.zeros((), jnp.int32))


def read(
  model: LanguageModel,
  variables: Mapping[str, Tree],
  tokens: jax.Array,
  dropout_key: jax.Array | None,
) -> tuple[jax.Array, Tree]:
  """Runs the header.

  Args:
    model: the language model.
    variables: its collections.
    tokens: int32 [C].
    dropout_key: None switches dropout off.

  Returns:
    [1, C, D] hidden states, those of the last token 0 (it predicts a token
    that is not the header's), and the keys and values of the others.
  """
  rngs = None if dropout_key is None else {"dropout": dropout_key}
  with jax.named_scope("header"):
    hidden, prefix = model.apply(
      variables,
      tokens[:-1],
      deterministic=dropout_key is None,
      rngs=rngs,
      method="read_header",
    )
  return jnp.pad(hidden, ((0, 0), (0, 1), (0, 0))), prefix


def loss_sum(
  model: LanguageModel,
  variables: Mapping[str, Tree],
  hidden: jax.Array,
  tokens: jax.Array,
  mask: jax.Array,
  chunk: int,
  mesh: Mesh | None,
) -> tuple[jax.Array, jax.Array]:
  """Returns loss and labels of the header itself, for one example.

  Args:
    model: the language model.
    variables: its collections.
    hidden: [1, C, D] of `read`.
    tokens: int32 [C].
    mask: int32 [C], 1 where the token is a label.
    chunk: positions whose logits are held at once.
    mesh: for sharding constraints; None = one device.
  """
  with jax.named_scope("header"):
    one = tokens[None], jnp.ones_like(tokens)[None], mask[None]
    return loss.of_rows(model, variables, hidden, *one, chunk, mesh)


def count_examples(segment_ids: jax.Array) -> jax.Array:
  """Returns how many examples the rows [R, T] hold, int32 scalar."""
  return jnp.sum(jnp.max(segment_ids, axis=1), dtype=jnp.int32)
