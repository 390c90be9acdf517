"""Seconds of grounding: the gamma sweep, and top-k lists of a large catalogue.

  python -m benchmarks.ground --peer --json=results.json

Sweep: ranks of all users without injection and at every gamma of the grid, for
popularity and for CF, then ranks below 20 at every pair of gammas that
`two_gammas` tries, on vectors in clusters (a fifth of the users near their
target, half of those exactly on it). Block by block it takes turns with the
bare matrix product of the same queries and items, the floor. The peer, the
published procedure in torch (cdist, then per gamma a double argsort and loops
over users), is timed on some users and gammas and scaled: it is linear in both.

Lists: the k nearest of many items through `Grounder`, the way that
--mode=recommend takes, without injection and with popularity, against the bare
product and FAISS IndexFlatL2 (--peer) on the same vectors, one after the other.

Wall time and the CPU time of all threads are given: on a shared machine the
second is the steadier. Compilation is left out.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import children, peer_ground, scratch
from bigrec_jax import config
from bigrec_jax.devices import blocks, sharding
from bigrec_jax.rankers import grounder as grounder_lib
from bigrec_jax.rankers.combine import calibrate, injection, two_gammas
from bigrec_jax.rankers.distance import (
  critical,
  distance,
  injected,
  resolution,
  streamed,
  user_block,
)
from bigrec_jax.results import table
from configs import common

_PEER = pathlib.Path(peer_ground.__file__)
_LARGEST_CUTOFF = 50


class Clock:
  """Sums wall and CPU seconds by name."""

  def __init__(self):
    self.wall: dict[str, float] = {}
    self.cpu: dict[str, float] = {}

  def time(self, name: str, function: Callable[[], Any]) -> Any:
    """Returns the function's result, ready, and adds what it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = jax.block_until_ready(function())
    self.cpu[name] = self.cpu.get(name, 0.0) + time.process_time() - cpu
    self.wall[name] = self.wall.get(name, 0.0) + time.perf_counter() - wall
    return result


def world(arguments: argparse.Namespace) -> dict[str, np.ndarray]:
  """Returns queries, items, targets, cf and popularity, made up."""
  rng = np.random.default_rng(0)
  users, count, width = arguments.users, arguments.items, arguments.width
  centres = rng.standard_normal((64, width), dtype=np.float32)
  items = rng.standard_normal((count, width), dtype=np.float32)
  items = items * np.float32(0.5) + centres[rng.integers(0, 64, count)]
  targets = rng.integers(0, count, users)
  other = rng.integers(0, count, users)
  written = np.where(rng.random(users) < 0.2, targets, other)
  queries = items[written]
  blurred = np.flatnonzero(rng.random(users) < 0.5)
  noise = rng.standard_normal((len(blurred), width), dtype=np.float32)
  queries[blurred] += np.float32(0.3) * noise
  popularity = rng.zipf(1.4, count).clip(0, 5000)
  cf = rng.standard_normal((users, count), dtype=np.float32)
  return {
    "queries": queries,
    "items": items,
    "targets": targets,
    "cf": cf,
    "popularity": popularity,
  }


@jax.jit
def _product(queries: jax.Array, items: jax.Array) -> jax.Array:
  return jax.lax.dot_general(
    queries,
    items,
    (((1,), (1,)), ((), ())),
    precision=jax.lax.Precision.HIGHEST,
    preferred_element_type=jnp.float32,
  )


class Sweep:
  """Our side of the sweep."""

  def __init__(self, data: dict[str, np.ndarray], rows: int, grid: str):
    self._data = data
    self._rows = rows
    mesh = sharding.make_mesh(config.MeshConfig(-1, 1, 1))
    self._gammas = calibrate.parse_grid(grid)
    self._shape = critical.grid_shape(self._gammas[self._gammas > 0])
    groups = np.arange(len(data["items"]), dtype=np.int32)
    self.clock = Clock()
    self._table = self.clock.time(
      "catalogue", lambda: distance.item_table(data["items"], groups, mesh)
    )
    self._members = user_block.members(groups)
    self._popularity = injection.Popularity(data["popularity"], self._table)

  def block(self, part: slice, clock: Clock, limit: int | None) -> None:
    """Ranks one block of users under each injection."""
    data, rows = self._data, self._rows
    padded = jnp.asarray(blocks.pad_rows(data["queries"][part], rows))
    vectors = self._table.items.vectors
    clock.time("product", lambda: _product(padded, vectors))
    block = clock.time(
      "distances",
      lambda: user_block.open_block(
        self._table,
        self._members,
        data["queries"][part],
        data["targets"][part],
        rows,
        0,
        "users",
      ),
    )
    plain = clock.time("ranks", lambda: resolution.plain_ranks(block))
    cf = clock.time(
      "CF scores to device",
      lambda: injection.cf_block(data["cf"][part], 0, "cf", rows, self._table),
    )
    for name, weights in (
      ("popularity", injection.Injection(self._popularity, None)),
      ("cf", injection.Injection(None, cf)),
    ):
      clock.time(
        f"gammas, {name}",
        lambda weights=weights: injected.injected_ranks(
          block,
          weights,
          self._gammas,
          self._shape,
          plain,
          limit,
        ),
      )
    positive = self._gammas[self._gammas > 0]
    clock.time(
      "pairs of gammas",
      lambda: injected.pair_ranks(
        block,
        injection.Injection(self._popularity, cf),
        two_gammas.firsts(self._gammas),
        positive,
        self._shape,
        plain,
        calibrate.SINGLE_CUTOFF,
      ),
    )

  def run(self) -> None:
    """Ranks all users once, after one block that compiles."""
    parts = list(blocks.user_blocks(len(self._data["queries"]), self._rows))
    self.block(parts[0], Clock(), None)  # Raises, and settles, most doubts.
    for part in parts:
      self.block(part, self.clock, _LARGEST_CUTOFF)


