"""Real tokens per second of LoRA training, ours and Trainer + PEFT's.

  python -m benchmarks.train --peer --json=results.json

Both sides get the same random weights, the same Amazon Toys examples (token
ids of the LLaMA-2 tokenizer or, with `--tokenizer`, of a GGUF file's, cut at
512), the same adapter (`--lora-rank`, `--lora-targets`) with dropout 0.05,
optimizer steps of `--batch` examples, the same precision and the same cores.
They take turns; medians of the rounds are compared. Only real tokens count,
padding does not. Compilation is timed apart. The peer groups its examples by
length, as the published train.py does, and gets the micro-batch it is fastest
with.

Model FLOPs, for MFU: per real token and frozen weight 2 forward and 2
backward (no gradient of the weight itself), the head's among them; per real
token and LoRA weight 2 and 4; for an example of n tokens and each layer
attention's 2 D n^2 forward (causal: half the square) and 4 D n^2 backward.
We compute the header that all examples share once per optimizer step: its
tokens are real in every example, as they are for the peer, but its FLOPs count
only as often as they are done. `--whole-examples` repeats it, as the peer does.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import statistics
import tempfile
import time
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp

from benchmarks import other_side, scratch, sizes, toys
from bigrec_jax import config as config_lib, models
from bigrec_jax.config import LoraConfig
from bigrec_jax.data.text import pipeline, prompts
from bigrec_jax.devices import executor, sharding
from bigrec_jax.models import hf_export, hf_import, lora as lora_lib
from bigrec_jax.results import table
from bigrec_jax.tasks import next_title
from bigrec_jax.training import loop, optimizer, run_files, step, trainer
from bigrec_jax.workdir import large_pages, paths as paths_lib
from configs import common

_ALONE = "ours, one thread"


class Ours:
  """Our side: the real training loop, checkpoint included, eval left out."""

  def __init__(self, arguments: argparse.Namespace):
    defaults = config_lib.from_config_dict(common.get_config())
    self.config = dataclasses.replace(
      defaults.train,
      batch_size=arguments.batch,
      micro_batch_size=arguments.rows,
      num_epochs=1,
      packing=not arguments.buckets,
      length_buckets=tuple(arguments.buckets),
      max_length=arguments.max_length,
      loss_chunk=arguments.loss_chunk or defaults.train.loss_chunk,
      share_header=not arguments.whole_examples,
    )
    self.arch = sizes.llama_config(arguments.size)
    self.mesh = sharding.make_mesh(defaults.mesh)
    model_config = dataclasses.replace(
      defaults.model,
      dtype=arguments.dtype,
      scan_layers=not arguments.unroll,
      remat=arguments.remat,
    )
    self.lora = dataclasses.replace(
      defaults.lora,
      rank=arguments.lora_rank,
      target_modules=tuple(arguments.lora_targets),
    )
    self.model = models.build(self.arch, model_config, self.lora, self.mesh)
    scan = model_config.scan_layers
    self.base = hf_import.init_base(
      self.arch, 0, arguments.dtype, self.mesh, scan
    )
    self.adapter = lora_lib.init(self.arch, self.lora, 0, self.mesh, scan)
    self.steps = step.make_steps(
      self.model,
      optimizer.AdamW(0.0, self.config.max_grad_norm),
      self.mesh,
      self.adapter,
      loss_chunk=self.config.loss_chunk,
      dropout_seed=0,
    )
    self._prompt = prompts.Prompt("consistent", "", "")
    self._data = toys.read_examples(arguments.data, arguments.examples)
    self._tokenizer = toys.load_tokenizer(arguments.data, arguments.tokenizer)

  def stream(self) -> pipeline.TrainStream:
    """Returns one epoch."""
    examples, catalogue = self._data
    return pipeline.TrainStream(
      next_title.Titles(examples, catalogue, self._prompt),
      self._tokenizer,
      self.config,
      rows=trainer.micro_batch_rows(self.config, self.mesh),
      seed=0,
      share_header=trainer.shares_header(self.config, self.model),
    )

  def token_lists(self) -> list[list[int]]:
    """Returns the token ids of all examples, for the peer."""
    encoded = self.stream().encoded
    found = encoded.get(range(len(encoded)))
    return [example.tokens.tolist() for example in found]

  def repeated_headers(self) -> tuple[int, int]:
    """Returns how often an epoch spares the header, and its tokens."""
    stream = self.stream()
    if stream.header is None:
      return 0, 0
    steps = sum(any("header" in b for b in batches) for batches in stream)
    length = stream.header.length
    return stream.header_tokens // length - steps, length

  def run(self) -> dict[str, Any]:
    """Trains one epoch; returns seconds, tokens, losses, utilisation."""
    stream = self.stream()
    with tempfile.TemporaryDirectory() as folder:
      paths = paths_lib.Paths(pathlib.Path(folder))
      files = run_files.RunFiles(paths, "f", lambda directory, tree: None)
      run = loop.TrainingRun(
        self.config,
        self.steps,
        self.base,
        self.adapter,
        stream,
        [],
        mesh=self.mesh,
        files=files,
      )
      start = time.perf_counter()
      result = run.run()
      seconds = time.perf_counter() - start
      lines = paths.train_metrics.read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    return {
      "seconds": seconds,
      "tokens": result.tokens,
      "losses": losses,
      "utilisation": stream.utilisation,
    }


class Peer(other_side.OtherSide):
  """Trainer + PEFT."""

  def __init__(self, folder: str, arguments: argparse.Namespace, ids: list):
    path = pathlib.Path(folder) / "rows.json"
    path.write_text(json.dumps(ids), encoding="utf-8")
    of_run = arguments.threads, arguments.dtype, arguments.lora_rank
    targets = ",".join(arguments.lora_targets)
    model = pathlib.Path(folder) / "model"
    super().__init__("peer_train.py", model, path, *of_run, targets)
    self._batch = arguments.batch

  def run(self, micro_batch: int, examples: int) -> dict[str, Any]:
    """Trains one epoch; returns seconds, tokens and losses."""
    order = {"micro_batch": micro_batch, "batch": self._batch, "epochs": 1}
    return self.ask(order | {"examples": examples})


def model_flops(
  arch: models.Architecture, lora: LoraConfig, lengths: list[int]
) -> float:
  """Returns forward and backward FLOPs of an epoch; see the module's text."""
  width, keys = arch.hidden_size, arch.num_key_value_heads * arch.head_dim
  queries = arch.num_attention_heads * arch.head_dim
  inner = arch.intermediate_size
  shapes = {
    "q_proj": (width, queries),
    "k_proj": (width, keys),
    "v_proj": (width, keys),
    "o_proj": (queries, width),
    "gate_proj": (width, inner),
    "up_proj": (width, inner),
    "down_proj": (inner, width),
  }
  layer = sum(rows * columns for rows, columns in shapes.values())
  frozen = arch.num_hidden_layers * layer + width * arch.vocab_size
  targets = [sum(shapes[name]) for name in lora.target_modules]
  adapter = arch.num_hidden_layers * lora.rank * sum(targets)
  tokens = sum(lengths)
  squares = sum(n * n for n in lengths)
  attention = 6 * queries * squares * arch.num_hidden_layers
  return tokens * (4 * frozen + 6 * adapter) + attention


