"""Items that are added to a table with room, against one made at once."""

import jax
import numpy as np
import pytest

from bigrec_jax import config, errors
from bigrec_jax.devices import sharding
from bigrec_jax.rankers import grounder as grounder_lib
from bigrec_jax.rankers.distance import lists, streamed
from configs import common
from tests.rankers import test_grounder as slow

world = slow.world  # A fixture.
SPARE, ADDED = 30, 17
SECTION = config.from_config_dict(common.get_config()).ground


def spread(items, size):
  """Rows with room, each spare one with the vector of another item."""
  rows = np.arange(size) % len(items)
  return np.ascontiguousarray(items[rows])


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 2)])
@pytest.mark.parametrize(("popularity", "cf"), [(False, False), (True, True)])
def test_added_items_are_listed_as_if_they_had_been_there(
  world, shape, popularity, cf
):
  """In the programs that were warm before."""
  groups, items, queries, hidden, counts, scores = world
  first, size = slow.ITEMS, slow.ITEMS + SPARE
  rng = np.random.default_rng(5)
  new = rng.normal(size=(ADDED, slow.WIDTH)).astype(np.float32)
  new[3] = items[7]  # Another item with a title that is there.
  queries[2] = new[5]
  own_groups = np.arange(size, dtype=np.int32)
  own_groups[:first] = groups
  vectors, real = spread(items, size), np.arange(size) < first
  weighed = np.full(size, counts.min())
  weighed[:first] = counts
  least = scores.min(axis=1, keepdims=True)
  wide = np.concatenate([scores, np.repeat(least, SPARE, axis=1)], axis=1)
  devices = jax.devices()[: int(np.prod(shape))]
  grounder = grounder_lib.Grounder(
    vectors,
    own_groups,
    weighed if popularity else None,
    1.5,
    SECTION,
    sharding.make_mesh(config.MeshConfig(*shape), devices),
    most_users=8,
    real=real,
  )
  read = (lambda part: wide[part]) if cf else None
  options = (hidden, read, slow.K)

  def check(count):
    found = grounder(queries, *options, allowed=real)
    now = (
      own_groups[:count],
      vectors[:count],
      queries,
      hidden,
      weighed[:count],
      wide[:, :count],
    )
    for user in range(slow.USERS):
      listed, values, distances = slow.expected_list(
        now, user, 1.5, popularity, cf
      )
      np.testing.assert_array_equal(found.items[user], listed)
      np.testing.assert_allclose(found.scores[user], values, atol=1e-5)
      np.testing.assert_allclose(
        found.distances[user], distances, rtol=1e-5, atol=1e-12
      )

  grounder.warm_up(queries, *options)
  own = weighed if popularity else None
  grounder.rewritten(slice(size - 1, size), own)
  compiled = []
  jax.monitoring.register_event_duration_secs_listener(
    lambda name, *_, **__: compiled.append(name) if "compile" in name else None
  )
  check(first)
  vectors[first : first + ADDED] = new
  own_groups[first + 3] = own_groups[7]
  real[: first + ADDED] = True
  if popularity:  # Of a file, that knows one of them.
    weighed = weighed.copy()
    weighed[first + 2] = counts.max() + 1
    own = weighed
  grounder.rewritten(slice(first, first + ADDED), own)
  check(first + ADDED)
  # And back: what is gone is spare again.
  vectors[first + 4 :] = spread(items, size)[first + 4 :]
  real[first + 4 :] = False
  grounder.rewritten(slice(first + 4, first + ADDED), own)
  check(first + 4)
  assert not compiled, compiled


def test_spare_rows_are_no_candidates(world):
  _, items, queries, *_ = world
  size = slow.ITEMS + SPARE
  mesh = sharding.make_mesh(config.MeshConfig(8, 1, 1))
  real = np.arange(size) < slow.ITEMS
  found = []
  for vectors, own in ((items, None), (spread(items, size), real)):
    table = streamed.streamed(vectors, np.arange(len(vectors)), mesh, own)
    users = lists.Users(
      queries,
      8,
      lists.injection.Injection(None, None),
      lists.injection.Gammas.of(0.0),
      0,
      "test",
    )
    found.append(lists.top_items(table, users, 50, SECTION.block_items))
  np.testing.assert_array_equal(found[0].items, found[1].items)
  np.testing.assert_array_equal(found[0].distances, found[1].distances)
  np.testing.assert_allclose(found[0].spread, found[1].spread, rtol=1e-5)


def test_an_added_vector_is_finite(world):
  vectors = spread(world[1], 110)
  mesh = sharding.make_mesh(config.MeshConfig(8, 1, 1))
  table = streamed.streamed(vectors, np.arange(110), mesh)
  vectors[105, 1] = np.nan
  with pytest.raises(errors.UserError, match="added items: row 1 "):
    streamed.rewritten(table, slice(104, 107))
