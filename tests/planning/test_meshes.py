"""Which mesh decodes fastest by formula, and what a whole run takes."""

import dataclasses
import json
import pathlib

import pytest

from bigrec_jax import config as config_lib, models
from bigrec_jax.planning import (
  chips,
  meshes,
  programs,
  run_cost,
  tables,
  work,
)
from bigrec_jax.workdir import paths as paths_lib
from configs import common

RESULTS = pathlib.Path(__file__).parents[2] / "benchmarks" / "results"


def _seven_b(tmp_path):
  """Returns LLaMA-7B's sizes in bfloat16, and slots for 128 users."""
  stored = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32000,
  }
  tmp_path.joinpath("config.json").write_text(json.dumps(stored))
  tree = common.get_config()
  net = work.Network(
    config=models.read_config(tmp_path),
    lora=config_lib.from_config_dict(tree).lora,
    itemsize=2,
    quantization="none",
    remat="none",
    attention="splash",
    replicas=8,
  )
  shape = programs.GenerateShape(256, 64, 192, 96, 4, 63)
  return net, shape


def _of(found, data, fsdp, tensor):
  sizes = (data, fsdp, tensor)
  return next(m for m in found if (m.data, m.fsdp, m.tensor) == sizes)


def test_weights_that_stay_beat_weights_that_travel(tmp_path):
  net, shape = _seven_b(tmp_path)
  chip = chips.CHIPS["v5e"]
  found = meshes.estimates(net, shape, 31, 8, chip, chip.memory)
  assert len(found) == 10  # All ways to write 8 as a product of three.
  fsdp, tensor = _of(found, 1, 8, 1), _of(found, 1, 1, 8)
  assert tensor.fits and tensor.users_per_second > 2.5 * fsdp.users_per_second
  assert not _of(found, 8, 1, 1).fits  # 13 GB of weights in 15.75 GiB, caches.
  fitting = [one.fits for one in found]
  assert fitting == sorted(fitting, reverse=True)
  speeds = [one.users_per_second for one in found if one.fits]
  assert speeds == sorted(speeds, reverse=True)
  # Weights once a token of all slots, over the wire and no faster.
  weights = 32 * net.layer_bytes() + net.head_bytes()
  floor = 31 * weights * 7 / 8 / chip.network
  assert shape.users / fsdp.users_per_second > floor


def test_the_estimate_is_near_what_the_compiled_programs_give(tmp_path):
  net, shape = _seven_b(tmp_path)
  chip = chips.CHIPS["v5e"]
  compiled = json.loads((RESULTS / "plan_generate_7b_v5e_2x4.json").read_text())
  own = compiled["programs"][0]["shape"]
  shape = programs.GenerateShape(**own)
  found = meshes.estimates(net, shape, 31, 8, chip, chip.memory)
  # Quantities of a roofline: the largest is the same, the rest less exact.
  ratio = (
    _of(found, 1, 1, 8).users_per_second
    / compiled["generate"]["users_per_second"]
  )
  assert 0.8 < ratio < 1.25


def test_slots_and_heads_that_do_not_divide_are_left_out(tmp_path):
  net, shape = _seven_b(tmp_path)
  net = dataclasses.replace(
    net, config=dataclasses.replace(net.config, num_key_value_heads=2)
  )
  shape = dataclasses.replace(shape, group=4)
  chip = chips.CHIPS["h100"]
  found = meshes.estimates(net, shape, 31, 8, chip, chip.memory)
  assert {(m.data * m.fsdp, m.tensor) for m in found} == {(4, 2)}


@pytest.mark.parametrize("price", [0.0, 3.0])
def test_hours_and_money_of_a_run(tmp_path, price):
  tree = common.get_config()
  tree.data.num_train, tree.report.price_per_hour = 1000, price
  config = config_lib.from_config_dict(tree)
  paths = paths_lib.Paths(tmp_path)
  train = run_cost.train(config, paths, 9.0, 8)
  # 50 epochs of 8 steps of 128 examples, 9 s each, on 8 chips.
  assert train == {"examples": 1000, "steps": 400, "chip_hours": 8.0}
  parts = {"train": train, "generate": {"users_per_second": 10.0}}
  run = run_cost.whole(config, paths, parts, 8)
  assert run["users"] == 10_000 and run["train_hours"] == 1.0
  assert run["generate_hours"] == pytest.approx(1000 / 3600)
  (line,) = tables._run({"run": run})
  if price:
    assert run["cost"] == pytest.approx(3 * (1 + 1000 / 3600))
    assert line.endswith("3.83 at 3 an hour")
  else:
    assert run["cost"] is None and line.endswith("10,000 users")
  assert run_cost.whole(config, paths, {"train": train}, 8) is None


def test_a_mesh_that_is_bad_for_decoding_is_named():
  def mesh(fsdp, tensor, speed):
    return dataclasses.asdict(
      meshes.Estimate(1, fsdp, tensor, speed, 1.0, True)
    )

  size = {"data": 1, "fsdp": 8, "tensor": 1}
  found = [mesh(1, 8, 300.0), mesh(8, 1, 60.0)]
  plan = {"generate": {"meshes": found}, "devices": 8, "mesh": size}
  (line,) = tables._meshes(plan)
  assert "bad for decoding" in line and "5.0 times as fast" in line
  assert "mesh.data 1, mesh.fsdp 1, mesh.tensor 8" in line
  found[1]["users_per_second"] = 250.0
  (line,) = tables._meshes(plan)
  assert "bad" not in line and "1.2 times" in line
  assert "the best mesh" in tables._meshes(plan | {"mesh": found[0]})[0]
