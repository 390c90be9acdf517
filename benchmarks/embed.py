"""Titles per second of embedding, ours and Hugging Face's, side by side.

  python -m benchmarks.embed --peer --json=results.json

Both sides get the same random weights, the first titles of the Amazon Toys
catalogue (token ids of the LLaMA-2 tokenizer or, with `--tokenizer`, of a GGUF
file's), the same precision and the same cores, and take turns; medians of the
rounds are compared, and the vectors. Compilation is timed apart. The peer gets
the published notebook's way, batches in file order, and its best: sorted by
length.
"""

import argparse
import gzip
import json
import os
import pathlib
import statistics
import tempfile
import time
from typing import Any

import numpy as np

from benchmarks import other_side, scratch, sizes, toys
from bigrec_jax import config as config_lib, models, progress
from bigrec_jax.devices import sharding
from bigrec_jax.models import hf_export, hf_import, last_state
from bigrec_jax.results import table
from bigrec_jax.workdir import large_pages
from configs import common


class Ours:
  """Our side: weights, and timed runs."""

  def __init__(self, arguments: argparse.Namespace):
    section = config_lib.from_config_dict(common.get_config())
    self.arch = sizes.llama_config(arguments.size)
    self._mesh = sharding.make_mesh(section.mesh)
    self._batch = section.embed.batch_size
    model = models.build(self.arch, section.model, None, self._mesh)
    self.params = hf_import.init_base(self.arch, 0, arguments.dtype, self._mesh)
    self._model, self._prepared = model, model.prepare(self.params)

  def run(self, texts: list[list[int]]) -> tuple[float, np.ndarray]:
    """Returns seconds and the vectors."""
    start = time.perf_counter()
    vectors = last_state.embed_texts(
      self._model,
      self._prepared,
      texts,
      self._batch,
      self._mesh,
      progress.NullProgress(),
    )
    return time.perf_counter() - start, vectors


class Peer(other_side.OtherSide):
  """Hugging Face's last states."""

  def __init__(self, folder: str, arguments: argparse.Namespace, texts: list):
    home = pathlib.Path(folder)
    (home / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    self._vectors = home / "vectors.npy"
    files = home / "model", home / "texts.json", self._vectors
    of_run = arguments.threads, arguments.dtype
    super().__init__("peer_embed.py", *files, *of_run)

  def run(self, **order: Any) -> tuple[float, np.ndarray]:
    """Returns seconds and the vectors."""
    seconds = self.ask(order)["seconds"]
    return seconds, np.load(self._vectors)


def read_titles(arguments: argparse.Namespace) -> list[list[int]]:
  """Returns token ids of the first titles."""
  path = arguments.data / "amazon-toys" / "id2name.json.gz"
  with gzip.open(path, "rt", encoding="utf-8") as file:
    titles = list(json.load(file).values())[: arguments.titles]
  tokenizer = toys.load_tokenizer(arguments.data, arguments.tokenizer)
  return tokenizer.encode_batch(titles)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
  """Runs the rounds, sides interleaved; returns everything measured."""
  texts, ours = read_titles(arguments), Ours(arguments)
  first, _ = ours.run(texts)
  orders = {}
  if arguments.peer:
    for size in arguments.peer_batches:
      orders[f"hf batch {size}"] = {"batch_size": size, "sort": False}
      orders[f"hf batch {size} sorted"] = {"batch_size": size, "sort": True}
  seconds: dict[str, list[float]] = {name: [] for name in ("ours", *orders)}
  differ, versions = {}, {}
  with tempfile.TemporaryDirectory() as folder:
    peer = None
    if orders:
      hf_export.save_base(
        pathlib.Path(folder) / "model", ours.arch, ours.params, None
      )
      peer = Peer(folder, arguments, texts)
      versions = peer.versions
      peer.run(batch_size=arguments.peer_batches[0], sort=True)  # Warms up.
    for _ in range(arguments.rounds):
      spent, vectors = ours.run(texts)
      seconds["ours"].append(spent)
      for name, order in orders.items():
        spent, theirs = peer.run(**order)
        seconds[name].append(spent)
        differ[name] = float(np.abs(vectors - theirs).max())
    if peer:
      peer.close()
  return {
    "seconds": seconds,
    "first_run_seconds": first,
    "titles_per_second": {
      name: len(texts) / statistics.median(spent)
      for name, spent in seconds.items()
    },
    "largest_difference": differ,
    "mean_tokens": statistics.mean(map(len, texts)),
    "peer": versions,
  }


def main() -> None:
  """Parses arguments, measures, prints a table and writes JSON."""
  large_pages.ask()
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--peer", action="store_true")
  parser.add_argument("--json", default="")
  parser.add_argument("--data", type=pathlib.Path, default=toys.SHARED)
  parser.add_argument("--size", choices=sizes.NAMES, default="135m")
  parser.add_argument("--dtype", default="float32")
  parser.add_argument("--tokenizer", default="", help=toys.TOKENIZER_HELP)
  parser.add_argument("--titles", type=int, default=1024)
  parser.add_argument("--peer-batches", type=int, nargs="*", default=[16, 64])
  parser.add_argument("--rounds", type=int, default=3)
  arguments = parser.parse_args()
  arguments.threads = len(os.sched_getaffinity(0))
  measured = measure(arguments)
  rates = measured["titles_per_second"]
  rows = [
    [
      name,
      f"{rate:,.0f}",
      f"{rates['ours'] / rate:.2f}x",
      f"{measured['largest_difference'].get(name, 0):.1e}",
    ]
    for name, rate in rates.items()
  ]
  headers = ["system", "titles/s", "ours is", "largest difference"]
  print(table.format_table(headers, rows))
  result = {
    "what": scratch.named(arguments),
    **scratch.surroundings(arguments.threads),
    **measured,
  }
  if arguments.json:
    scratch.write_json(arguments.json, result)


if __name__ == "__main__":
  main()
