"""Next-token cross-entropy that never holds the logits of a whole batch.

With a vocabulary of 32,000 the float32 logits of one row of 512 tokens take
65 MB, far more than anything else in a LoRA step. Here the head is applied to
a chunk of positions at a time, and the gradient of the chunk is taken while
its logits are at hand, so the backward pass has nothing left to recompute:
two products with the head in all, where rematerialising takes three.

Letters: B rows, T positions, D width, V vocabulary, C positions in a chunk.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from bigrec_jax.devices import sharding
from bigrec_jax.models import LanguageModel

_STATES = ("batch", "length", "width")
# Children of a node that are looked up at a time.
_CHILDREN = 128
_ILLEGAL = -1e30  # As a logit: its probability is 0, and no sum of it is NaN.


class Legal(NamedTuple):
  """Which tokens a softmax runs over: the children of a node of a trie.

  Attributes:
    nodes: int32 [B, T], of each position.
    tokens: int32 [N], of each node.
    first_child: int32 [N + 1]; the children of node n are the nodes from
      `first_child[n]` to `first_child[n + 1]`.
    temperature: float32 scalar that logits are divided by.
  """

  nodes: jax.Array
  tokens: jax.Array
  first_child: jax.Array
  temperature: jax.Array

  def logits(self, logits: jax.Array, nodes: jax.Array) -> jax.Array:
    """Returns logits [B, C, V] over the temperature, of legal tokens alone.

    Args:
      logits: [B, C, V] float32.
      nodes: int32 [B, C].
    """
    first = self.first_child[nodes][:, :, None]  # [B, C, 1]
    past = self.first_child[nodes + 1][:, :, None]
    vocabulary, last = logits.shape[2], self.tokens.shape[0] - 1
    mark = jax.vmap(
      jax.vmap(lambda row, tokens: row.at[tokens].set(True, mode="drop"))
    )

    def look(turn, legal):
      slots = turn * _CHILDREN + jnp.arange(_CHILDREN, dtype=jnp.int32)
      children = first + slots[None, None]  # [B, C, _CHILDREN]
      tokens = self.tokens[jnp.minimum(children, last)]
      return mark(legal, jnp.where(children < past, tokens, vocabulary))

    turns = (jnp.max(past - first) + _CHILDREN - 1) // _CHILDREN
    legal = jax.lax.fori_loop(
      0, turns, look, jnp.zeros(logits.shape, jnp.bool_)
    )
    return jnp.where(legal, logits / self.temperature, _ILLEGAL)


def next_token_targets(
  tokens: jax.Array, segment_ids: jax.Array, loss_mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns what each position has to predict, and whether it counts.

  Position t predicts token t+1 where that token is a label
  (`loss_mask[t+1] == 1`) and belongs to the same example of the row, so the
  end of one packed example never predicts the start of the next.

  Args:
    tokens: int32 [B, T].
    segment_ids: int32 [B, T], 0 for padding, 1.. for the examples of a row.
    loss_mask: int32 [B, T], 1 where the token is a label.

  Returns:
    labels int32 [B, T] and mask bool [B, T].
  """
  labels = jnp.roll(tokens, -1, axis=1)
  following = jnp.roll(segment_ids, -1, axis=1)
  mask = (jnp.roll(loss_mask, -1, axis=1) == 1) & (following == segment_ids)
  mask &= segment_ids > 0
  return labels, mask.at[:, -1].set(False)


def of_rows(
  model: LanguageModel,
  variables: Mapping[str, Any],
  hidden: jax.Array,
  tokens: jax.Array,
  segment_ids: jax.Array,
  loss_mask: jax.Array,
  chunk: int,
  mesh: Mesh | None,
) -> tuple[jax.Array, jax.Array]:
  """Returns the model's summed loss over packed rows, and their labels.

  Args:
    model: the language model, for its head.
    variables: its collections.
    hidden: [B, T, D] final hidden states.
    tokens: see `next_token_targets`, as the two after it.
    segment_ids: int32 [B, T].
    loss_mask: int32 [B, T].
    chunk: see `cross_entropy`.
    mesh: likewise.
  """
  labels, mask = next_token_targets(tokens, segment_ids, loss_mask)
  return of_labels(model, variables, hidden, labels, mask, chunk, mesh)


