"""What M6-Rec's ways to score candidates cost, by operations and CPU time.

  python -m benchmarks.heads [--size=15m] [--json=heads.json] [...]

Made-up histories and titles with random weights of `--size`: cost does not
depend on what the weights know. A row is one way for one block of users:

  every text whole   prompt and candidate anew for each candidate: what the
                     others are compared with
  score, late at L', towers, options, likelihood, as an evaluation runs them
                     (bigrec_jax/tasks/heads): the prompt is read once; what is
                     kept for all users is made before, and not counted

Operations are those that XLA counts in the programs before they are compiled;
CPU time is that of all threads. Quality is a row of metrics/heads.json.
"""

import argparse
import dataclasses
import functools
import os
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import scratch, sizes
from bigrec_jax import config as config_lib, models
from bigrec_jax.devices import sharding
from bigrec_jax.models import hf_import, lora as lora_lib, own_weights
from bigrec_jax.results import table
from bigrec_jax.tasks.heads import evaluation, heads, late, samples
from configs import m6rec

_CALLS = 3
_WHOLE = "every text whole"


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser()
  parser.add_argument("--size", default="15m", choices=sizes.NAMES)
  parser.add_argument("--users", type=int, default=4)
  parser.add_argument("--candidates", type=int, default=20)
  parser.add_argument("--history", type=int, default=10)
  parser.add_argument("--title", type=int, default=7, help="tokens")
  parser.add_argument("--late", type=int, nargs="*", default=[2, 4])
  parser.add_argument("--json", default="")
  return parser.parse_args()


def _batch(given: argparse.Namespace, vocabulary: int) -> dict[str, np.ndarray]:
  """Returns a micro-batch as `data.text.candidates` lays it out."""
  rng = np.random.default_rng(0)
  users, size, title = given.users, given.candidates, given.title
  length, width = given.history * title, size * title
  tokens = rng.integers(3, vocabulary, (users, length)).astype(np.int32)
  own = rng.integers(3, vocabulary, (users, width)).astype(np.int32)
  at = np.arange(length, dtype=np.int32)
  places = np.arange(width, dtype=np.int32)

  def each(row: np.ndarray) -> np.ndarray:
    return np.broadcast_to(row, (users, len(row))).astype(np.int32)

  return {
    "tokens": tokens,
    "positions": each(at),
    "segment_ids": np.ones_like(tokens),
    "prompt_pieces": each(at // title),
    "prompt_places": each(at % title),
    "prompt_parts": each(at // title + 1),
    "answer_tokens": own,
    "answer_targets": np.roll(own, -1, axis=1),
    "answer_offsets": each(places % title),
    "answer_segment_ids": each(places // title + 1),
    "answer_places": each(places // title),
    "answer_first": own[:, ::title],
    "answer_lengths": np.full((users, size), title + 1, np.int32),
    "answer_ends": each(np.arange(size) * title + title - 1),
    "answer_names": each(np.arange(size) % given.history),
    "answer_right": np.zeros(users, np.int32),
  }


@functools.partial(jax.jit, static_argnames="model")
def _every_text(model, variables, batch):
  """Scores every candidate behind its whole prompt, a text each."""
  users, size = batch["answer_names"].shape
  own = batch["answer_tokens"].reshape(users * size, -1)
  texts = jnp.concatenate([jnp.repeat(batch["tokens"], size, 0), own], axis=1)
  at = jnp.arange(texts.shape[1], dtype=jnp.int32)[None]
  at = jnp.broadcast_to(at, texts.shape)
  network, own = model.executable(variables)
  hidden = network.apply(own, texts, at, jnp.ones_like(at), True)
  kernel = variables["own"]["score"]["kernel"]
  return jnp.matmul(hidden[:, -1].astype(jnp.float32), kernel)


def _measure(program, *given) -> dict[str, float]:
  """Returns billions of operations and CPU seconds of a call."""
  jax.block_until_ready(program(*given))
  spent = []
  for _ in range(_CALLS):
    start = time.process_time()
    jax.block_until_ready(program(*given))
    spent.append(time.process_time() - start)
  return {
    "gflops": evaluation.gflops(program, *given),
    "cpu_seconds": sorted(spent)[_CALLS // 2],
  }


def _ways(given: argparse.Namespace) -> dict[str, dict[str, float]]:
  """Returns what each way costs."""
  config = config_lib.from_config_dict(m6rec.get_config())
  arch, mesh = sizes.llama_config(given.size), sharding.single_device_mesh()
  model = models.build(arch, config.model, config.lora, mesh)
  settings = config.task.heads
  own = own_weights.Spec(heads.weights(settings, arch), {})
  variables = {
    "params": model.prepare(hf_import.init_base(arch, 0, "float32", mesh)),
    "lora": model.prepare(lora_lib.init(arch, config.lora, 1, mesh)),
    "own": own.init(2, mesh),
  }
  batch = {
    name: jnp.asarray(x) for name, x in _batch(given, arch.vocab_size).items()
  }

  def head(name, layers=None, kept=None):
    changed = dataclasses.replace(
      settings, late_layers=layers or settings.late_layers
    )
    program = functools.partial(
      evaluation.head_scores, head=name, config=changed
    )
    return _measure(program, model, variables, kept, batch)

  found = {_WHOLE: _measure(_every_text, model, variables, batch)}
  found["score"] = head("score")
  pieces = [[5] * given.title] * (given.history + samples.FIRST)
  for layers in given.late:
    own_table = model, variables, pieces, layers, len(pieces), mesh
    found[f"late at {layers}"] = head("late", layers, late.table(*own_table))
  found["options"] = head("options")
  towers = functools.partial(evaluation.user_towers, config=settings)
  found["towers"] = _measure(towers, model, variables, batch)
  base = {"params": variables["params"]}
  likely = evaluation.likelihoods
  found["likelihood"] = _measure(likely, model, base, batch)
  return found


def main() -> None:
  """Prints the table."""
  given = _arguments()
  found = _ways(given)
  whole = found[_WHOLE]
  lines = [
    [
      name,
      f"{one['gflops'] / given.users:.3f}",
      f"{whole['gflops'] / one['gflops']:.2f}",
      f"{one['cpu_seconds'] / given.users:.4f}",
      f"{whole['cpu_seconds'] / one['cpu_seconds']:.2f}",
    ]
    for name, one in found.items()
  ]
  headers = ["way", "Gflop a user", "times fewer", "CPU s a user", "times less"]
  print(table.format_table(headers, lines))
  if given.json:
    result = {
      "arguments": scratch.named(given),
      **scratch.surroundings(os.cpu_count() or 1),
      "ways": found,
    }
    scratch.write_json(given.json, result)


if __name__ == "__main__":
  main()
