import jax
import numpy as np
import pytest

from bigrec_jax.rankers import dense, title_lists


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 2)])
def test_lists_are_a_stable_sort_with_each_title_once(shape):
  mesh = jax.make_mesh(
    shape,
    ("data", "fsdp", "tensor"),
    axis_types=(jax.sharding.AxisType.Auto,) * 3,
    devices=jax.devices()[: np.prod(shape)],
  )
  rng = np.random.default_rng(0)
  first = {}
  names = rng.integers(0, 23, size=61)  # Titles of up to several rows.
  groups = np.array(
    [first.setdefault(name, row) for row, name in enumerate(names)], np.int32
  )
  scores = rng.integers(0, 6, size=(19, 61)).astype(np.float32)  # With ties.
  for k in (1, 5, 30):
    found = title_lists.title_lists(
      dense.Dense(scores.__getitem__, 61), 19, groups, mesh, k=k, most_users=8
    )
    for row, own in zip(scores, found, strict=True):
      order = groups[np.argsort(-row, kind="stable")].tolist()
      want = list(dict.fromkeys(order))[:k]
      assert own.tolist() == want + [-1] * (k - len(want))
