"""Seconds to add items to a large catalogue, and what requests feel of it.

  python -m benchmarks.hot_growth --items=1000000 --added=100000 --json=x.json

A finished workdir (--workdir, by default the tiny demo, made here) gets a
catalogue of so many made-up items with random vectors; a server in this
process adds as many again while four clients ask for lists. Embedding is timed
apart: its vectors are random here, too, as `python -m benchmarks.embed` has its
speed. Every new item must be listed afterwards for a text that is its title.
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
from typing import Any

import numpy as np

from benchmarks import http_client, scratch
from bigrec_jax import config as config_lib
from bigrec_jax.data.prepared import catalogue as catalogue_lib, new_items
from bigrec_jax.rankers.distance import stored_embeddings
from bigrec_jax.recommend import finished, loaded as loaded_lib, remembered
from bigrec_jax.results import chosen as chosen_lib
from bigrec_jax.serving import engine, keeper, requests, served
from bigrec_jax.workdir import paths as paths_lib, records

_CLIENTS = 4
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


def measure(
  arguments: argparse.Namespace, root: pathlib.Path
) -> dict[str, Any]:
  """Returns seconds of the parts, and waits before and while items come."""
  config = enlarge(root, arguments.items)
  if arguments.constrained:
    config = dataclasses.replace(
      config,
      generate=dataclasses.replace(
        config.generate, constrained=True, max_new_tokens=64
      ),
    )
  limits = dataclasses.replace(
    config.serve, max_batch=_CLIENTS, prompt_buckets=(256,), max_k=10
  )
  loaded = loaded_lib.Loaded(dataclasses.replace(config, serve=limits), root)
  start = time.perf_counter()
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
  ready = time.perf_counter() - start
  its = keeper.Keeper(running, loaded.paths)
  rng = np.random.default_rng(1)
  parts = {"embedding": 0.0}

  def embed(names: list[str]) -> np.ndarray:
    begin = time.perf_counter()
    found = rng.normal(size=(len(names), loaded.encoder.width))
    parts["embedding"] += time.perf_counter() - begin
    return found.astype(np.float32)

  own.embed = embed  # type: ignore[method-assign]
  waits: dict[str, list[float]] = {"before": [], "while": []}
  phase, stop = ["before"], threading.Event()

  def ask() -> None:
    rows = np.random.default_rng(threading.get_ident() % 2**32)
    while not stop.is_set():
      history = [f"i{n}" for n in rows.integers(0, arguments.items, 3)]
      begin, when = time.perf_counter(), phase[0]
      running.submit(
        requests.Ask([history], 10, True, None, None, 30000.0, "error")
      ).answer.result()
      waits[when].append(time.perf_counter() - begin)

  threads = [threading.Thread(target=ask) for _ in range(_CLIENTS)]
  for thread in threads:
    thread.start()
  time.sleep(arguments.seconds)
  names = titles(arguments.items, arguments.added)
  given = [
    new_items.NewItem(f"n{n}", title, f"items[{n}]")
    for n, title in enumerate(names)
  ]
  phase[0] = "while"
  begin = time.perf_counter()
  state = its.add(given)
  seconds = time.perf_counter() - begin
  stop.set()
  for thread in threads:
    thread.join()
  only = requests.Ask([[]], 1, True, ["n7"], None, 30000.0, "error")
  (found,) = running.submit(only).answer.result()
  assert found[0].external_id == "n7", found
  compiled = running.compiled_since_ready
  running.stop()
  running.join(30)
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
  return {
    "items": arguments.items,
    "added": state["new"],
    "seconds_to_ready": round(ready, 2),
    "seconds": round(seconds, 2),
    "of_that_vectors": round(parts["embedding"], 2),
    "waits": {k: http_client.percentiles(v) for k, v in waits.items() if v},
    "requests": {k: len(v) for k, v in waits.items()},
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
    shutil.copytree(arguments.workdir, root)
    found = measure(arguments, root)
  print(found)
  if arguments.json:
    about = {"arguments": scratch.named(arguments)}
    about["arguments"]["workdir"] = os.path.basename(arguments.workdir)
    cores = os.cpu_count() or 1
    scratch.write_json(
      arguments.json, about | scratch.surroundings(cores) | found
    )


if __name__ == "__main__":
  main()
