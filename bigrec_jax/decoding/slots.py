"""Slots that users pass through while they are decoded.

A batch whose users all wait for the slowest wastes most of its places: titles
differ in length. So B slots are decoded side by side; a user who is done
leaves, and another takes the slot (continuous batching, Orca, OSDI 2022).
These are the programs that move users; the network runs in program.py.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from bigrec_jax.decoding import stepping
from bigrec_jax.devices import sharding
from bigrec_jax.models import kv_cache


class Users(flax.struct.PyTreeNode):
  """Users between two tokens: R new ones, or those of all B slots.

  Attributes:
    state: of the search.
    rows: what the search is told of them.
    prompt: their prompts' cache, without the shared beginning.
  """

  state: Any
  rows: stepping.RowFacts
  prompt: kv_cache.PromptCache


class Slots(flax.struct.PyTreeNode):
  """B users and what they wrote; a slot whose user is done is free."""

  users: Users
  suffix: kv_cache.SuffixCache


def map_users(
  function: Callable[..., jax.Array], users: Users, *others: Users
) -> Users:
  """Applies function(x, *others, axis) to every array; axis is the users'."""
  everyone = (users, *others)
  prompts = [u.prompt for u in everyone]

  def plain(*x: jax.Array) -> jax.Array:
    return function(*x, 0)

  def cache(*x: jax.Array) -> jax.Array:
    return function(*x, x[0].ndim - 4)  # Stacked ones have layers first.

  state, rows = jax.tree.map(plain, *((u.state, u.rows) for u in everyone))
  k, v = jax.tree.map(cache, *((p.k, p.v) for p in prompts))
  lengths = plain(*(p.lengths for p in prompts))
  return Users(state, rows, kv_cache.PromptCache(k, v, lengths))


@functools.partial(
  jax.jit, static_argnames=("count", "beams", "width", "room", "mesh")
)
def empty(
  users: Users, count: int, beams: int, width: int, room: int, mesh: Mesh | None
) -> Slots:
  """Returns free slots.

  Args:
    users: any, for shapes and dtypes.
    count: B.
    beams: W.
    width: Q, tokens of a pass of a user.
    room: T of the cache of what they write.
    mesh: over whose axes data and fsdp the slots are split.
  """

  def free(x: jax.Array, axis: int) -> jax.Array:
    return jnp.zeros((*x.shape[:axis], count, *x.shape[axis + 1 :]), x.dtype)

  # Zeros also say that nobody is running: all are done.
  users = map_users(free, users)
  suffix = kv_cache.init_suffix(users.prompt, beams, room, width)
  return split(Slots(users, suffix), mesh)


def place(
  slots: Slots, users: Users, places: jax.Array, shards: int, mesh: Mesh | None
) -> Slots:
  """Puts new users into slots.

  Each shard of the slots takes its own R / shards new users, so that no cache
  crosses devices.

  Args:
    slots: B of them; lost to the caller.
    users: R of them, their prompts no wider than the slots'.
    places: [R] int32, each one's slot within its shard; B for rows that only
      fill the group: they are dropped.
    shards: into how many the slots are split.
    mesh: see `empty`.
  """
  # A program of its own: else there would be a large one for each pair of
  # widths.
  width = slots.users.prompt.width
  if users.prompt.width != width:
    users = users.replace(prompt=_with_width(users.prompt, width, mesh))
  return place_fitting(slots, users, places, shards, mesh)


@functools.partial(
  jax.jit, static_argnames=("shards", "mesh"), donate_argnames="slots"
)
def place_fitting(
  slots: Slots, users: Users, places: jax.Array, shards: int, mesh: Mesh | None
) -> Slots:
  """Does what `place` does for prompts that are as wide as the slots'."""
  places = places.reshape(shards, -1)

  def put(old: jax.Array, new: jax.Array, axis: int) -> jax.Array:
    lead = (slice(None),) * axis

    def one_shard(old: jax.Array, new: jax.Array, to: jax.Array) -> jax.Array:
      return old.at[(*lead, to)].set(new, mode="drop")

    def cut(x: jax.Array) -> jax.Array:
      return x.reshape(*x.shape[:axis], shards, -1, *x.shape[axis + 1 :])

    axes = (axis, axis, 0)
    merged = jax.vmap(one_shard, axes, axis)(cut(old), cut(new), places)
    return merged.reshape(old.shape)

  def clear(old: jax.Array, axis: int) -> jax.Array:
    shape = (*old.shape[:axis], places.size, *old.shape[axis + 1 :])
    return put(old, jnp.zeros(shape, old.dtype), axis)

  suffix = slots.suffix
  suffix = suffix.replace(
    visible=clear(suffix.visible, 0),
    # Nothing written is attended to, but with a weight of 0, and 0 x NaN is
    # NaN: it would outlive the user whose network gave it.
    v=jax.tree.map(lambda x: clear(x, x.ndim - 5), suffix.v),
  )
  return split(Slots(map_users(put, slots.users, users), suffix), mesh)


