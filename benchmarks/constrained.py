"""What constrained decoding costs, and what lookahead saves, on Games titles.

  python -m benchmarks.constrained --json=constrained.json

Parts (`--parts`): `index` builds the trie; `step` compares the CPU time of a
step under the trie with that of a step without, at the nodes of a real
search; `lookahead` counts passes and users per second; `legal` reads every
hypothesis of random models over a catalogue of awkward titles. The network
has the shape of `--size` and random weights, prompts are Amazon Toys'. The
million titles are first and second halves of two Games titles each, drawn
with a seed. Needs ../shared.
"""

import argparse
import gzip
import os
import pathlib
import resource
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import (
  constrained_legal,
  generate as generate_bench,
  scratch,
  sizes,
  toys,
)
from bigrec_jax import config, progress
from bigrec_jax.data.text import prompts as prompts_lib, tokenization
from bigrec_jax.decoding import (
  beam_search,
  constraints,
  generate,
  program,
  selection,
  slots as slots_lib,
  stepping,
)
from bigrec_jax.devices import sharding
from bigrec_jax.results import table
from configs import common

_EOS = 2
_PARTS = ("index", "step", "lookahead", "legal")


def games_titles(data: pathlib.Path) -> list[str]:
  """Returns the titles of BIGRec's Games catalogue, distinct."""
  path = data / "bigrec-catalogues" / "game_id2name.txt.gz"
  with gzip.open(path, "rt", encoding="utf-8") as file:
    lines = file.read().splitlines()
  return list(dict.fromkeys(line.rsplit("\t", 1)[0] for line in lines))


def recombined(titles: list[str], count: int, seed: int) -> list[str]:
  """Returns distinct titles: the first half of one, the second of another."""
  rng = np.random.default_rng(seed)
  halves = []
  for title in titles:
    words = title.split()
    middle = (len(words) + 1) // 2
    halves.append((" ".join(words[:middle]), " ".join(words[middle:])))
  found = dict.fromkeys(titles)
  while len(found) < count:
    for a, b in rng.integers(len(halves), size=(count, 2)):
      found[f"{halves[a][0]} {halves[b][1]}".strip()] = None
  return list(found)[:count]


def build_index(
  titles: list[str], tokenizer: tokenization.Tokenizer
) -> tuple[constraints.Trie, dict[str, Any]]:
  """Returns the trie of titles, and what it cost."""
  start = time.perf_counter()
  encoded = constraints.title_tokens(
    [f'"{title}"' for title in titles],
    prompts_lib.RESPONSE_MARKER,
    tokenizer.encode_data,
    tokenizer.decode,
    tokenizer.eos_id,
  )
  middle = time.perf_counter()
  trie = constraints.build_trie(*encoded)
  end = time.perf_counter()
  children = np.diff(trie.first_child)
  return trie, {
    "titles": len(titles),
    "left_out": len(titles) - len(encoded.rows),
    "tokenise_seconds": middle - start,
    "build_seconds": end - middle,
    "places_for_nodes": len(children),
    "widest_node": int(children.max()),
    "nodes_with_one_child": float(np.mean(children[children > 0] == 1)),
    "bytes": sum(x.nbytes for x in jax.tree.leaves(trie)),
    "process_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    * 1024,
  }


def run(
  ours: generate_bench.Ours, prompts: list, trie: Any, **changes: Any
) -> tuple[float, float, generate.Hypotheses]:
  """Returns seconds, CPU seconds and the hypotheses."""
  start, cpu = time.perf_counter(), time.process_time()
  found = generate.generate(
    ours.model,
    ours.params,
    None,
    prompts,
    ours.settings.__class__(**{**vars(ours.settings), **changes}),
    (_EOS,),
    ours.mesh,
    seed=0,
    norm_lengths=None,
    trie=trie,
    progress=progress.NullProgress(),
  )
  return time.perf_counter() - start, time.process_time() - cpu, found


def nodes_of_a_search(
  ours: generate_bench.Ours, prompts: list, trie: Any
) -> list[np.ndarray]:
  """Returns where the beams of the slots are at every step, [B, W] each."""
  seen: list[np.ndarray] = []
  expand = constraints.Trie.expand

  def recorded(self, logits, nodes, keep):
    jax.debug.callback(lambda x: seen.append(np.asarray(x)), nodes)
    return expand(self, logits, nodes, keep)

  with mock.patch.object(constraints.Trie, "expand", recorded):
    run(ours, prompts, trie)
    jax.effects_barrier()
  program.read.clear_cache()
  program.advance.clear_cache()
  beams = ours.settings.num_beams
  return [x for x in seen if x.shape[1] == beams]


