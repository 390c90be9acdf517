"""Seconds that a user waits for a list, and where they go.

  python -m benchmarks.recommend --workdir=runs/demo --json=results.json

One recommender answers one history after the other, as behind a server; of
each part the median of all calls after the first. `--users` histories are of
the test split; `first` compiles.
"""

import argparse
import functools
import platform
import statistics
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

import jax

import bigrec_jax
from bigrec_jax.rankers import grounder
from bigrec_jax.recommend import cf_scorer, decoder, queries
from bigrec_jax.results import table
from bigrec_jax.workdir import storage

_PACKAGES = ("jax", "jaxlib", "flax", "numpy")


class _Clock:
  """Adds up the seconds of named functions, call by call."""

  def __init__(self):
    self.parts: dict[str, float] = {}

  def watch(self, owner: Any, name: str, part: str) -> None:
    """Counts the seconds of a function of a module or class."""
    function = getattr(owner, name)
    setattr(owner, name, self.timed(function, part))

  def timed(self, function: Callable, part: str) -> Callable:
    """Returns the function, counted."""

    @functools.wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
      start = time.perf_counter()
      try:
        return function(*args, **kwargs)
      finally:
        seconds = time.perf_counter() - start
        self.parts[part] = self.parts.get(part, 0.0) + seconds

    return counted


def measure(workdir: str, users: int, **injected: Any) -> dict[str, Any]:
  """Returns milliseconds of the parts of a call, and of the first of all."""
  clock = _Clock()
  clock.watch(decoder.Decoder, "continue_histories", "decode")
  clock.watch(queries, "embed_queries", "embed what was written")
  clock.watch(grounder.Grounder, "__call__", "rank the catalogue")
  load = cf_scorer.load

  def timed_scorer(*args: Any) -> cf_scorer.Scorer:
    return clock.timed(load(*args), "of that, CF scores")

  cf_scorer.load = timed_scorer
  start = time.perf_counter()
  recommender = bigrec_jax.Recommender.load(workdir, **injected)
  loading = time.perf_counter() - start
  calls = []
  for history in _histories(recommender, users):
    clock.parts = {}
    start = time.perf_counter()
    found = recommender([history])
    calls.append({"call": time.perf_counter() - start} | clock.parts)
  later = calls[1:]
  return {
    "load": round(loading, 3),
    "first": round(calls[0]["call"], 3),
    "milliseconds": {
      name: round(1e3 * statistics.median(c.get(name, 0.0) for c in later), 2)
      for name in calls[0]
    },
    "users": len(later),
    "items": len(recommender._shelf),
    "injection": found[0].provenance.injection,
  }


def _histories(
  recommender: bigrec_jax.Recommender, users: int
) -> list[list[str]]:
  loaded = recommender._loaded
  rows = loaded.examples("test").history[: users + 1]
  ids = loaded.catalogue.external_ids
  return [[ids[item] for item in row if item >= 0] for row in rows]


def main() -> None:
  """Measures, prints a table, writes JSON."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--workdir", required=True)
  parser.add_argument("--users", type=int, default=50)
  parser.add_argument("--injection")
  parser.add_argument("--gamma", type=float)
  parser.add_argument("--json")
  options = parser.parse_args()
  found = measure(
    options.workdir,
    options.users,
    injection=options.injection,
    gamma=options.gamma,
  )
  print(f"load {found['load']:.2f} s, first call {found['first']:.2f} s")
  rows = [[part, f"{ms:.2f}"] for part, ms in found["milliseconds"].items()]
  print(table.format_table(["one user, median", "ms"], rows))
  if options.json:
    versions = {name: metadata.version(name) for name in _PACKAGES}
    machine = {"platform": platform.platform(), "device": str(jax.devices()[0])}
    storage.write_json(
      options.json, found | {"versions": versions, "machine": machine}
    )


if __name__ == "__main__":
  main()