def of_labels(
  model: LanguageModel,
  variables: Mapping[str, Any],
  hidden: jax.Array,
  labels: jax.Array,
  mask: jax.Array,
  chunk: int,
  mesh: Mesh | None,
  legal: Legal | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Returns the model's summed loss over given labels, and their number.

  Args:
    model: the language model, for its head.
    variables: its collections.
    hidden: [B, T, D] final hidden states.
    labels: see `cross_entropy`, as all after it.
    mask: bool [B, T].
    chunk: likewise.
    mesh: likewise.
    legal: likewise.
  """
  head = model.apply(variables, method="head_weight")  # [D, V]
  tied = model.config.tie_word_embeddings
  return cross_entropy(
    hidden, head, labels, mask, chunk, mesh, tied=tied, legal=legal
  )


def cross_entropy(
  hidden: jax.Array,
  head: jax.Array,
  labels: jax.Array,
  mask: jax.Array,
  chunk: int,
  mesh: Mesh | None = None,
  *,
  tied: bool = False,
  legal: Legal | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Returns the summed cross-entropy and the number of labels in it.

  Sum and count, not a mean: the mean is taken once, over all micro-batches
  and devices of an optimizer step, so every label weighs the same wherever it
  sits. (The mean of means that older trainers take gives the labels of short
  micro-batches more weight.) Positions without a label are moved behind the
  others, row by row, and whole chunks of them are skipped: training on
  answers alone costs the head only the answers.

  Args:
    hidden: [B, T, D] final hidden states; differentiable.
    head: [D, V] output projection; differentiable, and its gradient costs
      nothing where it isn't asked for.
    labels: int32 [B, T] token that each position predicts.
    mask: bool [B, T], which positions count.
    chunk: positions of every row whose logits are held at once.
    mesh: for sharding constraints; None = one device.
    tied: `head` is the transpose of an embedding table. It is then multiplied
      as the [V, D] that it is in memory, which spares a copy of it.
    legal: the tokens that the softmax runs over, of which the label is one;
      None = the whole vocabulary.

  Returns:
    float32 scalar sum and int32 scalar count.
  """
  if chunk < 1:
    raise ValueError(f"{chunk=}, at least 1 expected")
  chunk = min(chunk, hidden.shape[1])
  with jax.named_scope("cross_entropy"):
    total = _loss_sum(hidden, head, labels, mask, legal, chunk, mesh, tied)
    return total, jnp.sum(mask, dtype=jnp.int32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7))
def _loss_sum(hidden, head, labels, mask, legal, chunk, mesh, tied):
  given = (hidden, head, labels, mask, legal, chunk, mesh, tied)
  return _run_chunks(*given, False, False)[0]


def _loss_sum_forward(hidden, head, labels, mask, legal, chunk, mesh, tied):
  if legal is not None:
    legal = Legal(*(leaf.value for leaf in legal))
  total, d_hidden, d_head = _run_chunks(
    hidden.value,
    head.value,
    labels.value,
    mask.value,
    legal,
    chunk,
    mesh,
    tied,
    hidden.perturbed,
    head.perturbed,
  )
  return total, (d_hidden, d_head)


def _loss_sum_backward(chunk, mesh, tied, residuals, cotangent):
  del chunk, mesh, tied
  if isinstance(cotangent, jax.custom_derivatives.SymbolicZero):
    cotangent = jnp.zeros((), jnp.float32)
  scaled = [
    None if d is None else d * cotangent.astype(d.dtype) for d in residuals
  ]
  return *scaled, None, None, None


_loss_sum.defvjp(_loss_sum_forward, _loss_sum_backward, symbolic_zeros=True)


class _Head(NamedTuple):
  """The output matrix as it lies in memory, and the names of its axes."""

  weight: jax.Array
  axes: str

  def logits(self, states: jax.Array) -> jax.Array:
    """[B, C, D] -> float32 [B, C, V]."""
    return jnp.einsum(
      f"bcd,{self.axes}->bcv",
      states,
      self.weight.astype(states.dtype),
      preferred_element_type=jnp.float32,
    )

  def backward(self, d_logits: jax.Array) -> jax.Array:
    """[B, C, V] -> [B, C, D], of the same dtype."""
    return jnp.einsum(
      f"bcv,{self.axes}->bcd",
      d_logits,
      self.weight.astype(d_logits.dtype),
      preferred_element_type=d_logits.dtype,
    )


