"""What training compiles, as plain functions; compiled and called by `step`."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bigrec_jax.models import LanguageModel
from bigrec_jax.training import (
  coupled,
  header as header_lib,
  objective as objective_lib,
  state as state_lib,
)

Tree = Any
# In place of the micro-batch's number: the key of the header's dropout.
_HEADER_KEY = np.uint32(2**32 - 1)
# What one thread adds up: sums, and the header if it is shared.
Part = tuple[state_lib.Sums, header_lib.Header | None]


@dataclasses.dataclass(frozen=True)
class Programs:
  """What is compiled; attributes as in `step.make_steps`."""

  model: LanguageModel
  mesh: Mesh
  loss_chunk: int
  dropout_seed: int | None
  variables: Callable[[Tree, Tree], dict[str, Tree]]
  objective: objective_lib.Objective

  def _chunk(self, rows: objective_lib.Batch) -> int:
    shards = self.mesh.shape["data"] * self.mesh.shape["fsdp"]
    rows_here = max(1, rows["tokens"].shape[0] // shards)
    return max(1, self.loss_chunk // rows_here)

  def _key(
    self, state: state_lib.TrainState, number: jax.Array | np.uint32
  ) -> jax.Array | None:
    if self.dropout_seed is None:
      return None
    key = jax.random.fold_in(jax.random.key(self.dropout_seed), state.step)
    return jax.random.fold_in(key, number)

  def open_header(
    self, state: state_lib.TrainState, base: Tree, tokens: jax.Array
  ) -> header_lib.Header:
    """Runs the header for the keys and values that rows attend to."""
    apart = self.model.executable(self.variables(base, state.params))
    key = self._key(state, _HEADER_KEY)
    return header_lib.new(header_lib.read(*apart, tokens, key)[1])

  def accumulate(
    self,
    sums: state_lib.Sums,
    state: state_lib.TrainState,
    base: Tree,
    rows: objective_lib.Batch,
    header: header_lib.Header | None = None,
  ) -> Part:
    """Adds loss and gradients of one micro-batch."""
    key = self._key(state, sums.micro)
    prefix = None if header is None else header.prefix
    told = {**objective_lib.Told.rows(base, rows), **state_lib.told(state)}

    def objective(params: Tree, prefix: Tree) -> tuple[jax.Array, Any]:
      found = self.objective(
        self.model,
        self.variables(base, params),
        told,
        key,
        chunk=self._chunk(rows),
        mesh=self.mesh,
        prefix=prefix,
      )
      return found.loss, (found.count, found.extras)

    (total, (count, extras)), (grads, d_prefix) = jax.value_and_grad(
      objective, argnums=(0, 1), has_aux=True
    )(state.params, prefix)
    sums = sums.add(grads, total, count, extras)
    sums = sums.replace(micro=sums.micro + 1)
    if header is not None:
      header = header.add(d_prefix, rows["segment_ids"])
    return sums, header

  def pool(
    self,
    pools: coupled.Pools,
    state: state_lib.TrainState,
    base: Tree,
    rows: objective_lib.Batch,
    header: header_lib.Header | None = None,
    mask: jax.Array | None = None,
  ) -> coupled.Pools:
    """Adds the vectors of one micro-batch, as `accumulate` will see it."""
    told = {**objective_lib.Told.rows(base, rows), **state_lib.told(state)}
    labels = coupled.count_labels(rows)
    if header is not None and mask is not None:
      examples = header_lib.count_examples(rows["segment_ids"])
      labels += examples * jnp.sum(mask[1:], dtype=jnp.int32)
    with jax.named_scope("pool"):
      hidden = objective_lib.states(
        self.model,
        self.variables(base, state.params),
        told,
        self._key(state, pools.micro),
        None if header is None else header.prefix,
      )[2]
      return pools.add(hidden, rows, labels)

  def couple(
    self, sums: state_lib.Sums, pools: coupled.Pools
  ) -> tuple[state_lib.Sums, jax.Array]:
    """Adds the loss of a step's vectors; returns its gradient by tokens.

    `apply` divides all sums by the labels of the step, so what is a mean over
    the step comes times their number.
    """
    objective = self.objective
    assert isinstance(objective, coupled.Coupled)
    couple = functools.partial(
      objective.couple, present=pools.present, groups=pools.groups
    )
    with jax.named_scope("couple"):
      (total, extras), by_vector = jax.value_and_grad(couple, has_aux=True)(
        pools.vectors
      )
    labels = pools.labels.astype(jnp.float32)
    more = {name: labels * value for name, value in extras.items()}
    found = {
      name: value + more[name] if name in more else value
      for name, value in sums.extras.items()
    }
    sums = sums.replace(loss=sums.loss + labels * total, extras=found)
    return sums, labels * pools.by_token(by_vector)

  def close_header(
    self,
    sums: state_lib.Sums,
    state: state_lib.TrainState,
    base: Tree,
    tokens: jax.Array,
    mask: jax.Array,
    header: header_lib.Header,
  ) -> state_lib.Sums:
    """Adds the header's own loss, and the gradient that went through it."""
    key = self._key(state, _HEADER_KEY)

    def run(params: Tree) -> tuple[tuple[Tree, jax.Array], jax.Array]:
      apart = self.model.executable(self.variables(base, params))
      hidden, prefix = header_lib.read(*apart, tokens, key)
      total, labels = header_lib.loss_sum(
        *apart, hidden, tokens, mask, self.loss_chunk, self.mesh
      )
      return (prefix, total), labels

    (prefix, total), backward, labels = jax.vjp(run, state.params, has_aux=True)
    examples = header.examples.astype(jnp.float32)
    d_prefix = jax.tree.map(
      lambda g, x: g.astype(x.dtype), header.grads, prefix
    )
    (grads,) = backward((d_prefix, examples))
    return sums.add(grads, examples * total, header.examples * labels)

  def fork(
    self,
    sums: state_lib.Sums,
    header: header_lib.Header | None,
    number: jax.Array,
  ) -> Part:
    """Returns empty sums and the same header, for a second thread."""
    sums = jax.tree.map(jnp.zeros_like, sums).replace(micro=number)
    if header is not None:
      # A copy: `accumulate` donates what it is given.
      header = header_lib.new(jax.tree.map(jnp.copy, header.prefix))
    return sums, header

  def join(
    self,
    sums: state_lib.Sums,
    header: header_lib.Header | None,
    more: state_lib.Sums,
    other: header_lib.Header | None,
  ) -> Part:
    """Returns the sums of two threads; `more` has the later micro-batches."""
    sums = sums.add(more.grads, more.loss, more.tokens, more.extras)
    if header is not None and other is not None:
      header = header.replace(
        grads=state_lib.add_float32(header.grads, other.grads),
        examples=header.examples + other.examples,
      )
    return sums.replace(micro=more.micro), header

  def evaluate(
    self, params: Tree, base: Tree, batch: objective_lib.Batch
  ) -> tuple[jax.Array, jax.Array]:
    """Returns loss and labels of one micro-batch, without dropout."""
    return objective_lib.whole_terms(
      self.objective,
      self.model,
      self.variables(base, params),
      objective_lib.Told.rows(base, batch),
      self._chunk(batch),
      self.mesh,
    )
