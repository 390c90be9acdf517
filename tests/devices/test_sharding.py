import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from bigrec_jax import errors
from bigrec_jax.config import MeshConfig
from bigrec_jax.devices import sharding
from bigrec_jax.devices.sharding import Axes


def mesh(data=2, fsdp=2, tensor=2):
  return sharding.make_mesh(MeshConfig(data, fsdp, tensor))


def test_minus_one_takes_what_is_left():
  assert mesh(-1, 1, 2).shape == {"data": 4, "fsdp": 1, "tensor": 2}


@pytest.mark.parametrize("sizes", [(3, 1, 1), (2, 2, 1), (-1, 3, 1)])
def test_mesh_that_does_not_fit_the_devices(sizes):
  with pytest.raises(errors.UserError, match="config.mesh: .* devices 8"):
    mesh(*sizes)


def test_logical_names_become_mesh_axes():
  axes = {"a": Axes(("layers", "embed", "heads"), (3, 24, 4))}
  found = sharding.shardings_for(axes, mesh())
  assert found["a"].spec == PartitionSpec(None, "fsdp", "tensor")
  rows = sharding.spec_for(Axes(("batch", "length"), (4, 5)), mesh())
  assert rows == PartitionSpec(("data", "fsdp"), None)


def test_pieces_that_do_not_divide_stay_whole():
  # 12 columns divide by 2, but they are 3 heads of size 4.
  found = sharding.spec_for(Axes(("embed", "kv_heads"), (24, 3)), mesh())
  assert found == PartitionSpec("fsdp", None)


def test_uncovered_parameter_is_an_error():
  with pytest.raises(ValueError, match="no sharding rule covers .*'bogus'"):
    sharding.spec_for(Axes(("bogus",), (4,)), mesh())
  with pytest.raises(ValueError, match="'w'.*no logical axes"):
    sharding.shardings_for({"w": None}, mesh())
  with pytest.raises(ValueError, match="twice"):
    sharding.spec_for(Axes(("heads", "mlp"), (4, 4)), mesh())


def test_batch_that_does_not_divide():
  sharding.check_batch(mesh(), 8, "config.train.micro_batch_size")
  with pytest.raises(errors.UserError, match="micro_batch_size: 6 .* = 4"):
    sharding.check_batch(mesh(), 6, "config.train.micro_batch_size")


def test_put_batch_splits_rows():
  rows = np.arange(8, dtype=np.int32).reshape(4, 2)
  placed = sharding.put_batch(mesh(), {"x": rows})["x"]
  np.testing.assert_array_equal(placed, rows)
  assert placed.addressable_shards[0].data.shape == (1, 2)
  whole = sharding.put_replicated(mesh(), rows)
  assert whole.addressable_shards[0].data.shape == (4, 2)


def test_constrain_inside_jit():
  on = mesh()
  names = ("batch", "width")
  run = jax.jit(lambda x: sharding.constrain(x, on, names) * 2)
  out = run(np.ones((4, 3), np.float32))
  assert out.sharding.spec == PartitionSpec(("data", "fsdp"))
  assert sharding.constrain(out, None, names) is out
