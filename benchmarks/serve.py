"""Requests per second and waits of a server, one-at-a-time calls, and a peer.

  python -m benchmarks.serve --workdir=runs/demo --peer --json=results.json

Three sides make the same lists of the same histories, in turns: the server
(`--mode=serve`) asked by so many clients at a time, `Recommender` called for
one history after the other, and, with --peer, transformers and PEFT behind
Starlette and uvicorn with the same weights and prompts (peer_serve.py). The
client is http_client.py; the first --warm requests of a round don't count, and
medians of the rounds are compared; CPU ms are a side's own by request, which
others on the machine change less. The calls are made once before, so that none
is timed that compiles. Nothing is injected, and `recommend.fallback` is off: a
text that the catalogue is far from is grounded like any other, as the peer
does. So all sides answer one question, and `equal_lists` says how often they
agree in all ten items and their order.
"""

import argparse
import asyncio
import os
import statistics
from typing import Any

from benchmarks import children, http_client, other_side, scratch, serving
from bigrec_jax.results import table

_K = 10
_COLUMNS = {
  "median": "median ms",
  "p90": "p90 ms",
  "p99": "p99 ms",
  "per_second": "requests/s",
  "cpu_ms": "CPU ms",
}


def _cpu_ms(pid: int, before: float | None, requests: int) -> dict[str, float]:
  """Returns the CPU milliseconds a request, where the machine says them."""
  after = children.cpu_seconds(pid)
  if before is None or after is None:
    return {}
  return {"cpu_ms": round(1e3 * (after - before) / requests, 2)}


def _round(
  server: serving.Server, bodies: list[bytes], warm: int, concurrency: int
) -> tuple[dict[str, float], list[Any]]:
  """Returns waits and rate of one round, and the lists."""
  port, pid = server.port, server.process.pid
  asyncio.run(http_client.load(port, bodies[:warm], concurrency))
  before = children.cpu_seconds(pid)
  answers, seconds = asyncio.run(
    http_client.load(port, bodies[warm:], concurrency)
  )
  wrong = [answer for answer in answers if answer.status != 200]
  if wrong:
    raise RuntimeError(f"{wrong[0].status}: {wrong[0].body[:300]!r}")
  found = http_client.percentiles([answer.seconds for answer in answers])
  found["per_second"] = round(len(answers) / seconds, 3)
  found |= _cpu_ms(pid, before, len(answers))
  return found, [answer.json()["recommendations"][0] for answer in answers]


def _ids(lists: list[Any]) -> list[list[str]]:
  return [[item["external_id"] for item in own] for own in lists]


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
  """Returns the rounds of all sides, and how far their lists agree."""
  count = arguments.warm + arguments.requests
  asked = serving.histories(arguments.workdir, count)
  bodies = [http_client.recommend(history, _K) for history in asked]
  rounds: dict[str, list[dict[str, float]]] = {}
  lists: dict[str, list[list[str]]] = {}

  def keep(side: str, found: dict[str, float], own: list[list[str]]) -> None:
    rounds.setdefault(side, []).append(found)
    lists[side] = own
    print(side, found, flush=True)

  # One at a time is slow: a quarter of the requests will do.
  few = arguments.warm + arguments.requests // 4
  calls = other_side.OtherSide("serve_calls.py", arguments.workdir, 0)
  order, compiled = {"histories": asked[:few], "k": _K}, 0
  calls.ask(order)
  with serving.ours(
    arguments.workdir, fallback=False, max_batch=arguments.slots
  ) as server:
    peer = None
    if arguments.peer:
      command = ["-m", "benchmarks.peer_serve", arguments.workdir]
      peer = serving.Server([*command, str(arguments.cores)], "/health/ready")
    sides = {"server": server} | ({"peer": peer} if peer else {})
    for _ in range(arguments.rounds):
      for concurrency in arguments.concurrency:
        for side, own in sides.items():
          most = bodies if concurrency > 1 else bodies[:few]
          found, made = _round(own, most, arguments.warm, concurrency)
          keep(f"{side}, {concurrency} at a time", found, _ids(made))
      before = children.cpu_seconds(calls.pid)
      answer = calls.ask(order)
      compiled += answer["compiled"]
      seconds = answer["seconds"][arguments.warm :]
      found = http_client.percentiles(seconds)
      found["per_second"] = round(len(seconds) / sum(seconds), 3)
      found |= _cpu_ms(calls.pid, before, few)
      keep("one-at-a-time calls", found, answer["lists"][arguments.warm :])
    since_ready = server.metrics()["bigrec_compilations_since_ready"]
    if peer:
      peer.stop()
  calls.close()
  medians = {
    side: {
      key: round(statistics.median(one[key] for one in each), 3)
      for key in each[0]
    }
    for side, each in rounds.items()
  }
  first = lists["one-at-a-time calls"]
  return {
    "rounds": rounds,
    "medians": medians,
    "equal_lists": {
      side: sum(map(list.__eq__, own, first)) / len(first)
      for side, own in lists.items()
    },
    "compilations_since_ready": since_ready,
    "compilations_of_calls": compiled,
    "seconds_to_ready": round(server.start_seconds, 2),
  }


def main() -> None:
  """Measures, prints a table, writes JSON."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--workdir", required=True)
  parser.add_argument("--peer", action="store_true")
  parser.add_argument("--concurrency", type=int, nargs="+", default=[16, 1])
  parser.add_argument("--slots", type=int, default=16, help="serve.max_batch")
  parser.add_argument("--requests", type=int, default=200)
  parser.add_argument("--warm", type=int, default=16)
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--cores", type=int, default=os.cpu_count())
  parser.add_argument("--json")
  arguments = parser.parse_args()
  if arguments.peer:
    scratch.ensure_peers("benchmarks.serve")
  found = measure(arguments)
  rows = [
    [side, *map(own.get, _COLUMNS)] for side, own in found["medians"].items()
  ]
  print(table.format_table(["medians of the rounds", *_COLUMNS.values()], rows))
  print(f"equal lists: {found['equal_lists']}")
  if arguments.json:
    about = {"arguments": scratch.named(arguments)}
    about["arguments"]["workdir"] = os.path.basename(arguments.workdir)
    scratch.write_json(
      arguments.json, about | scratch.surroundings(arguments.cores) | found
    )


if __name__ == "__main__":
  main()
