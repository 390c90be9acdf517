"""Seconds to add items to a large catalogue, and what requests feel of it.

  python -m benchmarks.hot_growth --workdir=runs/demo --json=x.json

A copy of a finished workdir gets a catalogue of --items made-up items with
random vectors; a server's engine in this process adds --added of them while
four threads ask for lists. Vectors of what is added are random as well, so the
seconds are those of all else: `python -m benchmarks.embed` has the speed of
embedding. Afterwards texts that are titles of new items must get these, first
in the list of all items.
"""

import argparse
import dataclasses
import os
import pathlib
import resource
import shutil
import tempfile
import threading
import time
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from benchmarks import http_client, scratch
from bigrec_jax import config as config_lib
from bigrec_jax.data.prepared import (
  catalogue as catalogue_lib,
  histories as histories_lib,
  new_items,
)
from bigrec_jax.rankers.distance import stored_embeddings
from bigrec_jax.recommend import (
  filters,
  finished,
  loaded as loaded_lib,
  remembered,
)
from bigrec_jax.results import chosen as chosen_lib
from bigrec_jax.serving import engine, keeper, requests, served
from bigrec_jax.workdir import paths as paths_lib, records

_CLIENTS = 4
_CHECKED = 64  # New items that are looked for afterwards.
_WORDS = (
  "red blue iron moon star quest saga racer puzzle city king dawn river stone"
  " glass paper storm ember frost maple silver copper velvet harbour"
).split()


def titles(first: int, count: int) -> list[str]:
  """Returns titles of three words and a number; no two are alike."""
  rng = np.random.default_rng(first)
  words = rng.integers(0, len(_WORDS), (count, 3))
  return [
    f"{' '.join(_WORDS[n] for n in own)} {first + row}"
    for row, own in enumerate(words)
  ]


def enlarge(root: pathlib.Path, items: int) -> config_lib.Config:
  """Gives a finished workdir a catalogue of made-up items; returns its config.

  It is a catalogue to serve from, and none to evaluate on.
  """
  paths = paths_lib.Paths(root)
  config = remembered.config(
    paths, "none", None, config_lib.MeshConfig(-1, 1, 1)
  )
  loaded = loaded_lib.Loaded(config, root)
  own = catalogue_lib.Catalogue(
    tuple(f"i{n}" for n in range(items)),
    tuple(titles(0, items)),
    np.ones(items, np.int64),
  )
  catalogue_lib.save(own, paths)
  rng = np.random.default_rng(0)
  width = loaded.encoder.width
  vectors = rng.normal(size=(items, width)).astype(np.float32)
  stored_embeddings.save(
    paths.embeddings, vectors, own, loaded.encoder_fingerprint
  )
  for name in ("data", "embeddings"):  # They say what the files held.
    records.drop_record(paths.record(name))
  return config


class Clients:
  """Threads that ask for lists, from `with` on until its end.

  Attributes:
    phase: under which name waits are kept from now on.
    waits: seconds of each request that began in a phase.
  """

  def __init__(self, running: engine.Engine, items: int):
    """Starts them; histories have three of so many items."""
    self.phase = "before"
    self.waits: dict[str, list[float]] = {"before": [], "while": []}
    self._running, self._items = running, items
    self._stop = threading.Event()
    self._failures: list[BaseException] = []
    self._threads = [
      threading.Thread(target=self._ask, args=(n,)) for n in range(_CLIENTS)
    ]

  def _ask(self, seed: int) -> None:
    rng = np.random.default_rng(seed)
    try:
      while not self._stop.is_set():
        rows = rng.integers(0, self._items, 3).tolist()
        history: list[str | int] = [f"i{row}" for row in rows]
        begin, phase = time.perf_counter(), self.phase
        ask = requests.Ask([history], 10, True, None, None, 60_000.0, "error")
        self._running.submit(ask).answer.result()
        self.waits[phase].append(time.perf_counter() - begin)
    except BaseException as error:  # Told by whoever measures.
      self._failures.append(error)

  def __enter__(self) -> Self:
    for thread in self._threads:
      thread.start()
    return self

  def __exit__(self, *error: object) -> None:
    self._stop.set()
    for thread in self._threads:
      thread.join()
    if self._failures:
      raise self._failures[0]


