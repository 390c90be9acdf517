"""Histories to user states, in blocks of users of similar length.

Letters: N users, U users of a block, D width, T positions.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bigrec_jax.cf import networks, rows
from bigrec_jax.cf.factors import Factors
from bigrec_jax.cf.spec import NetworkSpec
from bigrec_jax.devices import blocks as blocks_lib, sharding

# Positions of one block of histories: [U, T] has about this many.
_BLOCK_POSITIONS = 1 << 14
_SHORTEST = 8  # Histories up to this length share one program.


class Encoder:
  """Turns the histories of one split into user states.

  Histories of similar length share a block: of 50 positions Beauty's users
  fill seven on average.
  """

  def __init__(
    self, spec: NetworkSpec, history: np.ndarray, mesh: Mesh, block: int
  ):
    """Sorts the histories into blocks and puts them on the mesh.

    Args:
      spec: of the network.
      history: [N, H] int32, padded at the right with -1; the last
        spec.max_length items count.
      mesh: users are split over data and fsdp.
      block: the states are padded with zeros to a multiple of it.
    """
    self._spec, self._mesh = spec, mesh
    history = rows.newest(history, spec.max_length)
    length = rows.lengths(history)
    tokens = np.where(history >= 0, history, spec.num_items).astype(np.int32)
    groups: list[tuple[np.ndarray, np.ndarray]] = []
    order: list[tuple[np.ndarray, int]] = []
    for width in self._widths():
      inside = np.flatnonzero(
        (length <= width)
        & (length > (groups[-1][0].shape[-1] if groups else -1))
      )
      if len(inside):
        groups.append(self._group(tokens[inside, :width], length[inside]))
        order.append((inside, groups[-1][1].size))
    padded = -(-len(history) // block) * block
    total = sum(size for _, size in order)
    source = np.full(padded, total, np.int32)  # Past the end: a row of zeros.
    start = 0
    for inside, size in order:
      source[inside] = start + np.arange(len(inside), dtype=np.int32)
      start += size
    self._groups = sharding.put_replicated(mesh, groups)
    self._source = sharding.put_replicated(mesh, source)

  def _widths(self) -> list[int]:
    """Returns the lengths that programs are compiled for, ascending."""
    longest = self._spec.max_length
    if self._spec.network == "caser":  # Its image has one size.
      return [longest]
    widths = [_SHORTEST]
    while widths[-1] < longest:
      widths.append(2 * widths[-1])
    return [*widths[:-1], longest]

  def _group(
    self, tokens: np.ndarray, length: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns ([blocks, U, T], [blocks, U])."""
    unit = sharding.batch_size_unit(self._mesh)
    users = max(1, _BLOCK_POSITIONS // tokens.shape[1] // unit) * unit
    users = min(users, -(-len(tokens) // unit) * unit)
    blocks = -(-len(tokens) // users)
    tokens = blocks_lib.pad_rows(tokens, blocks * users)
    length = blocks_lib.pad_rows(length, blocks * users)
    return tokens.reshape(blocks, users, -1), length.reshape(blocks, users)

  def __call__(self, params: networks.Params) -> jax.Array:
    """Returns states [N padded, D], in the order of the histories."""
    return _encode(self._spec, self._mesh, params, self._groups, self._source)


def states(
  spec: NetworkSpec,
  params: networks.Params,
  history: np.ndarray,
  mesh: Mesh,
  users: int,
) -> np.ndarray:
  """Returns the states [N, D] of any histories, by one program for all calls.

  Args:
    spec: of the network.
    params: its parameters.
    history: [N, H] int32, padded at the right with -1; the last
      spec.max_length items count.
    mesh: users are split over data and fsdp.
    users: of a block, rounded up to what the mesh divides.
  """
  history = rows.newest(history, spec.max_length)
  length = rows.lengths(history)
  tokens = np.where(history >= 0, history, spec.num_items).astype(np.int32)
  unit = sharding.batch_size_unit(mesh)
  users = -(-users // unit) * unit
  source = np.arange(users, dtype=np.int32)
  found = []
  for part in blocks_lib.user_blocks(len(history), users):
    block = tuple(
      blocks_lib.pad_rows(x[part], users)[None] for x in (tokens, length)
    )
    inputs = sharding.put_replicated(mesh, ([block], source))
    encoded = _encode(spec, mesh, params, *inputs)
    found.append(np.asarray(encoded)[: len(tokens[part])])
  return np.concatenate(found)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _encode(
  spec: NetworkSpec,
  mesh: Mesh,
  params: networks.Params,
  groups: list[tuple[jax.Array, jax.Array]],
  source: jax.Array,
) -> jax.Array:
  def one(block):
    tokens, length = block
    tokens = sharding.constrain(tokens, mesh, ("batch", "length"))
    return networks.last_states(spec, params, tokens, length, None)

  states = [jax.lax.map(one, group) for group in groups]  # [blocks, U, D]
  flat = jnp.concatenate([s.reshape(-1, s.shape[-1]) for s in states])
  flat = jnp.concatenate([flat, jnp.zeros_like(flat[:1])])
  return sharding.constrain(flat[source], mesh, ("", ""))


def factors(
  states: jax.Array, head: networks.Head, num_users: int, num_items: int
) -> Factors:
  """Fetches the factorised scores of a network, its bias as a column."""
  users = sharding.to_host(states)[:num_users]
  kernel, bias = (sharding.to_host(x)[:num_items] for x in head)
  ones = np.ones((num_users, 1), np.float32)
  return Factors(
    np.concatenate([users, ones], axis=1),
    np.concatenate([kernel, bias[:, None]], axis=1),
  )
