"""main.py with a clock in it; run by benchmarks/startup.py.

  python -m benchmarks.startup_probe OUT.json --config=... --mode=...

Writes the seconds that went into imports, into getting programs (tracing,
lowering, compiling, or reading the compilation cache) and into loading the
base; how many programs came from the cache and how many did not; and which
heavy packages were imported. JAX tells of each part of a program when it
ends, and parts nest: the union of the intervals counts. Time of two kinds
counts for the first one named here.
"""

import builtins
import functools
import importlib
import json
import sys
import time
from collections.abc import Callable
from typing import Any

_START = time.perf_counter()

_KINDS = ("import", "programs", "base")
_PROGRAM_EVENTS = ("/jax/core/compile/", "/jax/compilation_cache/cache_retr")
_COUNTS = {
  "/jax/compilation_cache/compile_requests_use_cache": "programs",
  "/jax/compilation_cache/cache_hits": "programs_from_cache",
}
_HEAVY = ("jax", "flax", "optax", "orbax", "grain", "tensorstore", "numpy")
_HEAVY += ("pandas", "scipy", "matplotlib", "tensorboardX", "sentencepiece")
_HEAVY += ("tokenizers", "tensorflow", "torch", "transformers")


class Clock:
  """Intervals by kind, on the main thread's time line."""

  def __init__(self):
    self.intervals = {kind: [] for kind in _KINDS}
    self.counts = dict.fromkeys(_COUNTS.values(), 0)
    self.inside: set[str] = set()

  def wrap(self, kind: str, function: Callable[..., Any]):
    """Returns the function, its outermost calls timed."""

    @functools.wraps(function)
    def timed(*args, **kwargs):
      if kind in self.inside:
        return function(*args, **kwargs)
      self.inside.add(kind)
      start = time.perf_counter()
      try:
        return function(*args, **kwargs)
      finally:
        self.inside.discard(kind)
        self.intervals[kind].append((start, time.perf_counter()))

    return timed

  def seconds(self) -> dict[str, float]:
    """Returns the seconds of each kind that no earlier kind has."""
    known, result = [], {}
    for kind in _KINDS:
      before = _length(known)
      known += self.intervals[kind]
      result[kind] = _length(known) - before
    return result


def _length(intervals: list[tuple[float, float]]) -> float:
  """Returns the length of the union."""
  total, reached = 0.0, float("-inf")
  for start, end in sorted(intervals):
    total += max(0.0, end - max(start, reached))
    reached = max(reached, end)
  return total


def _listen(clock: Clock) -> None:
  """Asks JAX to tell of programs."""
  from jax import monitoring

  def ended(event, seconds, **_):
    if event.startswith(_PROGRAM_EVENTS):
      now = time.perf_counter()
      clock.intervals["programs"].append((now - seconds, now))

  def counted(event, **_):
    if event in _COUNTS:
      clock.counts[_COUNTS[event]] += 1

  monitoring.register_event_duration_secs_listener(ended)
  monitoring.register_event_listener(counted)


def _watch_imports(clock: Clock) -> None:
  """Times imports; listens to JAX once it is there."""
  plain = clock.wrap("import", builtins.__import__)
  listening = False

  def watched(*args, **kwargs):
    nonlocal listening
    module = plain(*args, **kwargs)
    # A package that is half imported has nothing to call yet.
    whole = "import" not in clock.inside
    if whole and not listening and "jax.monitoring" in sys.modules:
      listening = True
      _listen(clock)
    return module

  builtins.__import__ = watched
  importlib.import_module = clock.wrap("import", importlib.import_module)


def main() -> int:
  """Runs main.py's main; returns its status."""
  clock = Clock()
  _watch_imports(clock)
  # Only now, so that what they import is timed.
  import main as program
  from bigrec_jax.stages import session

  base = session.Session.base
  base.func = clock.wrap("base", base.func)
  status = program.main(["main.py", *sys.argv[2:]])
  total = time.perf_counter() - _START
  seconds = clock.seconds()
  seconds["work"] = total - sum(seconds.values())
  heavy = [name for name in _HEAVY if name in sys.modules]
  found = {"seconds": seconds, **clock.counts, "imported": heavy}
  with open(sys.argv[1], "w", encoding="utf-8") as file:
    json.dump(found, file)
  return status


if __name__ == "__main__":
  sys.exit(main())