def _cpu(call: Callable[[Any], Any], arguments: list) -> float:
  """Returns the mean CPU seconds of a call, the first not counted."""
  jax.block_until_ready(call(arguments[0]))
  start = time.process_time()
  for argument in arguments:
    jax.block_until_ready(call(argument))
  return (time.process_time() - start) / len(arguments)


def step_cost(
  ours: generate_bench.Ours, prompts: list, trie: Any, rounds: int
) -> dict[str, Any]:
  """Returns CPU seconds of the parts of a step with and without the trie.

  What differs is what follows the logits: candidates and the choice among
  them. It is timed apart from the network, whose part is far larger, so that
  noise of the latter does not hide the difference.
  """
  seen = nodes_of_a_search(ours, prompts, trie)
  users, beams = seen[0].shape
  rng = np.random.default_rng(0)
  vocab = ours.llama_config.vocab_size
  logits = jnp.asarray(rng.normal(size=(users, beams, vocab)), jnp.float32)
  most = trie.depth
  search = beam_search.BeamSearch(beams, most, (_EOS,), False)
  norms = jax.device_put(stepping.length_norms(users, most, 1.0, None))
  rows = stepping.RowFacts(norms, None)
  active = jnp.ones(users, jnp.bool_)
  free = search.start(logits[:, 0], active, rows, selection.all_tokens)

  @jax.jit
  def without(nodes, logits, state):
    state = state.replace(nodes=nodes)
    return search.advance(state, logits, rows, selection.all_tokens)

  @jax.jit
  def under(nodes, logits, state, trie):
    state = state.replace(nodes=nodes)
    return search.advance(state, logits, rows, trie.expand)

  network = _network(ours, prompts[:users], most)
  found: dict[str, list[float]] = {"network": [], "without": [], "under": []}
  for _ in range(rounds):
    found["network"].append(_cpu(lambda _: network(), seen[:6]))
    found["without"].append(_cpu(lambda x: without(x, logits, free), seen))
    found["under"].append(_cpu(lambda x: under(x, logits, free, trie), seen))
  parts = {name: statistics.median(spent) for name, spent in found.items()}
  plain = parts["network"] + parts["without"]
  return {
    "steps": len(seen),
    "slots": users,
    "cpu_seconds": found,
    "overhead": (parts["under"] - parts["without"]) / plain,
    **{f"{name}_ms": 1e3 * spent for name, spent in parts.items()},
  }


def _network(
  ours: generate_bench.Ours, prompts: list, most: int
) -> Callable[[], Any]:
  """Returns a call that reads one more token of all beams, to logits."""
  model, beams = ours.model, ours.settings.num_beams
  users, width = len(prompts), max(map(len, prompts))
  tokens = np.zeros((users, width), np.int32)
  for row, prompt in enumerate(prompts):
    tokens[row, : len(prompt)] = prompt
  lengths = np.array([len(p) for p in prompts], np.int32)
  variables = {"params": model.prepare(ours.params)}

  @jax.jit
  def read(variables, tokens, lengths):
    network, variables = model.executable(variables)
    return network.apply(variables, tokens, lengths, method="prefill")

  _, prompt = read(variables, tokens, lengths)
  norms = stepping.length_norms(users, most, 1.0, None)
  rows = stepping.RowFacts(norms, None)
  empty = slots_lib.Users({}, rows, prompt)
  suffix = slots_lib.empty(empty, users, beams, beams, 32, None).suffix

  @jax.jit
  def step(variables, prompt, suffix):
    network, variables = model.executable(variables)
    hidden, suffix = network.apply(
      variables,
      jnp.ones((users, beams), jnp.int32),
      jnp.ones(users, jnp.int32),
      prompt,
      suffix,
      method="decode",
    )
    return network.apply(variables, hidden, method="logits"), suffix.cursor

  return lambda: step(variables, prompt, suffix)