def _run_chunks(
  hidden: jax.Array,
  head: jax.Array,
  labels: jax.Array,
  mask: jax.Array,
  legal: Legal | None,
  chunk: int,
  mesh: Mesh | None,
  tied: bool,
  want_hidden: bool,
  want_head: bool,
) -> tuple[jax.Array, jax.Array | None, jax.Array | None]:
  """Returns the loss sum and the gradients asked for (else None)."""
  length = hidden.shape[1]
  hidden = sharding.constrain(hidden, mesh, _STATES)
  # Collected once over fsdp, not once a chunk; a split vocabulary stays split.
  head = sharding.constrain(head, mesh, ("width", "vocab"))
  split = mesh is not None and mesh.shape["tensor"] > 1
  output = _Head(head.T, "vd") if tied else _Head(head, "dv")
  # Rows are sharded over devices, so positions are reordered within a row.
  order = jnp.argsort(~mask, axis=1, stable=True)  # [B, T]
  most = jnp.max(jnp.sum(mask, axis=1, dtype=jnp.int32))
  padding = -length % chunk

  def arrange(values):
    values = jnp.take_along_axis(
      values, order.reshape(order.shape + (1,) * (values.ndim - 2)), axis=1
    )
    pads = [(0, 0), (0, padding)] + [(0, 0)] * (values.ndim - 2)
    return jnp.pad(values, pads)

  hidden_sorted = arrange(hidden)  # [B, T', D]
  labels_sorted, mask_sorted = arrange(labels), arrange(mask)  # [B, T']
  nodes_sorted = None if legal is None else arrange(legal.nodes)

  def body(index, carry):
    total, d_hidden, d_head = carry
    start = index * chunk

    def cut(values):
      return jax.lax.dynamic_slice_in_dim(values, start, chunk, axis=1)

    states = cut(hidden_sorted)  # [B, C, D]
    logits = output.logits(states)
    if legal is not None:
      logits = legal.logits(logits, cut(nodes_sorted))
    loss, d_logits = _chunk_loss(
      logits, cut(labels_sorted), cut(mask_sorted), split
    )
    if legal is not None:
      d_logits /= legal.temperature
    d_logits = d_logits.astype(states.dtype)
    if d_hidden is not None:
      d_hidden = jax.lax.dynamic_update_slice_in_dim(
        d_hidden, output.backward(d_logits), start, axis=1
      )
    if d_head is not None:
      d_head += jnp.einsum(
        "bcd,bcv->dv", states, d_logits, preferred_element_type=jnp.float32
      )
    return total + loss, d_hidden, d_head

  init = (
    jnp.zeros((), jnp.float32),
    jnp.zeros_like(hidden_sorted) if want_hidden else None,
    jnp.zeros(head.shape, jnp.float32) if want_head else None,
  )
  # The number of turns is known only at run time; that is why the gradient is
  # taken here: reverse-mode needs a static number.
  turns = (most + chunk - 1) // chunk
  total, d_hidden, d_head = jax.lax.fori_loop(0, turns, body, init)
  if want_hidden:
    d_hidden = sharding.constrain(d_hidden, mesh, _STATES)
    back = jnp.argsort(order, axis=1)[:, :, None]  # [B, T, 1]
    d_hidden = jnp.take_along_axis(d_hidden, back, axis=1)
  if want_head:
    d_head = d_head.astype(head.dtype)
  return total, d_hidden, d_head


def _chunk_loss(
  logits: jax.Array, labels: jax.Array, mask: jax.Array, split: bool
) -> tuple[jax.Array, jax.Array]:
  """Returns the loss sum of a chunk and its gradient by the logits.

  The softmax is float32 whatever the model computes in: bfloat16 has too few
  digits to tell tokens apart whose probabilities differ by less than 1 %.

  Args:
    logits: [B, C, V] float32.
    labels: int32 [B, C].
    mask: bool [B, C].
    split: the vocabulary is split over devices.
  """
  top = jnp.max(logits, axis=-1, keepdims=True)
  log_sum = top + jnp.log(
    jnp.sum(jnp.exp(logits - top), axis=-1, keepdims=True)
  )  # [B, C, 1]
  vocabulary = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 2)
  is_label = vocabulary == labels[:, :, None]
  if split:
    # A gather would collect the logits from all devices.
    picked = jnp.sum(jnp.where(is_label, logits, 0.0), axis=-1)  # [B, C]
  else:
    # The comparison would be a third pass over the logits.
    picked = jnp.take_along_axis(logits, labels[:, :, None], axis=2)[:, :, 0]
  loss = jnp.sum(jnp.where(mask, log_sum[:, :, 0] - picked, 0.0))
  d_logits = jnp.exp(logits - log_sum) - is_label.astype(jnp.float32)
  d_logits = jnp.where(mask[:, :, None], d_logits, 0.0)
  return loss, d_logits
