"""CPU time of parts and of their alternatives, for docs/performance.md.

  python -m benchmarks.parts [--json=parts.json]

Each alternative is what the code did before or could do: the header computed
in every example, layers stacked in a scan, other rematerialisation, other
chunks of the loss, blocks of scores that leave the cache. CPU time is that of
all threads, which neighbours disturb less than wall time. Needs ../shared.
"""

import argparse
import contextlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import scratch, train
from bigrec_jax.cf import caser, layers, log_sums, losses, networks
from bigrec_jax.cf.spec import NetworkSpec
from bigrec_jax.config import MeshConfig
from bigrec_jax.data.text import packing
from bigrec_jax.devices import sharding
from bigrec_jax.models import stacking
from bigrec_jax.rankers import cf as cf_rankers, engine
from bigrec_jax.results import table
from bigrec_jax.training import loss
from bigrec_jax.workdir import large_pages

_STEPS = {
  "as it is": [],
  "header in every example": ["--whole-examples"],
  "layers in a scan": [],
  "remat=dots": ["--remat=dots"],
  "remat=full": ["--remat=full"],
  "loss_chunk=128": ["--loss-chunk=128"],
}


def cpu_seconds(run: Callable[[], Any], times: int = 3) -> float:
  """Returns the median CPU time of calls after the first, which compiles."""
  jax.block_until_ready(run())
  spent = []
  for _ in range(times):
    start = time.process_time()
    jax.block_until_ready(run())
    spent.append(time.process_time() - start)
  return statistics.median(spent)


@contextlib.contextmanager
def _arguments(options: list[str]) -> Iterator[argparse.Namespace]:
  with mock.patch.object(sys, "argv", ["train", *options]):
    yield train._arguments()


def train_step(name: str) -> float:
  """Returns real tokens per CPU second of a step of 64 examples."""
  most = 0 if name == "layers in a scan" else stacking._MOST_UNROLLED_LAYERS
  with (
    _arguments([*_STEPS[name], "--examples=64"]) as arguments,
    mock.patch.object(stacking, "_MOST_UNROLLED_LAYERS", most),
  ):
    side = train.Ours(arguments)
  batches = next(side.stream())
  real = sum(sum(packing.count_tokens(batch)) for batch in batches)
  state, sums = side.steps.init(side.adapter)
  base = side.steps.prepare(side.base)

  def run():
    nonlocal sums
    sums = side.steps.add_up(sums, state, base, batches)
    return sums

  return real / cpu_seconds(run)