@functools.partial(jax.jit, static_argnames=("shards", "mesh"))
def moved(
  slots: Slots, places: jax.Array, shards: int, mesh: Mesh | None
) -> Slots:
  """Returns another number of slots, with users of these.

  Each shard keeps its own users. For a moment old and new caches are both in
  memory.

  Args:
    slots: B of them.
    places: [C] int32, for each new slot its user's place within the shard; B
      where it is to be free.
    shards: into how many the slots are split.
    mesh: see `empty`.
  """
  places = places.reshape(shards, -1)

  def pick(x: jax.Array, axis: int) -> jax.Array:
    def one_shard(own: jax.Array, of: jax.Array) -> jax.Array:
      # Zeros also say that a user is done.
      return jnp.take(own, of, axis=axis, mode="fill", fill_value=0)

    cut = x.reshape(*x.shape[:axis], shards, -1, *x.shape[axis + 1 :])
    found = jax.vmap(one_shard, (axis, 0), axis)(cut, places)
    return found.reshape(*x.shape[:axis], -1, *x.shape[axis + 1 :])

  suffix = slots.suffix
  suffix = suffix.replace(
    k=jax.tree.map(lambda x: pick(x, x.ndim - 5), suffix.k),
    v=jax.tree.map(lambda x: pick(x, x.ndim - 5), suffix.v),
    visible=pick(suffix.visible, 0),
  )
  return split(Slots(map_users(pick, slots.users), suffix), mesh)


def resize(slots: Slots, width: int, room: int, mesh: Mesh | None) -> Slots:
  """Returns slots whose caches have other sizes.

  For a moment the old and the new caches are both in memory.

  Args:
    slots: not to be used any more: parts of it live on in the result.
    width: S, no less than the longest prompt of the users at hand.
    room: T, no less than what any of them has fed back.
    mesh: see `empty`.
  """
  prompt, suffix = slots.users.prompt, slots.suffix
  if width != prompt.width:
    prompt = _with_width(prompt, width, mesh)
  if room != suffix.room:
    suffix = _with_room(suffix, room, mesh)
  return Slots(slots.users.replace(prompt=prompt), suffix)


@functools.partial(jax.jit, static_argnames=("width", "mesh"))
def _with_width(
  prompt: kv_cache.PromptCache, width: int, mesh: Mesh | None
) -> kv_cache.PromptCache:
  return split(prompt.with_width(width), mesh)


@functools.partial(jax.jit, static_argnames=("room", "mesh"))
def _with_room(
  suffix: kv_cache.SuffixCache, room: int, mesh: Mesh | None
) -> kv_cache.SuffixCache:
  return split(suffix.with_room(room), mesh)


def split(tree: Any, mesh: Mesh | None) -> Any:
  """Fixes how users, slots or caches lie on a mesh, so that programs fit."""
  return jax.tree.map(
    lambda x, axes: sharding.constrain(x, mesh, axes.names), tree, axes(tree)
  )


def axes(tree: Any) -> Any:
  """Returns the logical axes of every array of users, slots or caches."""
  if isinstance(tree, Slots):
    return Slots(axes(tree.users), axes(tree.suffix))
  if isinstance(tree, Users):
    rows = (tree.state, tree.rows)
    state, told = jax.tree.map(_of_user, rows)
    return Users(state, told, axes(tree.prompt))
  if isinstance(tree, kv_cache.PromptCache):
    k, v = jax.tree.map(lambda x: _of_heads(x, 4), (tree.k, tree.v))
    return kv_cache.PromptCache(k, v, _of_user(tree.lengths))
  k, v = jax.tree.map(lambda x: _of_heads(x, 5), (tree.k, tree.v))
  cursor: Any = sharding.Axes((), ())
  return kv_cache.SuffixCache(k, v, _of_user(tree.visible), cursor)


def _of_user(x: jax.Array) -> Any:
  return sharding.Axes(("batch", *[""] * (x.ndim - 1)), x.shape)


def _of_heads(x: jax.Array, own_axes: int) -> sharding.Axes:
  """Returns the axes of a cache; those of all layers have one more."""
  lead = ("layers",) * (x.ndim - own_axes)
  rest = [""] * (own_axes - 2)
  return sharding.Axes((*lead, "batch", "kv_heads", *rest), x.shape)
