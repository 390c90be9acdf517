"""Seconds of a SASRec epoch and of its full evaluation, ours and PyTorch's.

  python -m benchmarks.cf --peer --json=results.json
  python -m benchmarks.cf --large

The same task on both sides: the S3-Rec family's SASRec (2 blocks, 2 heads,
width 64, dropout .5, histories of 50), batches of 256 users, BCE with one
negative at every position, then the rank of every user's target among all
items with the seen ones masked. Data: Beauty if ../shared is there, else
made-up sequences of that size. Each side runs alone on all cores, in its own
process, one after the other; compilation is timed apart. Wall time and the CPU
time of all threads are given: on a shared machine the second is steadier.

--large: 10,000 users against 1,000,000 items; seconds and peak memory.
"""

import argparse
import json
import os
import pathlib
import platform
import resource
import statistics
import tempfile
import time

import jax
import numpy as np

from benchmarks import cf_data, children, peer_cf, scratch
from bigrec_jax.cf import (
  factors as factors_lib,
  fitting,
  losses,
  networks,
  recipes,
  rows,
  states as cf_states,
  steps,
  trainer,
)
from bigrec_jax.config import MeshConfig
from bigrec_jax.devices import sharding
from bigrec_jax.rankers import cf as cf_rankers, engine
from bigrec_jax.results import table
from configs import common

_SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"
_BEAUTY = _SHARED / "amazon-2014-loo" / "Beauty.txt.gz"
_LENGTH = 50


def _since(started: tuple[float, float]) -> dict[str, float]:
  return {
    "wall": time.perf_counter() - started[0],
    "cpu": time.process_time() - started[1],
  }


def _now() -> tuple[float, float]:
  return time.perf_counter(), time.process_time()


def made_up(path: pathlib.Path) -> None:
  """Writes sequences with Beauty's numbers of users, items and lengths."""
  import gzip

  rng = np.random.default_rng(0)
  lengths = np.minimum(5 + rng.geometric(0.26, 22363) - 1, 200)
  with gzip.open(path, "wt") as file:
    for user, length in enumerate(lengths, 1):
      items = rng.integers(1, 12102, length)
      file.write(f"{user} {' '.join(map(str, items))}\n")


def _recipe(num_items: int, mesh: jax.sharding.Mesh) -> steps.Recipe:
  config = common.get_config().cf
  config.family, config.num_layers, config.num_heads = "s3rec", 2, 2
  config.dropout = 0.5
  return recipes.recipe("sasrec", config, num_items, _LENGTH, mesh)


def ours(data: cf_data.Dataset, epochs: int) -> dict:
  """Trains and evaluates; returns the times."""
  mesh = sharding.make_mesh(MeshConfig(-1, 1, 1))
  recipe = _recipe(data.num_items, mesh)
  train, test = data.splits["train"], data.splits["test"]
  started = _now()
  made = trainer.CfTrainer(
    recipe,
    rows.chains(train, _LENGTH),
    rows.target_counts(train, data.num_items),
    [steps.Trial(0, 1e-3, 0.0, 0.0)],
    mesh,
  )
  rank = engine.Ranks(
    test.target, data.num_items, mesh, most_users=512, seen=data.seen["test"]
  )
  encoder = cf_states.Encoder(recipe.network, test.history, mesh, rank.block)
  state = made.init()
  setup = _since(started)
  times = {"epochs": [], "evaluations": []}
  for _ in range(epochs + 1):  # The first of each compiles.
    started = _now()
    state, loss = made.run_epoch(state)
    loss = float(loss[0])
    times["epochs"].append(_since(started))
    started = _now()
    params = fitting.of_run(state.params, 0)
    head = networks.head(recipe.network, params)
    ranks = rank(cf_rankers.Headed(encoder(params), head))
    times["evaluations"].append(_since(started))
  return {
    "epochs": times["epochs"][1:],
    "evaluations": times["evaluations"][1:],
    "first": {k: v[0] for k, v in times.items()},
    "setup": setup,
    "loss": loss,
    "hr10": float((ranks < 10).mean()),
    "jax": jax.__version__,
  }


