"""Decoding that can only write titles of the catalogue (D3, arXiv 2406.14900).

The titles, as token sequences that end with EOS, form a trie. A beam at a
node chooses among the node's children alone: the other tokens have a
probability of zero, and the rest is not renormalised, so a score is the
model's own probability of the title.
"""

from collections.abc import Callable, Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from bigrec_jax import errors
from bigrec_jax.decoding import selection


class Trie(flax.struct.PyTreeNode):
  """Token sequences by their common beginnings, in compressed rows.

  Nodes are numbered breadth first with the root as 0, the children of a node
  in the order of their tokens. So the children of node n are the numbers
  `first_child[n]` to `first_child[n + 1]`, and a node's own token is enough:
  two integers a node, for any length of title.

  Attributes:
    tokens: [N] int32, the token that leads to a node; the root's is -1.
    first_child: [N + 1] int32.
    max_children: The most children of a node.
    depth: The length of the longest sequence, EOS included.
  """

  tokens: jax.Array | np.ndarray
  first_child: jax.Array | np.ndarray
  max_children: int = flax.struct.field(pytree_node=False)
  depth: int = flax.struct.field(pytree_node=False)

  def expand(self, logits: jax.Array, nodes: jax.Array) -> selection.Candidates:
    """Makes the children of each beam's node its candidates.

    Args:
      logits: [B, W, V] float32 over the whole vocabulary.
      nodes: [B, W] int32.
    """
    first = self.first_child[nodes][:, :, None]  # [B, W, 1]
    past = self.first_child[nodes + 1][:, :, None]
    slots = jnp.arange(self.max_children, dtype=jnp.int32)[None, None]
    children = first + slots  # [B, W, C]
    exists = children < past
    children = jnp.where(exists, children, 0)
    tokens = jnp.where(exists, self.tokens[children], 0)
    child_logits = jnp.take_along_axis(logits, tokens, axis=-1)
    return selection.Candidates(
      logits=jnp.where(exists, child_logits, -jnp.inf),
      log_normaliser=jax.nn.logsumexp(logits, axis=-1),
      tokens=tokens,
      nodes=children,
    )


def title_tokens(
  titles: Sequence[str],
  context: str,
  encode_batch: Callable[[Sequence[str]], list[list[int]]],
  eos_id: int,
) -> list[list[int]]:
  """Tokenises titles as they continue a prompt, each with EOS at its end.

  A tokenizer may write a text differently at its start than after something
  (SentencePiece puts a blank before it), so a title is encoded behind the
  end of a prompt whose own tokens are then cut off.

  Args:
    titles: As the model writes them, with quotes.
    context: The end of every prompt, e.g. its response marker.
    encode_batch: The tokenizer.
    eos_id: Ends a hypothesis.

  Raises:
    UserError: the tokenizer merges the end of the prompt with a title, so no
      sequence of tokens continues a prompt with this title.
  """
  (prefix,) = encode_batch([context])
  sequences = []
  for title, ids in zip(
    titles, encode_batch([context + title for title in titles]), strict=True
  ):
    if ids[: len(prefix)] != prefix or len(ids) == len(prefix):
      raise errors.UserError(
        f"generate.constrained: the tokenizer merges {context[-12:]!r} with the"
        f" title {title!r}; a tokenizer that splits after it is expected"
      )
    sequences.append([*ids[len(prefix) :], eos_id])
  return sequences


def build_trie(sequences: Sequence[Sequence[int]]) -> Trie:
  """Builds the trie level by level; equal sequences share their nodes.

  Args:
    sequences: Token ids, each ending with EOS; EOS nowhere else.

  Raises:
    ValueError: there is no sequence, or an empty one.
  """
  lengths = np.array([len(ids) for ids in sequences], np.int64)
  if not len(lengths) or lengths.min() < 1:
    raise ValueError("a trie needs sequences of at least one token")
  starts = np.cumsum(lengths) - lengths
  flat = np.concatenate([np.asarray(ids, np.int64) for ids in sequences])
  base = flat.max() + 1
  rows = np.arange(len(lengths))
  nodes = np.zeros(len(lengths), np.int64)  # Where each sequence is now.
  tokens = [np.array([-1], np.int64)]
  parents = [np.array([-1], np.int64)]
  count = 1
  for level in range(int(lengths.max())):
    rows = rows[lengths[rows] > level]
    keys = nodes[rows] * base + flat[starts[rows] + level]
    # Sorted by parent, then token: the children of a node are neighbours.
    edges, inverse = np.unique(keys, return_inverse=True)
    tokens.append(edges % base)
    parents.append(edges // base)
    nodes[rows] = count + inverse
    count += len(edges)
  all_parents = np.concatenate(parents)
  children = np.bincount(all_parents[1:], minlength=count)
  first_child = np.concatenate([[1], 1 + np.cumsum(children)])
  return Trie(
    tokens=np.concatenate(tokens).astype(np.int32),
    first_child=first_child.astype(np.int32),
    max_children=int(children.max()),
    depth=int(lengths.max()),
  )
