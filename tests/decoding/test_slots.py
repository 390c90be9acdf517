import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigrec_jax import config
from bigrec_jax.decoding import lanes, slots as slots_lib, stepping
from bigrec_jax.devices import executor, sharding
from bigrec_jax.models import kv_cache

LAYERS, HEADS, SIZE, BEAMS = 2, 4, 3, 2


def make_users(count, width, start, stacked=True):
  """Users whose every array says who they are: start, start + 1, ..."""
  own = np.arange(start, start + count, dtype=np.float32)

  def filled(shape, axis):
    view = own.reshape((1,) * axis + (-1,) + (1,) * (len(shape) - axis - 1))
    return jnp.asarray(np.broadcast_to(view, shape))

  if stacked:
    k = filled((LAYERS, count, HEADS, SIZE, width), 1)
    v = filled((LAYERS, count, HEADS, width, SIZE), 1)
  else:
    k = (filled((count, HEADS, SIZE, width), 0),) * LAYERS
    v = (filled((count, HEADS, width, SIZE), 0),) * LAYERS
  rows = filled((count, 5), 0)
  return slots_lib.Users(
    state={"step": filled((count,), 0)},
    rows=stepping.RowFacts(stepping.LengthNorms(rows, rows), None),
    prompt=kv_cache.PromptCache(k, v, filled((count,), 0)),
  )


def who(slots):
  """Who is in each slot, by every array."""
  users = slots.users
  rows = [
    users.state["step"],
    users.prompt.lengths,
    users.rows.norms.ended[:, 0],
  ]
  for x in jax.tree.leaves((users.prompt.k, users.prompt.v)):
    rows.append(x[0, :, 0, 0, 0] if x.ndim == 5 else x[:, 0, 0, 0])
  for row in rows[1:]:
    np.testing.assert_array_equal(row, rows[0])
  return np.asarray(rows[0]).astype(int).tolist()


@pytest.mark.parametrize("stacked", [True, False])
def test_new_users_take_their_places(stacked):
  users = make_users(2, 6, 10, stacked)
  slots = slots_lib.empty(users, 4, BEAMS, BEAMS, 3, None)
  assert who(slots) == [0, 0, 0, 0] and slots.suffix.room == 3
  slots = slots_lib.place(slots, users, np.array([3, 1], np.int32), 1, None)
  assert who(slots) == [0, 11, 0, 10]
  # Narrower prompts fit too; the second row fills the batch and is dropped.
  later = make_users(2, 4, 20, stacked)
  slots = slots_lib.place(slots, later, np.array([1, 4], np.int32), 1, None)
  assert who(slots) == [0, 20, 0, 10]
  assert slots.users.prompt.width == 6


def test_who_comes_later_has_written_nothing():
  users = make_users(1, 4, 1)
  slots = slots_lib.empty(users, 2, BEAMS, BEAMS, 3, None)
  visible = jnp.ones_like(slots.suffix.visible)
  slots = slots.replace(suffix=slots.suffix.replace(visible=visible))
  slots = slots_lib.place(slots, users, np.array([1], np.int32), 1, None)
  assert np.all(slots.suffix.visible[0])
  assert not slots.suffix.visible[1].any()


def test_who_leaves_leaves_no_nan():
  users = make_users(1, 4, 1)
  slots = slots_lib.empty(users, 2, BEAMS, BEAMS, 3, None)
  v = jnp.full_like(slots.suffix.v, np.nan)
  slots = slots.replace(suffix=slots.suffix.replace(v=v))
  slots = slots_lib.place(slots, users, np.array([1], np.int32), 1, None)
  assert np.all(np.isnan(slots.suffix.v[:, 0]))
  assert np.all(slots.suffix.v[:, 1] == 0)


def test_groups_are_read_when_they_are_full():
  mesh = sharding.make_mesh(config.MeshConfig(8, 1, 1))
  work = types.SimpleNamespace(mesh=mesh)
  lane = lanes.Lane(work, np.arange(50), 16, executor.Team())
  lane._users[:] = 99
  lane._users[[0, 1, 2, 4, 6, 8, 10]] = lanes._FREE
  assert list(lane._groups()) == []  # 7 free slots, groups of 8.
  lane._users[12] = lanes._FREE
  ((numbers, places),) = lane._groups()
  assert numbers.tolist() == [0, 1, 2, 3, 4, 5, 6, lanes._FREE]
  assert places.tolist() == [0, 0, 0, 0, 0, 0, 0, 16]
  assert lane._users[1] == lanes._FREE  # Its shard has had its part.


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2)])
def test_no_cache_crosses_devices(shape):
  mesh = sharding.make_mesh(config.MeshConfig(*shape))
  shards = sharding.batch_size_unit(mesh)
  users = make_users(shards, 6, 10)
  slots = slots_lib.empty(users, 2 * shards, BEAMS, BEAMS, 3, mesh)
  places = np.arange(shards, dtype=np.int32) % 2
  users = jax.jit(lambda x: slots_lib.split(x, mesh))(users)
  place = slots_lib.place_fitting
  text = place.lower(slots, users, places, shards, mesh).compile()
  found = re.findall(r"all-\w+\(|collective-permute\(", text.as_text())
  assert not found
  slots = slots_lib.place(slots, users, places, shards, mesh)
  expected = np.zeros((shards, 2), int)
  expected[np.arange(shards), places] = 10 + np.arange(shards)
  assert who(slots) == expected.ravel().tolist()
  wider = slots_lib.resize(slots, 8, 5, mesh)
  assert (wider.users.prompt.width, wider.suffix.room) == (8, 5)
  assert who(wider) == expected.ravel().tolist()


def test_the_ring_keeps_the_newest():
  shape = (1, 1, 1, 1)
  prompt = kv_cache.PromptCache(
    jnp.zeros((*shape, 4)), jnp.zeros((1, 1, 1, 4, 1)), jnp.ones(1, jnp.int32)
  )
  ring = kv_cache.init_suffix(prompt, 1, 3)

  def write(ring, token):
    k = jnp.full((1, 1, 1, 1, 1), float(token))
    return ring.append(k, k)

  def tokens(ring):
    """From the oldest place to the newest, None where nothing is written."""
    written = np.roll(ring.visible[0, 0, :, 0], -int(ring.cursor))
    k = np.roll(ring.k.ravel(), -int(ring.cursor))
    np.testing.assert_array_equal(k, np.roll(ring.v.ravel(), -int(ring.cursor)))
    return [int(x) if w else None for x, w in zip(k, written, strict=True)]

  for token in range(1, 6):
    ring = write(ring, token)
  assert tokens(ring) == [3, 4, 5]
  ring = ring.with_room(5)
  assert ring.k.ravel().tolist() == [3, 4, 5, 0, 0] and ring.cursor == 3
  ring = write(write(write(ring, 6), 7), 8)
  assert tokens(ring) == [4, 5, 6, 7, 8]
  ring = ring.with_room(2)
  assert tokens(ring) == [7, 8]
  assert tokens(write(ring, 9)) == [8, 9]


def test_groups_divide_over_the_mesh():
  one = sharding.make_mesh(config.MeshConfig(1, 1, 1), jax.devices()[:1])
  eight = sharding.make_mesh(config.MeshConfig(8, 1, 1))
  assert [lanes.group_of(n, one) for n in (1, 3, 16)] == [1, 1, 4]
  assert [lanes.group_of(n, eight) for n in (8, 32, 128)] == [8, 8, 32]
  assert lanes.slots_of(5, 64, one) == 8
  assert lanes.slots_of(5, 64, eight) == 8
  assert lanes.slots_of(500, 24, eight) == 24
