"""Users per second of beam search, ours and Hugging Face's, side by side.

  python -m benchmarks.generate --peer --json=results.json

Both sides get the same random weights, the same Amazon Toys prompts (token
ids of the LLaMA-2 tokenizer or, with `--tokenizer`, of a GGUF file's, in both
of which EOS is 2), the same precision and the same cores, and take turns;
medians of the rounds are compared. Compilation is timed apart. The published
setting is batches of 8 in file order (docs/protocol.md); for the peer's best,
its prompts are sorted by length and its batch size is searched.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import statistics
import tempfile
import time
from unittest import mock

from benchmarks import other_side, scratch, sizes, toys
from bigrec_jax import config, models, progress
from bigrec_jax.decoding import generate, lanes
from bigrec_jax.devices import sharding
from bigrec_jax.models import hf_export, hf_import
from bigrec_jax.results import table
from bigrec_jax.workdir import large_pages
from configs import common

_EOS = 2
_WHOLE = "ours, whole batches"


class Ours:
  """Our side: weights, and timed runs."""

  def __init__(
    self,
    size: str,
    dtype: str,
    settings: config.GenerateConfig,
    eos_scale: float,
  ):
    section = config.from_config_dict(common.get_config())
    # Logits as spread as a trained model's: with the usual 0.02 all tokens
    # are nearly equal and the two sides would keep different beams.
    self.llama_config = dataclasses.replace(
      sizes.llama_config(size),
      initializer_range=0.08 if size == "15m" else 0.02,
    )
    self.mesh = sharding.make_mesh(section.mesh)
    model_config = dataclasses.replace(section.model, dtype=dtype)
    self.model = models.build(self.llama_config, model_config, None, self.mesh)
    self.params = hf_import.init_base(self.llama_config, 0, dtype, self.mesh)
    self.settings = settings
    if eos_scale != 1:
      # Now and then the likeliest token, so that hypotheses end.
      table = self.params["embed_tokens"]
      table["embedding"] = table["embedding"].at[_EOS].multiply(eos_scale)
    self._prepared = self.model.prepare(self.params)

  def run(self, prompts: list[list[int]]) -> tuple[float, list]:
    """Returns seconds and the hypotheses' tokens."""
    start = time.perf_counter()
    found = generate.generate(
      self.model,
      self._prepared,
      None,
      prompts,
      self.settings,
      (_EOS,),
      self.mesh,
      seed=0,
      norm_lengths=None,
      trie=None,
      progress=progress.NullProgress(),
    )
    return time.perf_counter() - start, found.tokens


class Peer(other_side.OtherSide):
  """Hugging Face `generate`."""

  def __init__(self, folder: str, prompts: list, threads: int, dtype: str):
    path = pathlib.Path(folder) / "prompts.json"
    path.write_text(json.dumps(prompts), encoding="utf-8")
    model = pathlib.Path(folder) / "model"
    super().__init__("peer_generate.py", model, path, threads, dtype)

  def run(self, **order: int) -> tuple[float, list]:
    """Returns seconds and the hypotheses' tokens."""
    answer = self.ask(order)
    return answer["seconds"], answer["tokens"]


def _ended(tokens: list[int]) -> list[int]:
  """Cuts a padded hypothesis after its EOS."""
  return tokens[: tokens.index(_EOS) + 1] if _EOS in tokens else tokens


def _agreement(ours: list, theirs: list) -> float:
  """Returns the share of users whose best hypothesis is the same."""
  same = [a[0] == _ended(b[0]) for a, b in zip(ours, theirs, strict=True)]
  return statistics.mean(same)


