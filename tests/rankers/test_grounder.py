import numpy as np
import pytest

from bigrec_jax import config
from bigrec_jax.devices import sharding
from bigrec_jax.rankers import grounder as recommend
from configs import common

USERS, ITEMS, WIDTH, K = 7, 101, 5, 9


@pytest.fixture(scope="module")
def world():
  """Embeddings, titles that several rows share, histories, CF scores."""
  rng = np.random.default_rng(3)
  groups = np.arange(ITEMS)
  groups[40:80] = groups[40]  # Forty rows of one title.
  groups[90] = groups[2]
  items = rng.normal(size=(ITEMS, WIDTH)).astype(np.float32)[groups]
  queries = rng.normal(size=(USERS, WIDTH)).astype(np.float32)
  queries[3] = items[40]
  hidden = rng.integers(0, ITEMS, size=(USERS, 4)).astype(np.int32)
  hidden[0] = -1
  hidden[1, 2:] = -1
  hidden[4, 0] = 90  # Hides item 2, too.
  counts = rng.integers(0, 50, size=ITEMS)
  cf = rng.normal(size=(USERS, ITEMS)).astype(np.float32)
  cf[5] = 0.25  # Nothing is known of this user.
  return groups.astype(np.int32), items, queries, hidden, counts, cf


def expected_list(world, user, gamma, popularity, cf):
  """The formula in float64 and a stable sort, one user at a time.

  `gamma` is one for all, or that of popularity and that of CF.
  """
  of_popularity, of_cf = gamma if isinstance(gamma, tuple) else (gamma, gamma)
  groups, items, queries, hidden, counts, scores = world
  d = np.sqrt(((queries[user].astype(float) - items) ** 2).sum(-1))
  dn = (d - d.min()) / (d.max() - d.min())
  fused = dn.copy()
  if popularity:
    weight = 1 + (counts - counts.min()) / np.ptp(counts)
    fused *= weight**-of_popularity
  if cf and np.ptp(scores[user]) > 0:
    own = scores[user].astype(float)
    fused *= (1 + (own - own.min()) / np.ptp(own)) ** -of_cf
  left_out = {groups[i] for i in hidden[user] if i >= 0}
  listed = []
  for item in np.argsort(fused, kind="stable"):
    if groups[item] not in left_out:
      left_out.add(groups[item])
      listed.append(item)
  listed = np.array(listed[:K])
  return (
    listed,
    1 - fused[listed] ** (1 / (1 + max(of_popularity, of_cf))),
    d[listed],
  )


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2)])
@pytest.mark.parametrize(
  ("popularity", "cf"), [(False, False), (True, False), (False, True), (1, 1)]
)
def test_lists_are_a_sort_without_what_is_hidden(world, shape, popularity, cf):
  groups, items, queries, hidden, counts, scores = world
  section = config.from_config_dict(common.get_config()).ground
  grounder = recommend.Grounder(
    items,
    groups,
    counts if popularity else None,
    1.5,
    section,
    sharding.make_mesh(config.MeshConfig(*shape)),
    most_users=3,  # Several blocks, the last of them not full.
  )
  found = grounder(
    queries, hidden, (lambda part: scores[part]) if cf else None, K
  )
  assert found.items.shape == (USERS, K)
  assert (found.cf_ranks is not None) == bool(cf)
  for user in range(USERS):
    listed, values, distances = expected_list(world, user, 1.5, popularity, cf)
    np.testing.assert_array_equal(found.items[user], listed)
    np.testing.assert_allclose(found.scores[user], values, rtol=0, atol=1e-5)
    np.testing.assert_allclose(
      found.distances[user], distances, rtol=1e-5, atol=1e-12
    )
    if cf:
      places = [(scores[user] > scores[user, i]).sum() + 1 for i in listed]
      assert found.cf_ranks[user].tolist() == places


@pytest.mark.parametrize("gamma", [(4.0, 0.5), (0.0, 30.0), (7.0, 7.0)])
def test_each_part_may_have_its_own_gamma(world, gamma):
  groups, items, queries, hidden, counts, scores = world
  grounder = recommend.Grounder(
    items,
    groups,
    counts,
    dict(zip(("popularity", "cf"), gamma, strict=True)),
    config.from_config_dict(common.get_config()).ground,
    sharding.make_mesh(config.MeshConfig(2, 2, 2)),
    most_users=USERS,
  )
  found = grounder(queries, hidden, lambda part: scores[part], K)
  for user in range(USERS):
    listed, values, _ = expected_list(world, user, gamma, True, True)
    np.testing.assert_array_equal(found.items[user], listed)
    np.testing.assert_allclose(found.scores[user], values, rtol=0, atol=1e-5)


def test_a_list_that_runs_out_of_titles_ends_early(world):
  groups, items, queries, _, _, _ = world
  groups, items = groups[:6], items[:6]
  hidden = np.tile(np.arange(4, dtype=np.int32), (USERS, 1))
  grounder = recommend.Grounder(
    items,
    groups,
    None,
    0.0,
    config.from_config_dict(common.get_config()).ground,
    sharding.make_mesh(config.MeshConfig(8, 1, 1)),
    most_users=USERS,
  )
  found = grounder(queries, hidden, None, 5)
  assert (np.sort(found.items[:, :2], axis=1) == [4, 5]).all()
  assert (found.items[:, 2:] == -1).all()


@pytest.mark.parametrize("gamma", [0.0, 30.0, 100.0, 400.0])
def test_no_gamma_is_too_strong_for_the_order(gamma):
  """Fused distances fall far below float32's range, exact titles stay first."""
  rng = np.random.default_rng(0)
  items = rng.normal(size=(3000, 16)).astype(np.float32)
  queries = rng.normal(size=(6, 16)).astype(np.float32)
  queries[:3] = items[[5, 700, 2999]]
  counts = rng.zipf(1.5, size=3000).clip(max=50)
  cf = np.log1p(counts) + 0.3 * rng.normal(size=(6, 3000))
  cf = cf.astype(np.float32)
  grounder = recommend.Grounder(
    items,
    np.arange(3000, dtype=np.int32),
    counts,
    gamma,
    config.from_config_dict(common.get_config()).ground,
    sharding.make_mesh(config.MeshConfig(2, 2, 2)),
    most_users=6,
  )
  none = np.full((6, 0), -1, np.int32)
  found = grounder(queries, none, lambda part: cf[part], K)
  popular = (counts - counts.min()) / np.ptp(counts)
  for user in range(6):
    own = cf[user].astype(float)
    factor = (1 + popular) * (1 + (own - own.min()) / np.ptp(own))
    d = np.sqrt(((queries[user].astype(float) - items) ** 2).sum(-1))
    with np.errstate(divide="ignore"):
      logs = np.log(d - d.min()) - gamma * np.log(factor)
    expected = np.argsort(logs, kind="stable")[:K]
    np.testing.assert_array_equal(found.items[user], expected)
    assert found.scores[user, 0] == 1.0
    assert (np.diff(found.scores[user]) < 0).all()