def serve(
  arguments: argparse.Namespace, root: pathlib.Path
) -> tuple[engine.Engine, keeper.Keeper]:
  """Returns an engine of the enlarged workdir, ready, and who changes it."""
  config = enlarge(root, arguments.items)
  generate = config.generate
  if arguments.constrained:
    generate = dataclasses.replace(
      generate, constrained=True, max_new_tokens=64
    )
  limits = dataclasses.replace(
    config.serve, max_batch=_CLIENTS, prompt_buckets=(256,), max_k=10
  )
  config = dataclasses.replace(config, generate=generate, serve=limits)
  loaded = loaded_lib.Loaded(config, root)
  own = served.Served(
    loaded,
    finished.find_adapter(loaded),
    finished.load_embeddings(loaded),
    chosen_lib.NOTHING,
    arguments.added + 1024,
  )
  running = engine.Engine(own, limits)
  running.start(lambda: None)
  while not running.ready.wait(1.0):
    if running.failure is not None:
      raise running.failure
  return running, keeper.Keeper(running, loaded.paths)


def unfound(own: served.Served, names: Sequence[str], first: int) -> int:
  """Returns how many new items aren't the first for a text that names them.

  Args:
    own: shows them.
    names: titles of all that was added.
    first: number of the first of them.
  """
  rng = np.random.default_rng(2)
  rows = rng.permutation(len(names))[:_CHECKED].tolist()
  found = own.lists(
    lambda _, catalogue: (
      histories_lib.find(
        histories_lib.from_lists([[]] * len(rows)), catalogue, "error"
      ),
      filters.EVERYTHING,
    ),
    [{"predict": [f'"{names[row]}"'], "scores": [-1.0]} for row in rows],
    1,
    exclude_history=True,
    made=10,
    width=own.history,
  )
  return sum(
    own_list[0].external_id != f"i{first + row}"
    for row, own_list in zip(rows, found, strict=True)
  )


def measure(
  arguments: argparse.Namespace, root: pathlib.Path
) -> dict[str, Any]:
  """Returns seconds of the parts, and waits before and while items come."""
  start = time.perf_counter()
  running, its = serve(arguments, root)
  ready = time.perf_counter() - start
  own, rng, vectors = running.recommender, np.random.default_rng(1), 0.0
  width = own.loaded.encoder.width

  def embed(titles: Sequence[str]) -> np.ndarray:
    nonlocal vectors
    begin = time.perf_counter()
    found = rng.normal(size=(len(titles), width)).astype(np.float32)
    vectors += time.perf_counter() - begin
    return found

  own.embed = embed  # type: ignore[method-assign]
  names = titles(arguments.items, arguments.added)
  given = [
    new_items.NewItem(f"i{arguments.items + n}", title, f"items[{n}]")
    for n, title in enumerate(names)
  ]
  with Clients(running, arguments.items) as clients:
    time.sleep(arguments.seconds)
    clients.phase = "while"
    begin = time.perf_counter()
    state = its.add(given)
    seconds = time.perf_counter() - begin
  compiled = running.compiled_since_ready
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
  missing = unfound(own, names, arguments.items)
  running.stop()
  running.join(30)
  return {
    "items": arguments.items,
    "added": state["new"],
    "unfound": missing,
    "seconds_to_ready": round(ready, 2),
    "seconds": round(seconds, 2),
    "of_that_vectors": round(vectors, 2),
    "waits": {
      phase: http_client.percentiles(waits)
      for phase, waits in clients.waits.items()
      if waits
    },
    "requests": {phase: len(own) for phase, own in clients.waits.items()},
    "compilations_since_ready": compiled,
    "peak_gib": round(peak, 2),
  }


def main() -> None:
  """Measures, prints, writes JSON."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--workdir", required=True, help="finished; it is copied")
  parser.add_argument("--items", type=int, default=1_000_000)
  parser.add_argument("--added", type=int, default=100_000)
  parser.add_argument("--seconds", type=float, default=20.0, help="before")
  parser.add_argument("--constrained", action="store_true")
  parser.add_argument("--json")
  arguments = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder) / "workdir"
    shutil.copytree(arguments.workdir, root, symlinks=True)
    found = measure(arguments, root)
  print(found)
  if arguments.json:
    about = {"arguments": scratch.named(arguments)}
    about["arguments"]["workdir"] = os.path.basename(arguments.workdir)
    cores = os.cpu_count() or 1
    scratch.write_json(
      arguments.json, about | scratch.surroundings(cores) | found
    )
  if found["unfound"] or found["compilations_since_ready"]:
    raise SystemExit(1)


if __name__ == "__main__":
  main()
