"""Every beam of a user is a query: items are scored by a mixture over beams.

  score(i) = log sum_w pi_w k_w(i)
  pi_w     = softmax over beams of log p(beam w) / T_beam
  k_w(i)   = softmax over items of -dn_w(i) / T_item
  dn_w(i)  = (d_w(i) - min d_w) / (max d_w - min d_w)

d_w(i) is the L2 distance of the embeddings of beam w and item i; dn is the
normalisation of BIGRec's injection (arXiv 2308.08434, section 3.3). Where a
beam is the very title of an item, k_w is (1 - rest) on that item (on each row
of the title) and `rest` times the softmax. With T_beam = 0 the first beam is
alone and the order is that of its distance, whatever the other two are.

Distances are float32 here, and ranks exact for what they are: where two items
are as near to a beam as float32 can tell, catalogue order decides, while the
published rows decide in float64 (`distance/`).

Letters: N users, n users of a block, W beams, D width, I items, C items of a
block, G temperatures.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bigrec_jax.devices import blocks as blocks_lib, sharding
from bigrec_jax.rankers import beam_texts, counting, engine

# Numbers of scores [n, W, C] that a device makes at a time while it measures.
_BLOCK_NUMBERS = 1 << 21


class Settings(NamedTuple):
  """T_beam, T_item, and what an exact title leaves to the other items."""

  beam_temperature: float
  item_temperature: float
  rest: float


class Items(NamedTuple):
  """What scores need of the items.

  Attributes:
    vectors: [I, D] float32, minus the catalogue's mean.
    norms: [I] float32, squared lengths of `vectors`.
    titles: [I] int32, `Catalogue.groups`.
  """

  vectors: np.ndarray | jax.Array
  norms: np.ndarray | jax.Array
  titles: np.ndarray | jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
  """A catalogue for mixtures.

  Attributes:
    items: on the host.
    mean: [D] float32, which changes no distance but makes norms small.
    mesh: all its devices share the items.
  """

  items: Items
  mean: np.ndarray
  mesh: Mesh


def table(embeddings: np.ndarray, titles: np.ndarray, mesh: Mesh) -> Table:
  """Returns a catalogue, its vectors centred.

  Args:
    embeddings: [I, D] float32.
    titles: [I] int32, `Catalogue.groups`.
    mesh: any mesh.
  """
  mean = embeddings.mean(axis=0, dtype=np.float64).astype(np.float32)
  vectors = embeddings - mean
  titles = np.asarray(titles, np.int32)
  return Table(Items(vectors, _squares(vectors), titles), mean, mesh)


@dataclasses.dataclass(frozen=True, eq=False)
class Beams:
  """The beams of N users, measured against a catalogue.

  Attributes:
    vectors: [N, W, D] float32, minus the catalogue's mean.
    titles: [N, W] int32, the title's number where a beam is one, else -1.
    logs: [N, W] log-probabilities, -inf where there is no beam.
    low: [N, W] float32, least distance to an item.
    span: [N, W] float32, largest distance less the least.
    sums: by T_item: [N, W] float32, logarithm of the softmax's sum.
  """

  vectors: np.ndarray
  titles: np.ndarray
  logs: np.ndarray
  low: np.ndarray
  span: np.ndarray
  sums: dict[float, np.ndarray]


class Queries(NamedTuple):
  """What scores need of a block of users.

  Attributes:
    vectors: [n, W, D] float32, centred.
    norms: [n, W] float32.
    low: [n, W] float32, least distance.
    scale: [n, W] float32, what a distance is multiplied by: 1 / (span T_item).
    spread: [n, W] float32, logarithm of the weight of the softmax's shape.
    titles: [n, W] int32, -1 = no title.
    exact: [n, W] float32, logarithm of the weight of the title itself.
  """

  vectors: np.ndarray
  norms: np.ndarray
  low: np.ndarray
  scale: np.ndarray
  spread: np.ndarray
  titles: np.ndarray
  exact: np.ndarray


def mixture(queries: Queries, items: Items) -> jax.Array:
  """Scores a block: log of the mixture, but for a constant of the user.

  Returns:
    [n, C] float32.
  """
  # Different beams of a user are different titles: one at most is this item.
  own = queries.titles[:, :, None] == items.titles[None, None]
  distances = _distances(queries.vectors, queries.norms, own, items)
  near = (distances - queries.low[:, :, None]) * queries.scale[:, :, None]
  logs = queries.spread[:, :, None] - near  # [n, W, C]
  exact = jnp.where(own, queries.exact[:, :, None], -jnp.inf).max(axis=1)
  top = jnp.maximum(logs.max(axis=1), exact)
  total = jnp.exp(logs - top[:, None]).sum(axis=1) + jnp.exp(exact - top)
  return top + jnp.log(total)


class AllBeams:
  """The `protocol.Ranker` of a mixture over beams."""

  score = staticmethod(mixture)

  def __init__(self, catalogue: Table, beams: Beams, settings: Settings):
    """Keeps the parts; `settings` has a temperature that `beams` know."""
    self._items = catalogue.items
    self._beams, self._settings = beams, settings
    self.width = beams.vectors[0].size

  def queries(self, users: slice) -> Queries:
    """Returns the beams of a block of users."""
    beams, settings = self._beams, self._settings
    vectors, titles = beams.vectors[users], beams.titles[users]
    span = beams.span[users]
    logs = beam_texts.weights(beams.logs[users], settings.beam_temperature)
    known = titles >= 0
    with np.errstate(divide="ignore"):
      spread = logs + np.where(known, np.log(settings.rest), 0.0)
      exact = np.where(known, logs + np.log1p(-settings.rest), -np.inf)
    spread -= beams.sums[settings.item_temperature][users]
    # One beam alone then scores its distance times a power of two, unrounded.
    top = spread.max(axis=1, keepdims=True)
    scale = np.float32(1 / settings.item_temperature) / np.where(
      span > 0, span, np.float32(np.inf)
    )
    return Queries(
      vectors,
      _squares(vectors),
      beams.low[users],
      scale.astype(np.float32),
      (spread - top).astype(np.float32),
      titles,
      (exact - top).astype(np.float32),
    )

  def items(self) -> Items:
    """Returns the catalogue."""
    return self._items


def measure(
  catalogue: Table,
  queries: np.ndarray,
  titles: np.ndarray,
  logs: np.ndarray,
  temperatures: tuple[float, ...],
) -> Beams:
  """Returns the beams of users with what the scores of all items need.

  Two passes over the catalogue: the least and the largest distance, and the
  sums of the softmax at every temperature.

  Args:
    catalogue: the items.
    queries: [N, W, D] float32 embeddings of the beams; anything where there
      is none.
    titles: [N, W] int32, the title's number where a beam is one, else -1.
    logs: [N, W] log-probabilities, -inf where there is no beam.
    temperatures: [G] those of items.
  """
  users, beams, width = queries.shape
  vectors = queries - catalogue.mean
  flat, mesh = vectors.reshape(-1, width), catalogue.mesh
  titles = np.asarray(titles, np.int32)
  numbers = titles.ravel()
  count = len(catalogue.items.titles)
  rows, items = engine.block_sizes(count, mesh, min(512, len(flat)))
  layout = counting.item_layout(count, mesh, items)
  put = counting.put_items(catalogue.items, layout, mesh)
  inverse = np.array([1 / t for t in temperatures], np.float32)
  found = []
  for part in blocks_lib.user_blocks(len(flat), rows):
    own = blocks_lib.pad_rows(flat[part], rows)
    names = blocks_lib.pad_rows(numbers[part], rows)
    block = sharding.put_replicated(mesh, (own, _squares(own), names))
    measured = _measure(put, block, inverse, layout=layout, mesh=mesh)
    found.append([np.asarray(x)[: len(flat[part])] for x in measured])
  low, high, sums = (np.concatenate(x) for x in zip(*found, strict=True))
  shape = users, beams
  return Beams(
    vectors,
    titles,
    logs,
    low.reshape(shape),
    (high - low).reshape(shape),
    {t: sums[:, n].reshape(shape) for n, t in enumerate(temperatures)},
  )


@functools.partial(jax.jit, static_argnames=("layout", "mesh"))
def _measure(
  items: Items,
  queries: tuple[jax.Array, jax.Array, jax.Array],
  inverse: jax.Array,
  *,
  layout: counting.ItemLayout,
  mesh: Mesh,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns least and largest distance [B], logarithms of sums [B, G].

  Args:
    items: of the layout.
    queries: vectors [B, D], norms [B] and titles [B].
    inverse: [G] of temperatures.
    layout: of the items.
    mesh: of the items.
  """

  def local(
    shard: Items,
    queries: tuple[jax.Array, jax.Array, jax.Array],
    inverse: jax.Array,
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    vectors, norms, titles = (x[:, None] for x in queries)
    count = len(vectors)
    start = counting.shard_index(mesh) * layout.rows
    parts = jax.tree.map(
      lambda a: a.reshape(layout.blocks, layout.block, *a.shape[1:]), shard
    )
    numbers = jnp.arange(layout.blocks, dtype=jnp.int32)

    def distances(
      number: jax.Array, part: Items
    ) -> tuple[jax.Array, jax.Array]:
      first = start + number * layout.block
      real = counting.columns(first, layout) < layout.num_items
      own = titles[:, :, None] == part.titles[None, None]
      return _distances(vectors, norms, own, part)[:, 0], real

    def range_of(carry, block):
      found, real = distances(*block)
      low = jnp.where(real[None], found, jnp.inf).min(axis=1)
      high = jnp.where(real[None], found, -jnp.inf).max(axis=1)
      return (jnp.minimum(carry[0], low), jnp.maximum(carry[1], high)), None

    nothing = jnp.full(count, jnp.inf), jnp.full(count, -jnp.inf)
    (low, high), _ = jax.lax.scan(range_of, nothing, (numbers, parts))
    low = jax.lax.pmin(low, mesh.axis_names)
    high = jax.lax.pmax(high, mesh.axis_names)
    span = jnp.where(high > low, high - low, jnp.inf)

    def add(total, block):
      found, real = distances(*block)
      near = (found - low[:, None]) / span[:, None]  # [B, C]
      near = jnp.where(real[None], near, jnp.inf)
      sums = [jnp.exp(-near * one).sum(axis=1) for one in inverse]
      return total + jnp.stack(sums, axis=1), None

    empty = jnp.zeros((count, len(inverse)), jnp.float32)
    total, _ = jax.lax.scan(add, empty, (numbers, parts))
    return low, high, jnp.log(jax.lax.psum(total, mesh.axis_names))

  return counting.map_shards(local, mesh, 3)(items, queries, inverse)


def _distances(
  vectors: jax.Array | np.ndarray,
  norms: jax.Array | np.ndarray,
  own: jax.Array,
  items: Items,
) -> jax.Array:
  """Returns L2 distances [n, W, C].

  Args:
    vectors: [n, W, D], centred.
    norms: [n, W], their squared lengths.
    own: [n, W, C] where a beam is an item's title, so at distance 0, of which
      a float32 product knows three digits.
    items: [C, ...].
  """
  dots = jax.lax.dot_general(
    vectors,
    items.vectors,
    (((2,), (1,)), ((), ())),
    precision=jax.lax.Precision.HIGHEST,
    preferred_element_type=jnp.float32,
  )
  total = norms[:, :, None] + items.norms[None, None]
  squared = jnp.maximum(total - 2.0 * dots, 0.0)
  return jnp.sqrt(jnp.where(own, 0.0, squared))


def _squares(vectors: np.ndarray) -> np.ndarray:
  """Returns squared lengths [...] float32 of [..., D]."""
  return np.einsum("...d,...d->...", vectors, vectors)
