"""Users per second whose 100 candidate titles a model scores, and a peer's.

  python -m benchmarks.likelihood --size=135m --json=results.json

Both sides get the same random weights, the same Amazon Toys prompts and titles
(token ids of the LLaMA-2 tokenizer or, with `--tokenizer`, of a GGUF file's),
the same precision and the same cores, and take turns. The peer is a loop over
batches of prompt and title together; "prompt cached" is a better one, which
reads the prompt once a user and repeats its keys. Compilation is timed apart.

The loop is the same work for every batch, so it may be timed on fewer
candidates (`--whole-candidates`) and scaled. Seconds of CPUs are those of all
threads, where the machine does other things as well.

The floor is what a core at its measured GEMM peak needs for the products that
no order of work avoids: every token of prompt and titles once through the
layers, and the head once for every token of a title.
"""

import argparse
import dataclasses
import gzip
import json
import os
import pathlib
import statistics
import tempfile
import time
from typing import Any

import numpy as np

from benchmarks import other_side, scratch, sizes, toys, train
from bigrec_jax import config, models, progress
from bigrec_jax.data.text import prompts as prompts_lib
from bigrec_jax.decoding import constraints, likelihood
from bigrec_jax.devices import sharding
from bigrec_jax.models import Architecture, hf_export, hf_import
from bigrec_jax.results import table
from configs import common

_EOS = 2


