"""Where the wall time of a training step goes, for docs/performance.md.

  python -m benchmarks.step_profile [--json=profile.json] [train's options]

Runs one epoch of benchmarks.train's side of ours under `jax.profiler` and
reads the trace of XLA's CPU threads: every instant is shared among the
operations that run in it, and operations are grouped by the name scope they
come from. What no named operation covers is `unnamed`. A CPU only: other
devices have better tools (TensorBoard reads the same traces).
"""

import collections
import pathlib
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

import jax

from benchmarks import scratch, train
from bigrec_jax.results import table
from bigrec_jax.training import step
from bigrec_jax.workdir import large_pages

_GROUPS = (
  ("loss: products with the head", r"cross_entropy.*dot_general"),
  ("loss: the rest", r"cross_entropy"),
  ("MLP: products", r"mlp.*dot_general"),
  ("MLP: the rest", r"mlp"),
  ("LoRA", r"_adapter"),
  ("attention: projections", r"self_attn.*_proj.*dot_general"),
  ("attention: products", r"self_attn.*(bkqs|bkqh)"),
  ("attention: softmax", r"self_attn.*(reduce_|exp|select_n|/sub|/div)"),
  ("attention: layout, rotary", r"self_attn"),
)
# Not operations: the executor around them, and threads that wait.
_STEP = "jit_accumulate"  # The program of a micro-batch.
_NO_OPERATION = re.compile(r"ThunkExecutor|Await|wait for|^while")
Interval = tuple[float, float, str]  # Start, end, name.


def innermost(events: Iterable[Interval]) -> Iterator[Interval]:
  """Cuts one thread's nested events into parts that do not overlap."""
  stack: list[Interval] = []
  at = 0.0
  for event in sorted(events, key=lambda e: (e[0], -e[1])):
    while stack and stack[-1][1] <= event[0]:
      _, end, name = stack.pop()
      yield at, end, name
      at = end
    if stack:
      yield at, event[0], stack[-1][2]
    stack.append(event)
    at = event[0]
  while stack:
    _, end, name = stack.pop()
    yield at, end, name
    at = end


def shares(threads: Iterable[Iterable[Interval]]) -> dict[str, float]:
  """Returns seconds by operation; "" holds what none covers."""
  changes = []
  for number, events in enumerate(threads):
    for start, end, name in innermost(events):
      if end > start and not _NO_OPERATION.search(name):
        changes += [(start, 1, number, name), (end, 0, number, name)]
  running: dict[int, str] = {}
  found: dict[str, float] = collections.defaultdict(float)
  last = None
  for now, starts, number, name in sorted(changes):
    if last is not None:
      for each in running.values() or [""]:
        found[each] += (now - last) / max(len(running), 1) / 1e9
    last = now
    if starts:
      running[number] = name
    elif running.get(number) == name:
      del running[number]
  return found


def _threads(folder: str) -> list[list[Interval]]:
  (path,) = pathlib.Path(folder).rglob("*.xplane.pb")
  data = jax.profiler.ProfileData.from_file(str(path))
  return [
    [(e.start_ns, e.start_ns + e.duration_ns, _name(e)) for e in line.events]
    for plane in data.planes
    for line in plane.lines
    if line.name.startswith("tf_XLA")
  ]


def _name(event: Any) -> str:
  """Returns the operation's name, or the program's if it is not the step."""
  program = dict(event.stats).get("hlo_module", _STEP)
  return event.name if program == _STEP else program


def _scopes(hlo: str) -> dict[str, str]:
  """Returns the name scope of every operation of a compiled program."""
  pattern = r'%([\w.\-]+) = .*metadata=\{op_name="([^"]*)"'
  return dict(re.findall(pattern, hlo))


def group_of(scope: str) -> str:
  """Returns the name of the group that a scope belongs to."""
  for name, pattern in _GROUPS:
    if re.search(pattern, scope):
      return name
  return "other"


def _compiled_text(side: train.Ours) -> str:
  """Returns the HLO of the micro-batch's program."""
  (batch, *_) = next(side.stream())
  placed = step.put_batch(side.mesh, batch)
  rows = {k: v for k, v in placed.items() if not k.startswith("header")}
  state, sums = side.steps.init(side.adapter)
  base = side.steps.prepare(side.base)
  header = None
  if len(rows) < len(placed):
    header = side.steps.open_header(state, base, placed["header"])
  lowered = side.steps.accumulate.lower(sums, state, base, rows, header)
  return lowered.compile().as_text()


def main() -> None:
  """Profiles an epoch, prints a table and writes JSON."""
  large_pages.ask()
  if not any(option.startswith("--examples") for option in sys.argv):
    sys.argv.append("--examples=128")
  arguments = train._arguments()
  side = train.Ours(arguments)
  side.run()  # Compiles.
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      side.run()
    found = shares(_threads(folder))
  scopes = _scopes(_compiled_text(side))
  groups: dict[str, float] = collections.defaultdict(float)
  for name, seconds in found.items():
    group = group_of(scopes.get(name, "")) if name else "unnamed"
    groups[name if name.startswith("jit_") else group] += seconds
  total = sum(groups.values())
  ranked = sorted(groups.items(), key=lambda item: -item[1])
  rows = [[name, f"{s:.2f}", f"{s / total:.0%}"] for name, s in ranked]
  print(table.format_table(["part of a step", "s", "share"], rows))
  if arguments.json:
    scratch.write_json(
      arguments.json,
      {"jax": jax.__version__, "seconds": dict(ranked), "what": sys.argv[1:]},
    )


if __name__ == "__main__":
  main()