def _measure(arguments: argparse.Namespace, ours: Ours, prompts: list) -> dict:
  """Runs the rounds, sides interleaved, and returns seconds by name."""
  start = time.perf_counter()
  ours.run(prompts)
  first = time.perf_counter() - start
  if arguments.whole_batches:
    with mock.patch.object(lanes, "_GROUPS", 1):
      ours.run(prompts)  # Compiles.
  orders = {}
  if arguments.peer:
    common_order = dict(
      num_beams=arguments.beams, max_new_tokens=arguments.max_new_tokens
    )
    orders["hf batch 8"] = dict(batch_size=8, sort=False, **common_order)
    for size in arguments.peer_batches:
      name = f"hf batch {size} sorted"
      orders[name] = dict(batch_size=size, sort=True, **common_order)
  seconds: dict[str, list[float]] = {"ours": []}
  seconds |= {name: [] for name in orders}
  agreement = {}
  with tempfile.TemporaryDirectory() as folder:
    peer = None
    if orders:
      hf_export.save_base(
        pathlib.Path(folder) / "model", ours.llama_config, ours.params, None
      )
      threads = arguments.threads
      peer = Peer(folder, prompts, threads, arguments.dtype)
    for _ in range(arguments.rounds):
      spent, tokens = ours.run(prompts)
      seconds["ours"].append(spent)
      if arguments.whole_batches:
        with mock.patch.object(lanes, "_GROUPS", 1):
          seconds.setdefault(_WHOLE, []).append(ours.run(prompts)[0])
      for name, order in orders.items():
        spent, theirs = peer.run(**order)
        seconds[name].append(spent)
        agreement[name] = _agreement(tokens, theirs)
    versions = peer.versions if peer else {}
    if peer:
      peer.close()
  lengths = [len(beam) for row in tokens for beam in row]
  longest = [max(map(len, row)) for row in tokens]
  return {
    "seconds": seconds,
    "first_run_seconds": first,
    "same_best_hypothesis": agreement,
    "mean_new_tokens": statistics.mean(lengths),
    "longest_new_tokens_deciles": statistics.quantiles(longest, n=10),
    "peer": versions,
  }


def _summary(measured: dict, users: int) -> tuple[list[list[str]], dict]:
  """Returns table rows, and users per second by name."""
  rates = {
    name: users / statistics.median(spent)
    for name, spent in measured["seconds"].items()
  }
  rows = [
    [
      name,
      f"{rate:.2f}",
      f"{rates['ours'] / rate:.2f}x",
      f"{measured['same_best_hypothesis'].get(name, 1.0):.0%}",
    ]
    for name, rate in rates.items()
  ]
  return rows, rates


def main() -> None:
  """Parses arguments, measures, prints a table and writes JSON."""
  large_pages.ask()
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--peer", action="store_true")
  parser.add_argument("--json", default="")
  parser.add_argument("--data", type=pathlib.Path, default=toys.SHARED)
  parser.add_argument("--size", choices=sizes.NAMES, default="15m")
  parser.add_argument("--dtype", default="float32")
  parser.add_argument("--tokenizer", default="", help=toys.TOKENIZER_HELP)
  parser.add_argument("--users", type=int, default=64)
  parser.add_argument("--beams", type=int, default=4)
  parser.add_argument("--max-new-tokens", type=int, default=128)
  parser.add_argument(
    "--eos-scale",
    type=float,
    default=1.0,
    help="times EOS's embedding: 1 = hypotheses never end, 2.5 = like titles",
  )
  parser.add_argument(
    "--whole-batches",
    action="store_true",
    help="also run with slots that are refilled only when all are free",
  )
  parser.add_argument("--batch", type=int, default=16)
  parser.add_argument("--peer-batches", type=int, nargs="*", default=[16, 32])
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--seed", type=int, default=0)
  arguments = parser.parse_args()
  arguments.threads = len(os.sched_getaffinity(0))
  settings = dataclasses.replace(
    config.from_config_dict(common.get_config()).generate,
    num_beams=arguments.beams,
    max_new_tokens=arguments.max_new_tokens,
    batch_size=arguments.batch,
  )
  tokenizer = toys.load_tokenizer(arguments.data, arguments.tokenizer)
  prompts = toys.read_prompts(
    arguments.data, tokenizer, arguments.users, arguments.seed
  )
  ours = Ours(arguments.size, arguments.dtype, settings, arguments.eos_scale)
  measured = _measure(arguments, ours, prompts)
  rows, rates = _summary(measured, len(prompts))
  print(table.format_table(["system", "users/s", "ours is", "same best"], rows))
  result = {
    "what": scratch.named(arguments),
    "users_per_second": rates,
    "prompt_tokens_mean": statistics.mean(map(len, prompts)),
    **scratch.surroundings(arguments.threads),
    **measured,
  }
  if arguments.json:
    scratch.write_json(arguments.json, result)


if __name__ == "__main__":
  main()