def head(chunk: int) -> float:
  """Returns seconds of loss and gradient of 4 x 512 states, 32,000 tokens."""
  rng = np.random.default_rng(0)
  states = jnp.asarray(rng.standard_normal((4, 512, 288)), jnp.float32)
  weight = jnp.asarray(rng.standard_normal((288, 32000)), jnp.float32)
  labels = jnp.asarray(rng.integers(0, 32000, (4, 512)), jnp.int32)
  mask = jnp.ones((4, 512), bool)
  gradient = jax.jit(
    jax.grad(
      lambda x: loss.cross_entropy(x, weight, labels, mask, chunk // 4)[0]
    )
  )
  return cpu_seconds(lambda: gradient(states))


def ranking(scores: int, seen: bool) -> float:
  """Returns seconds to rank 4,096 users among 12,101 items, 64 wide."""
  rng = np.random.default_rng(0)
  users, items, width = 4096, 12101, 64
  states = jnp.asarray(rng.standard_normal((users, width)), jnp.float32)
  kernel = jnp.asarray(rng.standard_normal((items, width)), jnp.float32)
  rows = rng.integers(-1, items, (users, 50)).astype(np.int32)
  with mock.patch.object(engine, "_BLOCK_SCORES", {"cpu": scores}):
    rank = engine.Ranks(
      rng.integers(0, items, users).astype(np.int32),
      items,
      sharding.make_mesh(MeshConfig(-1, 1, 1)),
      most_users=512,
      seen=rows if seen else None,
    )
  given = networks.Head(kernel, jnp.zeros(items))
  return cpu_seconds(lambda: rank(cf_rankers.Headed(states, given)), 9)


def catalogue_loss(how: str) -> float:
  """Returns seconds of cross-entropy and gradient, 1,536 x 12,101 x 64."""
  rng = np.random.default_rng(0)
  count, items, width = 1536, 12101, 64
  given = networks.Head(
    jnp.asarray(rng.standard_normal((items, width)), jnp.float32),
    jnp.zeros(items),
  )
  states = jnp.asarray(rng.standard_normal((count, width)), jnp.float32)
  targets = jnp.asarray(rng.integers(0, items, count), jnp.int32)
  weights = jnp.full(count, 1 / count, jnp.float32)
  mesh = sharding.make_mesh(MeshConfig(-1, 1, 1))

  def plain(head, states):
    scores = states @ head.kernel.T + head.bias[None]
    own = jnp.take_along_axis(scores, targets[:, None], axis=1)[:, 0]
    return (weights * (jax.nn.logsumexp(scores, axis=1) - own)).sum()

  def ours(head, states):
    return losses.softmax(head, states, targets, weights, items, mesh)

  if how == "autodiff":
    function, scores = plain, 1 << 20
  else:
    function, scores = ours, {"4 MiB": 1 << 20, "256 MiB": 1 << 26}[how]
  gradient = jax.jit(jax.grad(function, (0, 1)))
  with mock.patch.object(log_sums, "_BLOCK_SCORES", {"cpu": scores}):
    return cpu_seconds(lambda: gradient(given, states), 15)


def _filter_by_filter(self: caser.Caser, image: jax.Array) -> jax.Array:
  """Does what `Caser._horizontal` does with a product for each filter row."""
  length, found = self.spec.max_length, []
  for height in caser.HEIGHTS:
    shape = (height, self.spec.hidden_size, caser.FILTERS)
    kernel = self.param(f"horizontal_{height}", layers.normal(0.1), shape)
    start = jax.nn.initializers.constant(0.1)
    bias = self.param(f"horizontal_{height}_bias", start, shape[2:])
    steps = length - height + 1
    answers = sum(image[:, h : h + steps] @ kernel[h] for h in range(height))
    found.append(jax.nn.relu(answers + bias[None, None]).max(axis=1))
  return jnp.concatenate(found, axis=1)


def caser_step(horizontal: Callable) -> float:
  """Returns seconds of a step with 256 windows of 50 items."""
  spec = NetworkSpec(
    network="caser",
    family="s3rec",
    num_items=12101,
    rows=12102,
    hidden_size=64,
    num_layers=2,
    num_heads=2,
    max_length=50,
    dropout=0.5,
  )
  rng = np.random.default_rng(0)
  length = rng.integers(1, 50, 256).astype(np.int32)
  tokens = rng.integers(0, spec.num_items, (256, 50)).astype(np.int32)
  tokens = np.where(np.arange(50) < length[:, None], tokens, spec.num_items)

  def total(params):
    noise = jnp.uint32(0)
    states = networks.last_states(spec, params, tokens, length, noise)
    return (states**2).sum()

  def step(params, _):
    grads = jax.grad(total)(params)
    return jax.tree.map(lambda p, g: p - 1e-3 * g, params, grads), None

  with mock.patch.object(caser.Caser, "_horizontal", horizontal):
    params = networks.init(spec, 0)
    # In a loop, as in training: XLA's CPU backend compiles it otherwise.
    steps = jax.jit(lambda params: jax.lax.scan(step, params, length=10)[0])
    return cpu_seconds(lambda: steps(params), 9) / 10


def main() -> None:
  """Measures, prints a table and writes JSON."""
  large_pages.ask()
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--json", default="")
  flags = parser.parse_args()
  rows = []

  def add(part: str, how: str, value: float, unit: str) -> None:
    rows.append({"part": part, "how": how, "value": value, "unit": unit})
    print(f"{part}, {how}: {value:.4g} {unit}", file=sys.stderr, flush=True)

  for chunk in (128, 256, 512):
    add("loss, 2,048 positions", f"{chunk} at a time", head(chunk), "s")
  for mib, scores in ((8, 1 << 21), (128, 1 << 25)):
    for seen in (False, True):
      what = f"blocks of {mib} MiB{', seen items masked' if seen else ''}"
      add("ranks, 4,096 users", what, ranking(scores, seen), "s")
  for how in ("autodiff", "256 MiB", "4 MiB"):
    what = how if how == "autodiff" else f"on the way, blocks of {how}"
    add("cross-entropy, 12,101 items", what, catalogue_loss(how), "s")
  for how, horizontal in (
    ("a product for each row of a filter", _filter_by_filter),
    ("one product for all", caser.Caser._horizontal),
  ):
    add("Caser, 256 windows a step", how, caser_step(horizontal), "s")
  for name in _STEPS:
    add("train", name, train_step(name), "tokens/s")
  shown = [
    [*map(row.get, ("part", "how")), f"{row['value']:,.4g}", row["unit"]]
    for row in rows
  ]
  print(table.format_table(["part", "how", "by CPU time", ""], shown))
  if flags.json:
    scratch.write_json(flags.json, {"jax": jax.__version__, "parts": rows})


if __name__ == "__main__":
  main()