def sweep(arguments: argparse.Namespace) -> dict[str, Any]:
  """Returns measurements of the gamma sweep and prints them."""
  data = world(arguments)
  ours = Sweep(data, arguments.batch, arguments.grid)
  ours.run()
  wall, cpu = ours.clock.wall, ours.clock.cpu
  found: dict[str, Any] = {"wall": wall, "cpu": cpu, "total": {}}
  rows = [(name, f"{wall[name]:.2f}", f"{cpu[name]:.2f}", "") for name in wall]
  for name in ("popularity", "cf"):
    names = ["distances", "ranks", f"gammas, {name}"]
    names += ["CF scores to device"] if name == "cf" else []
    total = [sum(clock[n] for n in names) for clock in (wall, cpu)]
    ratio = [total[0] / wall["product"], total[1] / cpu["product"]]
    found["total"][name] = {"seconds": total, "of_product": ratio}
    rows.append(
      (
        f"all of {name}",
        f"{total[0]:.2f}",
        f"{total[1]:.2f}",
        f"{ratio[0]:.2f} x product ({ratio[1]:.2f} by CPU time)",
      )
    )
  if arguments.peer:
    peer = _procedure(data, arguments)
    count = len(calibrate.parse_grid(arguments.grid))
    scale = arguments.users / arguments.peer_users
    seconds = scale * (peer["once"] + count * peer["each_gamma"])
    speed = seconds / found["total"]["cf"]["seconds"][0]
    found["peer"] = peer | {"scaled_seconds": seconds, "ours_faster": speed}
    rows.append(
      ("published, scaled", f"{seconds:.0f}", "", f"ours {speed:.0f} x faster")
    )
  print(table.format_table(("sweep", "wall s", "CPU s", ""), rows))
  return found


def _procedure(
  data: dict[str, np.ndarray], arguments: argparse.Namespace
) -> dict[str, Any]:
  """Times the published procedure on a subset, in a process of its own."""
  with tempfile.TemporaryDirectory() as folder:
    users = arguments.peer_users
    for name in ("queries", "items", "cf", "targets"):
      whole = data[name] if name == "items" else data[name][:users]
      np.save(pathlib.Path(folder) / f"{name}.npy", whole)
    return _peer(
      scratch.interpreter(),
      ["procedure", folder, users, arguments.peer_gammas],
    )


def _peer(python: str, command: list[Any]) -> dict[str, Any]:
  done = children.run(
    [python, _PEER, *map(str, command)],
    check=True,
    capture_output=True,
    text=True,
  )
  return json.loads(done.stdout)


def _faiss_interpreter() -> str:
  """Returns a Python with faiss-cpu, made under .scratch/ where needed."""
  if importlib.util.find_spec("faiss"):
    return sys.executable
  home = _PEER.parents[1] / ".scratch" / "faiss"
  python = home / ("Scripts" if os.name == "nt" else "bin") / "python"
  if not (home / "ready").exists():
    venv.create(home, with_pip=True, clear=True)
    packages = ["faiss-cpu", "numpy"]
    command = [python, "-m", "pip", "install", "--quiet", *packages]
    subprocess.run(command, check=True)
    (home / "ready").touch()
  return str(python)


def _large_catalogue(count: int, width: int) -> np.ndarray:
  """Returns made-up vectors [count, width]; they are in memory once.

  Aligned as XLA wants it, so that a CPU device takes them as they are.
  """
  store = np.empty(count * width + 16, np.float32)
  shift = (-store.ctypes.data % 64) // 4
  vectors = store[shift : shift + count * width].reshape(count, width)
  for part in blocks.user_blocks(count, 65536):
    vectors[part] = peer_ground.rows(part.start, part.stop, width)
  return vectors


# The bare product's fastest form: items x users, of 4,096 to 65,536 items at a
# time in blocks of this many.
_PRODUCT_ITEMS = 8192


