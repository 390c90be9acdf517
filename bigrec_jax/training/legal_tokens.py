"""MSL: the loss is normalised over the tokens that a title may go on with.

"MSL: Not All Tokens Are What You Need for Tuning LLM as a Recommender" (Wang et
al., SIGIR 2025, arXiv 2504.04178; WANGBohaO-jpg/MSL, train_trie_token.py). At
each token of an answer the softmax runs over the children of the trie node
that the answer's tokens before it lead to, at a temperature, and not over the
vocabulary: the model is not taught to tell titles from texts that constrained
decoding could never write.

Where a node has one child its probability is 1, so the loss and its gradient
are 0 there, exactly. Such positions count and never see the head; after its
first few tokens most of a title is of this kind.

Letters: R rows, T positions, N nodes of the trie.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from bigrec_jax.decoding import constraints
from bigrec_jax.models import LanguageModel
from bigrec_jax.training import loss, objective as objective_lib

Tree = Any
_TRIE = "trie"  # Among the arrays of a batch.


@dataclasses.dataclass(frozen=True, eq=False)
class LegalTokens:
  """Cross-entropy over the legal next tokens of titles; an `Objective`.

  Answers alone may be labels. A token that no title has there, and what
  follows it, does not count; `unknown` is the share of those, of what counts.

  Attributes:
    trie: of all titles as training writes them, EOS at their ends.
    temperature: what logits are divided by; the published runs take 1.5 to 5.
  """

  trie: constraints.Trie
  temperature: float

  @property
  def extras(self) -> tuple[str, ...]:
    """The share of labels that no title has."""
    return ("unknown",)

  @property
  def reads_header(self) -> bool:
    """Labels are answers alone, which a shared beginning never reaches."""
    return True

  @property
  def tables(self) -> Mapping[str, Any]:
    """The trie."""
    return {_TRIE: self.trie}

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
    trie: Any = batch[_TRIE]
    rows = batch["tokens"], batch["segment_ids"], batch["loss_mask"]
    labels, mask = loss.next_token_targets(*rows)
    nodes = title_nodes(trie, rows[0], batch["loss_mask"], mask)
    places = Places(
      nodes,
      mask & (child(trie, nodes, labels) != trie.nowhere),
      trie.first_child[nodes + 1] - trie.first_child[nodes] > 1,
    )
    temperature, factor, counts = self._terms(batch, places)
    model, variables, hidden = objective_lib.states(
      model, variables, batch, key, prefix
    )
    total, _ = loss.of_labels(
      model,
      variables,
      hidden,
      labels,
      places.known & places.several,
      chunk,
      mesh,
      loss.Legal(nodes, trie.tokens, trie.first_child, temperature),
    )
    unknown = jnp.sum(mask & ~places.known, dtype=jnp.float32)
    head = model.apply(variables, method="head_weight")
    return objective_lib.Terms(
      factor * total,
      jnp.sum(counts, dtype=jnp.int32),
      {
        "unknown": unknown,
        **self._statistics(hidden, head, labels, places, trie),
      },
    )

  def _terms(
    self, batch: objective_lib.Batch, places: "Places"
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns temperature, factor of the loss, and which positions count."""
    del batch
    return jnp.float32(self.temperature), jnp.float32(1), places.known

  def _statistics(
    self,
    hidden: jax.Array,
    head: jax.Array,
    labels: jax.Array,
    places: "Places",
    trie: constraints.Trie,
  ) -> dict[str, jax.Array]:
    """Returns further extras."""
    del hidden, head, labels, places, trie
    return {}


class Places(NamedTuple):
  """What is known of the positions of rows.

  Attributes:
    nodes: int32 [R, T], where in the trie each label is chosen.
    known: bool [R, T], labels that some title has there.
    several: bool [R, T], where more than one token is legal.
  """

  nodes: jax.Array
  known: jax.Array
  several: jax.Array


def child(
  trie: constraints.Trie, nodes: jax.Array, tokens: jax.Array
) -> jax.Array:
  """Returns the node that a token leads to; `trie.nowhere` if none.

  Args:
    trie: the titles; children are in the order of their tokens.
    nodes: int32, of any shape.
    tokens: int32, of the same shape.
  """
  low, end = trie.first_child[nodes], trie.first_child[nodes + 1]
  last = trie.nowhere

  def halve(_, bounds):
    low, high = bounds
    middle = (low + high) // 2
    smaller = (low < high) & (trie.tokens[middle] < tokens)
    return (
      jnp.where(smaller, middle + 1, low),
      jnp.where(smaller, high, jnp.minimum(middle, high)),
    )

  turns = int(trie.max_children).bit_length()
  found, _ = jax.lax.fori_loop(0, turns, halve, (low, end))
  place = jnp.minimum(found, last)
  is_child = (found < end) & (trie.tokens[place] == tokens)
  return jnp.where(is_child, place, last)


def title_nodes(
  trie: constraints.Trie,
  tokens: jax.Array,
  loss_mask: jax.Array,
  mask: jax.Array,
) -> jax.Array:
  """Returns where in the trie each label is chosen, int32 [R, T].

  All answers are walked side by side, a token of each at a time: as many turns
  as the longest has tokens.

  Args:
    trie: the titles.
    tokens: int32 [R, T].
    loss_mask: int32 [R, T], 1 where a token is part of an answer.
    mask: bool [R, T], which positions predict such a token.
  """
  place = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
  # The token of a prompt that an answer follows; answers never come first.
  begins = mask & (loss_mask == 0)
  start = jax.lax.cummax(jnp.where(begins, place, -1), axis=1)
  depth = jnp.where(mask & (start >= 0), place - start, -1)  # [R, T]
  nodes = jnp.where(depth == 0, 0, trie.nowhere)

  def walk(turn, nodes):
    before = jnp.roll(nodes, 1, axis=1)
    return jnp.where(depth == turn, child(trie, before, tokens), nodes)

  return jax.lax.fori_loop(1, jnp.max(depth) + 1, walk, nodes)