class Ours:
  """Our side: weights, and timed runs."""

  def __init__(self, size: str, dtype: str):
    section = config.from_config_dict(common.get_config())
    self.arch = sizes.llama_config(size)
    self.mesh = sharding.make_mesh(section.mesh)
    model = dataclasses.replace(section.model, dtype=dtype)
    self.model = models.build(self.arch, model, None, self.mesh)
    self.params = hf_import.init_base(self.arch, 0, dtype, self.mesh)
    self.buckets = section.generate.prompt_buckets

  def run(
    self, prompts: list, answers: list, candidates: np.ndarray, batch: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns seconds, of the clock and of CPUs, and logs [N, M]."""
    start = np.array([time.perf_counter(), time.process_time()])
    found = likelihood.score(
      self.model,
      self.params,
      None,
      prompts,
      answers,
      candidates,
      self.mesh,
      batch_size=batch,
      buckets=self.buckets,
      progress=progress.NullProgress(),
    )
    end = np.array([time.perf_counter(), time.process_time()])
    return end - start, found


class Peer(other_side.OtherSide):
  """A batched loop of Hugging Face."""

  def __init__(self, folder: str, users: list, threads: int, dtype: str):
    path = pathlib.Path(folder) / "users.json"
    path.write_text(json.dumps(users), encoding="utf-8")
    model = pathlib.Path(folder) / "model"
    super().__init__("peer_likelihood.py", model, path, threads, dtype)

  def run(self, **order: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns seconds, of the clock and of CPUs, and logs [users, M]."""
    answer = self.ask(order)
    seconds = np.array([answer["seconds"], answer["cpu_seconds"]])
    return seconds, np.array(answer["logs"])


def read(arguments: argparse.Namespace) -> tuple[list, list, np.ndarray]:
  """Returns prompts, all titles' tokens, and each user's candidates."""
  tokenizer = toys.load_tokenizer(arguments.data, arguments.tokenizer)
  prompts = toys.read_prompts(
    arguments.data, tokenizer, arguments.users, arguments.seed
  )
  path = arguments.data / "amazon-toys" / "id2name.json.gz"
  with gzip.open(path, "rt", encoding="utf-8") as file:
    titles = list(dict.fromkeys(json.load(file).values()))
  answers = constraints.continuations(
    [f'"{title}"' for title in titles],
    prompts_lib.RESPONSE_MARKER,
    tokenizer.encode_data,
    _EOS,
  )
  draw = np.random.default_rng(arguments.seed)
  candidates = [
    draw.permutation(len(titles))[: arguments.candidates] for _ in prompts
  ]
  return prompts, answers, np.array(candidates, np.int32)


def floor_flops(
  arch: Architecture, prompts: list, answers: list, candidates: np.ndarray
) -> float:
  """Returns the products' FLOPs of all users; see the module."""
  heads, keys = arch.num_attention_heads, arch.num_key_value_heads
  width, inner = arch.hidden_size, arch.intermediate_size
  size = arch.head_dim
  layer = 2 * width * heads * size + 2 * width * keys * size
  layer += 3 * width * inner
  head = width * arch.vocab_size
  shared = len(os.path.commonprefix(prompts))
  total = 0.0
  for prompt, own in zip(prompts, candidates, strict=True):
    lengths = [len(answers[n]) for n in own]
    read = len(prompt) - shared + sum(lengths) - len(lengths)
    seen = (len(prompt) ** 2 - shared**2) / 2
    seen += sum((n - 1) * (len(prompt) + n / 2) for n in lengths)
    attention = 2 * heads * size * seen
    total += 2 * arch.num_hidden_layers * (read * layer + attention)
    total += 2 * head * (sum(lengths) - len(lengths) + 1)
  return total


def common_share(answers: list, candidates: np.ndarray) -> float:
  """Returns the share of tokens to read that another title begins with, too."""
  read = distinct = 0
  for own in candidates:
    texts = [tuple(answers[n][:-1]) for n in own]
    read += sum(map(len, texts))
    distinct += len({t[:k] for t in texts for k in range(1, len(t) + 1)})
  return 1 - distinct / read


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
  """Runs the rounds, sides interleaved; returns everything measured."""
  prompts, answers, candidates = read(arguments)
  ours = Ours(arguments.size, arguments.dtype)
  work = prompts, answers, candidates, arguments.batch
  first, _ = ours.run(*work)
  orders: dict[str, dict] = {}
  for size in arguments.peer_batches:
    orders[f"hf batch {size}"] = {"batch_size": size, "cached": False}
  for size in arguments.cached_batches:
    orders[f"hf batch {size}, prompt cached"] = {
      "batch_size": size,
      "cached": True,
    }
  seconds: dict[str, list[np.ndarray]] = {"ours": []}
  seconds |= {name: [] for name in orders}
  differences: dict[str, float] = {}
  versions: dict[str, Any] = {}
  with tempfile.TemporaryDirectory() as folder:
    hf_export.save_base(
      pathlib.Path(folder) / "model", ours.arch, ours.params, None
    )
    users = [
      {"prompt": list(prompt), "answers": [list(answers[n]) for n in own]}
      for prompt, own in zip(prompts, candidates, strict=True)
    ]
    peer = Peer(folder, users, arguments.threads, arguments.dtype)
    versions = peer.versions
    for _ in range(arguments.rounds):
      spent, found = ours.run(*work)
      seconds["ours"].append(spent / len(prompts))
      for name, order in orders.items():
        count, most = arguments.peer_users, arguments.candidates
        if not order["cached"]:
          # A loop over batches: a part of its users and batches is as good.
          count, most = 1, min(most, arguments.whole_candidates)
        spent, theirs = peer.run(**order, users=count, most=most)
        seconds[name].append(spent / count * arguments.candidates / most)
        worst = np.abs(theirs - found[:count, :most]).max()
        differences[name] = max(differences.get(name, 0.0), float(worst))
    peer.close()
  peak = train.matmul_peak(arguments.dtype)
  flops = floor_flops(ours.arch, prompts, answers, candidates) / len(prompts)
  medians = {name: np.median(own, axis=0) for name, own in seconds.items()}
  return {
    "seconds_per_user": {n: own[0] for n, own in medians.items()},
    "cpu_seconds_per_user": {n: own[1] for n, own in medians.items()},
    "runs": {n: np.array(own).tolist() for n, own in seconds.items()},
    "largest_difference": differences,
    "first_run_seconds": float(first[0]),
    "flops_per_user": flops,
    "matmul_peak_flops_per_second": peak,
    "floor_seconds_per_user": flops / peak,
    "prompt_tokens_mean": statistics.mean(map(len, prompts)),
    "title_tokens_mean": float(
      np.mean([len(answers[n]) for n in candidates.flat])
    ),
    "share_of_common_beginnings": common_share(answers, candidates),
    "peer": versions,
  }


def main() -> None:
  """Parses arguments, measures, prints a table and writes JSON."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--json", default="")
  parser.add_argument("--data", type=pathlib.Path, default=toys.SHARED)
  parser.add_argument("--size", choices=sizes.NAMES, default="135m")
  parser.add_argument("--dtype", default="float32")
  parser.add_argument("--tokenizer", default="", help=toys.TOKENIZER_HELP)
  parser.add_argument("--users", type=int, default=8)
  parser.add_argument("--candidates", type=int, default=100)
  parser.add_argument("--batch", type=int, default=8)
  parser.add_argument("--peer-users", type=int, default=2)
  parser.add_argument(
    "--whole-candidates",
    type=int,
    default=100,
    help="that the loop without a cache is timed on, for one user",
  )
  parser.add_argument("--peer-batches", type=int, nargs="*", default=[20])
  parser.add_argument("--cached-batches", type=int, nargs="*", default=[50])
  parser.add_argument("--rounds", type=int, default=1)
  parser.add_argument("--seed", type=int, default=0)
  arguments = parser.parse_args()
  arguments.threads = len(os.sched_getaffinity(0))
  measured = measure(arguments)
  clock, cpu = measured["seconds_per_user"], measured["cpu_seconds_per_user"]
  rows = [
    [
      name,
      f"{spent:.2f}",
      f"{spent / clock['ours']:.2f}x",
      f"{cpu[name]:.2f}",
      f"{cpu[name] / cpu['ours']:.2f}x",
      f"{measured['largest_difference'].get(name, 0.0):.1e}",
    ]
    for name, spent in clock.items()
  ]
  floor = measured["floor_seconds_per_user"]
  share = f"{floor / clock['ours']:.2f}x"
  rows.append(["floor at GEMM peak", f"{floor:.2f}", share, "", "", ""])
  headers = ["system", "s a user", "ours is", "CPU s", "ours is"]
  print(table.format_table([*headers, "largest difference"], rows))
  share = measured["share_of_common_beginnings"]
  print(f"a trie of a user's titles would spare {share:.1%} of their tokens")
  result = {
    "what": scratch.named(arguments),
    **scratch.surroundings(arguments.threads),
    **measured,
  }
  if arguments.json:
    scratch.write_json(arguments.json, result)


if __name__ == "__main__":
  main()
