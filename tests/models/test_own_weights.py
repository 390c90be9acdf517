"""Files of weights of a task's own, and where they stand in a tree."""

import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors

from bigrec_jax import config as config_lib, errors
from bigrec_jax.devices import sharding
from bigrec_jax.models import own_weights

SPEC = own_weights.Spec(
  (
    own_weights.Weight(("head", "kernel"), (6, 8), ("", "embed"), 0.5),
    own_weights.Weight(("head", "bias"), (8,), ("norm",), 0.0),
  ),
  {"cf": "abc"},
)


def test_fresh_weights_are_those_of_the_seed_on_any_mesh():
  one = SPEC.init(3, sharding.single_device_mesh())
  mesh = sharding.make_mesh(config_lib.MeshConfig(1, 4, 2))
  other = SPEC.init(3, mesh)
  assert other["head"]["kernel"].sharding.shard_shape((6, 8)) == (6, 2)
  jax.tree.map(np.testing.assert_array_equal, one, other)
  kernel = np.asarray(one["head"]["kernel"])
  assert 0.3 < np.abs(kernel).max() <= 0.5
  assert not np.asarray(one["head"]["bias"]).any()


def test_what_is_written_is_read_by_others_and_again(tmp_path):
  own = SPEC.init(0, sharding.single_device_mesh())
  SPEC.write(tmp_path, own)
  theirs = safetensors.load_file(tmp_path / own_weights.FILE)
  assert set(theirs) == {"head.kernel", "head.bias"}
  np.testing.assert_array_equal(theirs["head.kernel"], own["head"]["kernel"])
  jax.tree.map(np.testing.assert_array_equal, SPEC.read(tmp_path), own)


@pytest.mark.parametrize(
  "spec, problem",
  [
    (own_weights.Spec(SPEC.weights, {"cf": "abd"}), "cf abc, abd expected"),
    (own_weights.Spec(SPEC.weights[:1], {}), "head.bias: shape .8. found, no"),
  ],
)
def test_weights_of_something_else_are_refused(tmp_path, spec, problem):
  with pytest.raises(errors.UserError, match="not found"):
    SPEC.read(tmp_path)
  SPEC.write(tmp_path, SPEC.init(0, sharding.single_device_mesh()))
  with pytest.raises(errors.UserError, match=problem):
    spec.read(tmp_path)
  broken = {"head": {"kernel": np.full((6, 8), np.nan), "bias": np.zeros(8)}}
  with pytest.raises(errors.UserError, match="head.kernel: NaN"):
    SPEC.write(tmp_path, broken)