def matmul_peak(dtype: str) -> float:
  """Returns the FLOP/s of a large matrix product here and now."""
  size = 2048 if jax.devices()[0].platform == "cpu" else 8192
  x = jnp.ones((size, size), dtype)
  product = jax.jit(jnp.matmul)
  jax.block_until_ready(product(x, x))
  start = time.perf_counter()
  for _ in range(5):
    y = product(x, x)
  jax.block_until_ready(y)
  return 5 * 2 * size**3 / (time.perf_counter() - start)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
  """Runs the rounds, sides interleaved; returns everything measured."""
  ours = Ours(arguments)
  start = time.perf_counter()
  ours.run()
  first = time.perf_counter() - start
  ids = ours.token_lists()
  runs: dict[str, list[dict]] = {"ours": []}
  peer, versions = None, {}
  with tempfile.TemporaryDirectory() as folder:
    if arguments.peer:
      hf_export.save_base(
        pathlib.Path(folder) / "model", ours.arch, ours.base, None
      )
      peer = Peer(folder, arguments, ids)
      versions = peer.versions
      peer.run(arguments.peer_micro_batches[0], arguments.batch)  # Warms up.
    for _ in range(arguments.rounds):
      runs["ours"].append(ours.run())
      if arguments.one_thread:
        one = dataclasses.replace(ours.steps, executor=executor.Executor(1))
        with mock.patch.object(ours, "steps", one):
          runs.setdefault(_ALONE, []).append(ours.run())
      for size in arguments.peer_micro_batches if peer else ():
        found = peer.run(size, arguments.examples)
        runs.setdefault(f"hf micro-batch {size}", []).append(found)
    if peer:
      peer.close()
  rates = {
    name: statistics.median(run["tokens"] / run["seconds"] for run in found)
    for name, found in runs.items()
  }
  lengths = [len(x) for x in ids]
  whole = model_flops(ours.arch, ours.lora, lengths)
  spared, header = ours.repeated_headers()
  done = whole - spared * model_flops(ours.arch, ours.lora, [header])
  flops = dict.fromkeys(rates, whole / sum(lengths))
  flops["ours"] = flops[_ALONE] = done / sum(lengths)
  peak = matmul_peak(arguments.dtype)
  return {
    "tokens_per_second": rates,
    "mfu": {name: rate * flops[name] / peak for name, rate in rates.items()},
    "header_tokens": header,
    "matmul_peak_flops_per_second": peak,
    "model_flops_per_token": {name: flops[name] for name in rates},
    "mean_tokens_per_example": statistics.mean(lengths),
    "first_run_seconds": first,
    "peer": versions,
    "runs": runs,
  }


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--peer", action="store_true")
  parser.add_argument("--json", default="")
  parser.add_argument("--data", type=pathlib.Path, default=toys.SHARED)
  parser.add_argument("--size", choices=sizes.NAMES, default="15m")
  parser.add_argument("--dtype", default="float32")
  parser.add_argument("--tokenizer", default="", help=toys.TOKENIZER_HELP)
  parser.add_argument("--lora-rank", type=int, default=8)
  parser.add_argument("--lora-targets", nargs="+", default=["q_proj", "v_proj"])
  parser.add_argument("--examples", type=int, default=256)
  parser.add_argument("--batch", type=int, default=128)
  parser.add_argument("--rows", type=int, default=2)
  parser.add_argument("--max-length", type=int, default=512)
  parser.add_argument("--buckets", type=int, nargs="*", default=[])
  parser.add_argument("--loss-chunk", type=int, default=0)
  parser.add_argument("--whole-examples", action="store_true")
  parser.add_argument("--unroll", action="store_true")
  parser.add_argument("--remat", default="none")
  parser.add_argument(
    "--one-thread",
    action="store_true",
    help="also run with all micro-batches of a step in one thread",
  )
  parser.add_argument(
    "--peer-micro-batches", type=int, nargs="*", default=[4, 16]
  )
  parser.add_argument("--rounds", type=int, default=3)
  arguments = parser.parse_args()
  arguments.threads = len(os.sched_getaffinity(0))
  return arguments


def main() -> None:
  """Parses arguments, measures, prints a table and writes JSON."""
  large_pages.ask()
  arguments = _arguments()
  measured = measure(arguments)
  rates, mfu = measured["tokens_per_second"], measured["mfu"]
  rows = [
    [name, f"{rate:,.0f}", f"{rates['ours'] / rate:.2f}x", f"{mfu[name]:.1%}"]
    for name, rate in rates.items()
  ]
  headers = ["system", "real tokens/s", "ours is", "MFU"]
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