def lookahead_cost(
  ours: generate_bench.Ours,
  prompts: list,
  trie: Any,
  choices: list[int],
  rounds: int,
) -> dict[str, Any]:
  """Returns passes a title, users per second and agreement, by lookahead."""
  last: dict[int, np.ndarray] = {}
  advance = program.advance

  def watched(*arguments):
    slots, outcome = advance(*arguments)
    last[threading.get_ident()] = np.asarray(outcome.step)
    return slots, outcome

  batch = ours.settings.batch_size
  rows: dict[str, Any] = {}
  wanted = None
  for ahead in choices:
    last.clear()
    with mock.patch.object(program, "advance", watched):
      found = run(ours, prompts[:batch], trie, lookahead=ahead)[2]
    passes = np.concatenate(list(last.values())) - 1
    wanted = wanted or found
    lengths = [len(beam) for row in found.tokens for beam in row]
    rows[str(ahead)] = {
      "passes_mean": float(passes.mean()),
      "passes_most": int(passes.max()),
      "tokens_mean": statistics.mean(lengths),
      "same_hypotheses": found.tokens == wanted.tokens,
      "largest_difference": float(np.abs(found.scores - wanted.scores).max()),
      "users_per_second": [],
      "users_per_cpu_second": [],
      "one_user_seconds": [],
    }
    for some in (prompts, prompts[:1]):  # Compiles.
      run(ours, some, trie, lookahead=ahead)
  for _ in range(rounds):
    for ahead in choices:
      row = rows[str(ahead)]
      spent, cpu, _ = run(ours, prompts, trie, lookahead=ahead)
      row["users_per_second"].append(len(prompts) / spent)
      row["users_per_cpu_second"].append(len(prompts) / cpu)
      alone = [
        run(ours, [prompt], trie, lookahead=ahead)[0]
        for prompt in prompts[:1] * 5
      ]
      row["one_user_seconds"].append(statistics.median(alone))
  return rows


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--json", default="")
  parser.add_argument("--data", type=pathlib.Path, default=toys.SHARED)
  parser.add_argument("--parts", nargs="*", default=_PARTS, choices=_PARTS)
  parser.add_argument("--size", choices=sizes.NAMES, default="15m")
  parser.add_argument("--titles", type=int, default=1_000_000)
  parser.add_argument("--users", type=int, default=32)
  parser.add_argument("--batch", type=int, default=16)
  parser.add_argument("--beams", type=int, default=4)
  parser.add_argument("--lookahead", type=int, nargs="*", default=[0, 1, 2, 4])
  parser.add_argument("--hypotheses", type=int, default=100_000)
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--seed", type=int, default=0)
  return parser.parse_args()


def main() -> None:
  """Measures, prints tables and writes JSON."""
  flags = _arguments()
  tokenizer, titles = (
    toys.load_tokenizer(flags.data, ""),
    games_titles(flags.data),
  )
  result: dict[str, Any] = {
    "what": scratch.named(flags),
    **scratch.surroundings(len(os.sched_getaffinity(0))),
  }
  lines: list[list[str]] = []
  catalogues = {"Games": titles}
  if {"index", "step"} & set(flags.parts):
    catalogues["recombined"] = recombined(titles, flags.titles, flags.seed)
  tries = {}
  for name, own in catalogues.items():
    tries[name], cost = build_index(own, tokenizer)
    result.setdefault("index", {})[name] = cost
    seconds = cost["tokenise_seconds"] + cost["build_seconds"]
    lines.append([f"index of {name}, {len(own):,} titles", f"{seconds:.1f} s"])
    lines.append(["its bytes", f"{cost['bytes'] / 1e6:.1f} MB"])
  if {"step", "lookahead"} & set(flags.parts):
    longest = max(int(trie.longest) for trie in tries.values())
    settings = config.from_config_dict(common.get_config()).generate
    settings = settings.__class__(
      **{
        **vars(settings),
        "num_beams": flags.beams,
        "batch_size": flags.batch,
        "max_new_tokens": longest,
      }
    )
    ours = generate_bench.Ours(flags.size, "float32", settings, 1.0)
    prompts = toys.read_prompts(flags.data, tokenizer, flags.users, flags.seed)
    tries = {
      name: sharding.put_replicated(ours.mesh, trie)
      for name, trie in tries.items()
    }
  if "step" in flags.parts:
    for name, trie in tries.items():
      cost = step_cost(ours, prompts, trie, flags.rounds)
      result.setdefault("step", {})[name] = cost
      lines.append([f"step under {name}", f"{cost['overhead']:+.2%}"])
  if "lookahead" in flags.parts:
    rows = lookahead_cost(
      ours, prompts, tries["Games"], flags.lookahead, flags.rounds
    )
    result["lookahead"] = rows
    for ahead, row in rows.items():
      rate = statistics.median(row["users_per_second"])
      alone = statistics.median(row["one_user_seconds"])
      what = f"{row['passes_mean']:.1f} passes, {rate:.2f} users/s,"
      lines.append([f"lookahead {ahead}", f"{what} one user {alone:.3f} s"])
  if "legal" in flags.parts:
    found = constrained_legal.count(titles, flags.data, flags.hypotheses)
    result["legal"] = found
    for row in found:
      what = f"{row['illegal']} of {row['hypotheses']:,} are no title"
      lines.append([f"{row['tokenizer']}, {row['search']}", what])
  print(table.format_table(["what", "found"], lines))
  if flags.json:
    scratch.write_json(flags.json, result)


if __name__ == "__main__":
  main()