@jax.jit
def _bare_product(queries: jax.Array, items: jax.Array) -> jax.Array:
  """Returns each user's greatest product with the items, block by block."""
  size = min(_PRODUCT_ITEMS, len(items))
  numbers = jnp.arange(-(-len(items) // size), dtype=jnp.int32)

  def step(number: jax.Array) -> jax.Array:
    part = streamed.block_of(items, number, size)
    return _product(part, queries).max(axis=0)

  return jax.lax.map(step, numbers).max(axis=0)


def _our_lists(arguments: argparse.Namespace) -> tuple[np.ndarray, Any]:
  """Returns the first lists and [wall, CPU] seconds of each round."""
  count, width = arguments.list_items, arguments.list_width
  vectors = _large_catalogue(count, width)
  queries = peer_ground.queries(arguments.list_users, width)
  section = config.from_config_dict(common.get_config()).ground
  counts = np.random.default_rng(0).zipf(1.5, count).clip(max=5000)

  def grounder(popularity: np.ndarray | None) -> grounder_lib.Grounder:
    return grounder_lib.Grounder(
      vectors,
      np.arange(count, dtype=np.int32),
      popularity,
      0.5,
      section,
      sharding.make_mesh(config.MeshConfig(-1, 1, 1)),
      most_users=arguments.list_users,
    )

  plain, popular = grounder(None), grounder(counts)
  nothing = np.full((arguments.list_users, 0), -1, np.int32)
  asked = queries, nothing, None, arguments.k
  on_device = jax.device_put(vectors)
  ways = {
    "Grounder": lambda: plain(*asked),
    "Grounder, popularity": lambda: popular(*asked),
    "product": lambda: _bare_product(queries, on_device),
  }
  runs: dict[str, list[list[float]]] = {name: [] for name in ways}
  found = {}
  for round_ in range(arguments.rounds + 1):
    clock = Clock()
    for name, way in ways.items():
      found[name] = clock.time(name, way)
      if round_:  # The first compiles.
        runs[name].append([clock.wall[name], clock.cpu[name]])
  return found["Grounder"].items[:8], runs


def lists(arguments: argparse.Namespace) -> dict[str, Any]:
  """Returns measurements of top-k lists and prints them."""
  count, width = arguments.list_items, arguments.list_width
  peer = None
  if arguments.peer:  # First, because JAX keeps its memory to the end.
    sizes = [count, width, arguments.list_users, arguments.k, arguments.rounds]
    peer = _peer(_faiss_interpreter(), ["flat", *sizes])
  first, runs = _our_lists(arguments)
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
  found: dict[str, Any] = {"seconds": runs, "peak_gib": peak}
  if peer is not None:
    found["peer"] = peer
    runs = runs | {"faiss flat": peer["seconds"]}
    agree = np.mean(first == np.array(found["peer"]["first"]))
    found["agreement_with_faiss"] = float(agree)
  medians = {
    name: [statistics.median(run[n] for run in each) for n in (0, 1)]
    for name, each in runs.items()
  }
  print(
    table.format_table(
      ("lists", "wall s", "CPU s", "of the product", "by CPU time"),
      [
        (
          name,
          f"{w:.2f}",
          f"{c:.2f}",
          f"{w / medians['product'][0]:.2f}",
          f"{c / medians['product'][1]:.2f}",
        )
        for name, (w, c) in medians.items()
      ],
    )
  )
  print(f"peak {peak:.1f} GiB; items alone {count * width * 4 / 2**30:.1f} GiB")
  return found | {"medians": medians}


def main() -> None:
  """Measures and prints; writes JSON when asked."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--parts", nargs="+", default=["sweep", "lists"])
  parser.add_argument("--peer", action="store_true")
  parser.add_argument("--json", default="")
  parser.add_argument("--users", type=int, default=5000)
  parser.add_argument("--items", type=int, default=17408)
  parser.add_argument("--width", type=int, default=4096)
  parser.add_argument("--grid", default="movie_ci")
  parser.add_argument("--batch", type=int, default=512)
  parser.add_argument("--peer-users", type=int, default=128)
  parser.add_argument("--peer-gammas", type=int, default=3)
  parser.add_argument("--list-items", type=int, default=10_000_000)
  parser.add_argument("--list-width", type=int, default=256)
  parser.add_argument("--list-users", type=int, default=64)
  parser.add_argument("--k", type=int, default=50)
  parser.add_argument("--rounds", type=int, default=3)
  arguments = parser.parse_args()
  parts = {"sweep": sweep, "lists": lists}
  result = {
    "arguments": vars(arguments),
    "hardware": {
      "devices": [str(device) for device in jax.devices()],
      "processor": platform.processor() or platform.machine(),
      "cores": os.cpu_count(),
      "load_before": os.getloadavg()[0],
    },
    "versions": {"jax": jax.__version__, "python": platform.python_version()},
  }
  result |= {name: parts[name](arguments) for name in arguments.parts}
  if arguments.json:
    scratch.write_json(arguments.json, result)


if __name__ == "__main__":
  main()