def peer(data: cf_data.Dataset, epochs: int) -> dict:
  """Runs the PyTorch side in its own process; returns the times."""
  made = rows.chains(data.splits["train"], _LENGTH)
  test, pad = data.splits["test"], data.num_items

  def left(array: np.ndarray) -> np.ndarray:
    length = (array >= 0).sum(axis=1)
    order = np.arange(array.shape[1])[None] - (array.shape[1] - length[:, None])
    moved = np.take_along_axis(array, np.maximum(order, 0), axis=1)
    return np.where(order >= 0, moved, pad)

  task = {
    "num_items": pad,
    "max_length": _LENGTH,
    "hidden_size": 64,
    "num_layers": 2,
    "num_heads": 2,
    "dropout": 0.5,
    "batch_size": 256,
    "epochs": epochs,
    "threads": os.cpu_count(),
  }
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    (folder / "task.json").write_text(json.dumps(task))
    np.save(folder / "items.npy", left(made.items))
    np.save(folder / "history.npy", left(test.history))
    np.save(folder / "target.npy", test.target)
    seen = data.seen["test"]
    np.save(folder / "seen.npy", np.where(seen >= 0, seen, pad))
    command = [scratch.interpreter(), peer_cf.__file__, name]
    out = children.run(command, check=True, capture_output=True, text=True)
  return json.loads(out.stdout)


def large(num_items: int, num_users: int, width: int) -> dict:
  """Evaluates factorised scores of a large catalogue."""
  rng = np.random.default_rng(0)
  factors = factors_lib.Factors(
    rng.standard_normal((num_users, width), np.float32),
    rng.standard_normal((num_items, width), np.float32),
  )
  targets = rng.integers(0, num_items, num_users).astype(np.int32)
  seen = rng.integers(0, num_items, (num_users, 50)).astype(np.int32)
  mesh = sharding.make_mesh(MeshConfig(-1, 1, 1))
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  started = _now()
  rank = engine.Ranks(targets, num_items, mesh, most_users=512, seen=seen)
  ranks = rank(cf_rankers.Factorised(factors))
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return {
    "num_items": num_items,
    "num_users": num_users,
    "seconds": _since(started),
    "users_per_block": rank.block,
    "peak_gib": peak / 2**20,
    "peak_above_data_gib": (peak - before) / 2**20,
    "mean_rank": float(ranks.mean()),
  }


def large_loss(num_items: int, batch: int, width: int) -> dict:
  """Takes gradients of full cross-entropy over a large catalogue."""
  rng = np.random.default_rng(0)
  head = networks.Head(
    rng.standard_normal((num_items, width), np.float32),
    np.zeros(num_items, np.float32),
  )
  states = rng.standard_normal((batch, width), np.float32)
  targets = rng.integers(0, num_items, batch).astype(np.int32)
  weights = np.full(batch, 1 / batch, np.float32)
  mesh = sharding.make_mesh(MeshConfig(-1, 1, 1))

  def mean(head, states):
    return losses.softmax(head, states, targets, weights, num_items, mesh)

  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  started = _now()
  jax.block_until_ready(jax.jit(jax.grad(mean, (0, 1)))(head, states))
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return {
    "seconds": _since(started),
    "peak_above_data_gib": (peak - before) / 2**20,
  }


def _median(times: list[dict], kind: str) -> float:
  return statistics.median(t[kind] for t in times)


def _show(result: dict) -> str:
  lines = []
  for name, key in (("epoch", "epochs"), ("evaluation", "evaluations")):
    for kind in ("wall", "cpu"):
      mine = _median(result["ours"][key], kind)
      theirs = _median(result["peer"][key], kind)
      lines.append(
        [
          f"{name}, {kind} s",
          f"{mine:.2f}",
          f"{theirs:.2f}",
          f"{theirs / mine:.2f}x",
        ]
      )
  return table.format_table(["SASRec", "ours", "PyTorch", "ratio"], lines)


def main() -> None:
  """Runs what the flags ask for."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--peer", action="store_true")
  parser.add_argument("--large", action="store_true")
  parser.add_argument("--epochs", type=int, default=3)
  parser.add_argument("--items", type=int, default=1_000_000)
  parser.add_argument("--users", type=int, default=10_000)
  parser.add_argument("--json", type=pathlib.Path)
  flags = parser.parse_args()
  result = {
    "cores": os.cpu_count(),
    "machine": platform.processor() or platform.machine(),
    "devices": [d.device_kind for d in jax.devices()],
  }
  if flags.large:
    result["large"] = large(flags.items, flags.users, 64)
    result["large_loss"] = large_loss(flags.items, 256, 64)
    print(json.dumps(result, indent=1))
  else:
    with tempfile.TemporaryDirectory() as name:
      path = _BEAUTY
      if not path.exists():
        path = pathlib.Path(name) / "made_up.txt.gz"
        made_up(path)
      data = cf_data.leave_one_out(path, _LENGTH)
    result["data"] = path.name
    result["ours"] = ours(data, flags.epochs)
    if flags.peer:
      result["peer"] = peer(data, flags.epochs)
      print(_show(result))
    else:
      print(json.dumps(result["ours"], indent=1))
  if flags.json:
    scratch.write_json(flags.json, result)


if __name__ == "__main__":
  main()
