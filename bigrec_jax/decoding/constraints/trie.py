"""The trie on the devices, and a step's candidates in it."""

import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from bigrec_jax.decoding import selection

# Children looked at in a step whose beams are all at nodes with no more, and
# by how much more in the next kind of step. In BIGRec's Games titles 99.8 %
# of the nodes have at most 16 children, and one has 905.
_NARROW, _WIDER = 16, 8
# Changes the candidates of nodes [B, W] before the best are chosen.
Adjust = Callable[[selection.Candidates, jax.Array], selection.Candidates]


class TitleRows(flax.struct.PyTreeNode):
  """Which titles lie under a node, as ranges of the titles in sorted order.

  The order is that of the token sequences; equal sequences are neighbours, in
  the order they were given in. The ranges of a node's children, in the order
  of the children, make up its own.

  Attributes:
    start: [N] int32, the place of a node's first title.
    end: [N] int32, the place behind its last; `start` where there is no node.
    rows: [R] int32, the row of the title at each place; -1 beyond the last.
  """

  start: jax.Array | np.ndarray
  end: jax.Array | np.ndarray
  rows: jax.Array | np.ndarray


class Trie(flax.struct.PyTreeNode):
  """Token sequences by their common beginnings, in compressed rows.

  Nodes are numbered breadth first with the root as 0, the children of a node
  in the order of their tokens. So the children of node n are the numbers
  `first_child[n]` to `first_child[n + 1]`, and a node's own token is enough:
  two integers a node, for any length of title.

  All sizes are rounded up, so that a trie with some titles more has the same
  shapes and runs in the same programs. Numbers beyond the last node are nodes
  without children that nothing leads to; `nowhere` is one of them.

  Attributes:
    tokens: [N] int32, the token that leads to a node; the root's is -1.
    first_child: [N + 1] int32.
    longest: [] int32, tokens of the longest sequence, EOS included.
    titles: The titles under each node; None where nothing asks for them.
    prior: What a model of items thinks of them (prior.py), or None.
    max_children: No node has more children.
    depth: No sequence is longer, EOS included.
  """

  tokens: jax.Array | np.ndarray
  first_child: jax.Array | np.ndarray
  longest: jax.Array | np.ndarray
  titles: TitleRows | None
  max_children: int = flax.struct.field(pytree_node=False)
  depth: int = flax.struct.field(pytree_node=False)
  prior: Any = None

  @property
  def nowhere(self) -> int:
    """A node without children, for beams that hold nothing."""
    return self.tokens.shape[0] - 1

  @property
  def widths(self) -> tuple[int, ...]:
    """How many children a step looks at: few, more, ..., those of any node."""
    found = [min(_NARROW, self.max_children)]
    while found[-1] < self.max_children:
      found.append(min(found[-1] * _WIDER, self.max_children))
    return tuple(found)

  def is_leaf(self, nodes: jax.Array) -> jax.Array:
    """Says which nodes have no children; the shape stays."""
    return self.first_child[nodes] == self.first_child[nodes + 1]

  def only_child(self, nodes: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the nodes' only children, and which nodes have just one.

    The child of others is `nowhere`. Shapes stay.
    """
    first = self.first_child[nodes]
    only = self.first_child[nodes + 1] - first == 1
    return jnp.where(only, first, self.nowhere), only

  def expand(
    self,
    logits: jax.Array,
    nodes: jax.Array,
    keep: int | None,
    adjust: Adjust | None = None,
  ) -> selection.Candidates:
    """Makes the children of each beam's node its candidates.

    Only a step in which some beam is at a wide node looks at many children.

    Args:
      logits: [B, W, V] float32 over the whole vocabulary.
      nodes: [B, W] int32.
      keep: C, the best candidates of each beam, best first, equal ones in the
        order of their tokens; None = all of them, in the order of tokens.
      adjust: Changes what the best are chosen by.
    """
    if keep is None:
      return self._children(logits, nodes, self.max_children, adjust)
    count = self.first_child[nodes + 1] - self.first_child[nodes]
    most = jnp.max(count)
    kind = sum((most > width).astype(jnp.int32) for width in self.widths[:-1])
    ways = [
      functools.partial(
        self._best_children, width=width, keep=keep, adjust=adjust
      )
      for width in self.widths
    ]
    return jax.lax.switch(jnp.int32(kind), ways, logits, nodes)

  def _best_children(
    self,
    logits: jax.Array,
    nodes: jax.Array,
    width: int,
    keep: int,
    adjust: Adjust | None,
  ) -> selection.Candidates:
    """Returns `keep` candidates; no node has more than `width` children."""
    found = self._children(logits, nodes, width, adjust)
    values, slots = selection.top_k(found.logits, min(keep, width))
    pad = ((0, 0), (0, 0), (0, max(keep - width, 0)))
    return selection.Candidates(
      logits=jnp.pad(values, pad, constant_values=-jnp.inf),
      log_normaliser=found.log_normaliser,
      tokens=jnp.pad(selection.pick(found.tokens, slots), pad),
      nodes=jnp.pad(
        selection.pick(found.nodes, slots), pad, constant_values=self.nowhere
      ),
    )

  def _children(
    self,
    logits: jax.Array,
    nodes: jax.Array,
    width: int,
    adjust: Adjust | None,
  ) -> selection.Candidates:
    """Returns all candidates; no node has more than `width` children."""
    first = self.first_child[nodes][:, :, None]  # [B, W, 1]
    past = self.first_child[nodes + 1][:, :, None]
    slots = jnp.arange(width, dtype=jnp.int32)[None, None]
    children = first + slots  # [B, W, C]
    exists = children < past
    children = jnp.where(exists, children, self.nowhere)
    tokens = jnp.where(exists, self.tokens[children], 0)
    child_logits = jnp.take_along_axis(logits, tokens, axis=-1)
    found = selection.Candidates(
      logits=jnp.where(exists, child_logits, -jnp.inf),
      log_normaliser=jax.nn.logsumexp(logits, axis=-1),
      tokens=tokens,
      nodes=children,
    )
    return found if adjust is None else adjust(found, nodes)
