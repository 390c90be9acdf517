"""Token sequences to a trie, on the host, level by level."""

import itertools
from collections.abc import Sequence

import numpy as np

from bigrec_jax.decoding.constraints import trie as trie_lib


def build_trie(
  sequences: Sequence[Sequence[int]],
  rows: np.ndarray | None = None,
  *,
  with_titles: bool = False,
  like: trie_lib.Trie | None = None,
  room: float = 1 / 16,
) -> trie_lib.Trie:
  """Builds the trie level by level; equal sequences share their nodes.

  Args:
    sequences: Token ids, each ending with EOS; EOS nowhere else.
    rows: [R] int, what `TitleRows.rows` calls each sequence; None = by its
      place in `sequences`.
    with_titles: Whether to find the titles under each node: 8 bytes a node.
    like: A trie whose sizes are taken where there is room in them, so that
      the programs that it ran in serve this one, too.
    room: Share of the nodes for which there is room at least; more than a
      sixteenth is room for more children of a node, too.

  Raises:
    ValueError: there is no sequence, or an empty one.
  """
  lengths = np.fromiter(map(len, sequences), np.int64, len(sequences))
  if not len(lengths) or lengths.min() < 1:
    raise ValueError("a trie needs sequences of at least one token")
  starts = np.cumsum(lengths) - lengths
  every = itertools.chain.from_iterable(sequences)
  flat = np.fromiter(every, np.int32, int(lengths.sum()))
  tokens, parents, nodes = _levels(flat, starts, lengths)
  count = len(tokens)
  children = np.bincount(parents[1:], minlength=count)
  # One at least that is no node: `nowhere`.
  size = rounded(count + 1 + int(count * room))
  most, depth = int(children.max()), rounded(int(lengths.max()))
  most = rounded(most if room <= 1 / 16 else most + int(most * room))
  if like is not None:
    if count < len(like.tokens):
      size = len(like.tokens)
    most, depth = max(most, like.max_children), max(depth, like.depth)
  first_child = np.full(size + 1, count, np.int32)
  first_child[:count] = 1 + np.cumsum(children) - children
  titles = None
  if with_titles:
    places = rounded(len(nodes))
    if like is not None and like.titles is not None:
      places = max(places, len(like.titles.rows))
    titles = _titles(parents, nodes, rows, size, places)
  return trie_lib.Trie(
    tokens=np.pad(tokens, (0, size - count)),
    first_child=first_child,
    longest=np.asarray(lengths.max(), np.int32),
    titles=titles,
    max_children=most,
    depth=depth,
  )


def rounded(size: int) -> int:
  """Returns a size that sizes a little larger have too, an eighth at most."""
  step = 2 ** max(size.bit_length() - 4, 3)
  return -(-size // step) * step


def _levels(
  flat: np.ndarray, starts: np.ndarray, lengths: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Numbers the nodes.

  Args:
    flat: [S] int32, all sequences, one behind the other.
    starts: [R], where each begins.
    lengths: [R].

  Returns:
    tokens [N] and parents [N] of the nodes, int32, -1 for the root, and the
    node [R] at the end of each sequence.
  """
  base = int(flat.max()) + 1
  going_on = np.arange(len(lengths))
  nodes = np.zeros(len(lengths), np.int64)  # Where each sequence is now.
  tokens, parents = [np.array([-1], np.int32)], [np.array([-1], np.int32)]
  count = 1
  for level in range(int(lengths.max())):
    going_on = going_on[lengths[going_on] > level]
    keys = nodes[going_on] * base + flat[starts[going_on] + level]
    # Sorted by parent, then token: the children of a node are neighbours.
    edges, inverse = np.unique(keys, return_inverse=True)
    tokens.append((edges % base).astype(np.int32))
    parents.append((edges // base).astype(np.int32))
    nodes[going_on] = count + inverse
    count += len(edges)
  return np.concatenate(tokens), np.concatenate(parents), nodes


def _titles(
  parents: np.ndarray,
  leaves: np.ndarray,
  rows: np.ndarray | None,
  size: int,
  places: int,
) -> trie_lib.TitleRows:
  """Finds the range of sorted titles under each node.

  Args:
    parents: [N] of the nodes, breadth first.
    leaves: [R], the node at the end of each sequence.
    rows: [R] what the sequences are called, or None.
    size: N of the trie, nodes that nothing leads to included.
    places: R of the result, those of no title included.
  """
  count = len(parents)
  under = np.bincount(leaves, minlength=count)
  levels = _bounds(parents)
  for first, past in reversed(levels[1:]):
    # Parents are a level above, so theirs are still to be added up.
    above = parents[first:past]
    begins = np.flatnonzero(np.diff(above, prepend=-2))
    under[above[begins]] += np.add.reduceat(under[first:past], begins)
  start = np.zeros(size, np.int32)
  for first, past in levels[1:]:
    above = parents[first:past]
    begins = np.flatnonzero(np.diff(above, prepend=-2))
    before = np.cumsum(under[first:past]) - under[first:past]
    siblings = np.diff(begins, append=past - first)
    start[first:past] = (
      start[above] + before - np.repeat(before[begins], siblings)
    )
  end = start.copy()
  end[:count] += under.astype(np.int32)
  order = np.argsort(start[leaves], kind="stable")
  named = np.full(places, -1, np.int32)
  named[: len(leaves)] = order if rows is None else np.asarray(rows)[order]
  return trie_lib.TitleRows(start, end, named)


def _bounds(parents: np.ndarray) -> list[tuple[int, int]]:
  """Returns the first number of each level, and that behind its last."""
  levels = [(0, 1)]
  while levels[-1][1] < len(parents):
    first, past = levels[-1]
    levels.append((past, int(np.searchsorted(parents, past))))
  return levels
