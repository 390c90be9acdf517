"""CPU time of a training step's parts at 135 M parameters, by its layers.

  python -m benchmarks.layers [--json=layers.json] [train's options]

A micro-batch of the first step of benchmarks.train, with the shape of `--size`
(135m unless given), is timed with 2 and with 6 layers: the difference is what
a layer costs, the rest is the head's. Each way is a process of its own, since
malloc's pages are the process's. CPU time is that of all threads.
"""

import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp

from benchmarks import children, scratch, sizes, train
from bigrec_jax.data.text import packing
from bigrec_jax.devices import noise
from bigrec_jax.models import low_rank, stacking
from bigrec_jax.results import table
from bigrec_jax.training import step
from bigrec_jax.workdir import large_pages

_FEW, _MANY = 2, 6  # Layers.
_CALLS = 5
_SMALL_PAGES = "pages of 4 KiB"


def _autodiff(
  x: jax.Array,
  a: jax.Array,
  b: jax.Array,
  scale: float,
  rate: float,
  seed: jax.Array | None,
) -> jax.Array:
  """Does what `low_rank.update` does, without its backward pass."""
  if seed is not None:
    x = jnp.where(noise.keep(seed, x.shape, rate), x / (1.0 - rate), 0)
  return jnp.matmul(jnp.matmul(x, a), b) * jnp.asarray(scale, x.dtype)


def _as_it_is() -> Any:
  return contextlib.nullcontext()


WAYS: dict[str, Callable[[], Any]] = {
  "as it is": _as_it_is,
  "adapters by autodiff": lambda: mock.patch.object(
    low_rank, "update", _autodiff
  ),
  "layers in a scan": lambda: mock.patch.object(
    stacking, "_MOST_UNROLLED_LAYERS", 0
  ),
  _SMALL_PAGES: _as_it_is,
}


def _usage() -> tuple[float, float]:
  """Returns CPU seconds so far, and those of them in the kernel."""
  now = resource.getrusage(resource.RUSAGE_SELF)
  return now.ru_utime + now.ru_stime, now.ru_stime


def _cost(run: Callable[[], Any]) -> dict[str, float]:
  """Returns medians of a call's CPU seconds, `cpu` and of them `kernel`."""
  jax.block_until_ready(run())
  spent = []
  for _ in range(_CALLS):
    before = _usage()
    jax.block_until_ready(run())
    spent.append([b - a for a, b in zip(before, _usage(), strict=True)])
  cpu, kernel = (statistics.median(each) for each in zip(*spent, strict=True))
  return {"cpu": cpu, "kernel": kernel}


@contextlib.contextmanager
def _layers(size: str, count: int) -> Iterator[None]:
  """Gives a size another number of layers."""
  changed = sizes.shape(size) | {"num_hidden_layers": count}
  with mock.patch.object(sizes, "shape", lambda name: changed):
    yield


def _micro_batch(
  arguments: argparse.Namespace, count: int
) -> tuple[dict[str, float], int]:
  """Returns what a micro-batch costs with so many layers, and its tokens."""
  with _layers(arguments.size, count):
    side = train.Ours(arguments)
  batch = next(side.stream())[0]
  state, sums = side.steps.init(side.adapter)
  base = side.steps.prepare(side.base)
  own = {k: v for k, v in batch.items() if k not in packing.ROWLESS}
  rows = step.put_batch(side.mesh, own)
  header = None
  if len(own) < len(batch):
    header = side.steps.open_header(
      state, base, jnp.asarray(batch[packing.ROWLESS[0]])
    )

  start = time.process_time()
  program = side.steps.accumulate.lower(
    sums, state, base, rows, header
  ).compile()
  compiling = time.process_time() - start
  memory = program.memory_analysis().temp_size_in_bytes

  def run() -> Any:
    nonlocal sums, header
    sums, header = program(sums, state, base, rows, header)
    return sums

  found = {"compile": compiling, "memory": float(memory)} | _cost(run)
  return found, batch["tokens"].size


def measure(arguments: argparse.Namespace, way: str) -> dict[str, Any]:
  """Returns what a layer costs in one way, and what is left."""
  with WAYS[way]():
    few, tokens = _micro_batch(arguments, _FEW)
    many, _ = _micro_batch(arguments, _MANY)
  per_layer = {name: (many[name] - few[name]) / (_MANY - _FEW) for name in few}
  rest = {name: few[name] - _FEW * per_layer[name] for name in few}
  return {"tokens": tokens, "layer": per_layer, "rest": rest}


def _apart(way: str) -> dict[str, Any]:
  """Measures a way in a process of its own."""
  command = [sys.executable, "-m", "benchmarks.layers", f"--way={way}"]
  environment = dict(os.environ)
  if way == _SMALL_PAGES:
    environment["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=0"
  done = children.run(
    [*command, *sys.argv[1:]],
    stdout=subprocess.PIPE,
    text=True,
    check=True,
    env=environment,
  )
  return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
  """Measures all ways, prints a table and writes JSON; or measures one."""
  large_pages.ask()
  parser = argparse.ArgumentParser(add_help=False)
  parser.add_argument("--way", choices=WAYS)
  parser.add_argument("--json", default="")
  parser.add_argument("--size", choices=sizes.NAMES, default="135m")
  own, others = parser.parse_known_args()
  given = [f"--size={own.size}", "--examples=32", "--batch=32", *others]
  with mock.patch.object(sys, "argv", ["train", *given]):
    arguments = train._arguments()
  if own.way:
    print(json.dumps(measure(arguments, own.way)))
    return
  found = {way: _apart(way) for way in WAYS}
  rows = [
    [
      way,
      *(f"{1e3 * each['layer'][k]:.0f}" for k in ("cpu", "kernel")),
      *(f"{1e3 * each['rest'][k]:.0f}" for k in ("cpu", "kernel")),
      *(f"{each[of]['memory'] / 2**20:.0f}" for of in ("layer", "rest")),
      f"{each['layer']['compile']:.1f}",
    ]
    for way, each in found.items()
  ]
  headers = ["CPU time of a micro-batch", "a layer, ms", "in the kernel"]
  headers += ["the rest, ms", "in the kernel", "a layer, MiB", "the rest, MiB"]
  headers += ["compiling a layer, s"]
  print(table.format_table(headers, rows))
  if own.json:
    what = {"jax": jax.__version__, "what": sys.argv[1:]}
    scratch.write_json(own.json, what | {"ways": found})


if __name__ == "__main__":
  main()
