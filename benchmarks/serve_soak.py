"""What a server lives through: clients that die, dawdle and send rubbish.

  python -m benchmarks.serve_soak --workdir=runs/demo --minutes=10 --json=x.json

Some clients ask for lists all the time, and every answer is compared with that
of a `Recommender` in another process. Beside them others close connections in
the middle of a request or before its answer, send a body a byte at a time,
never read, send bodies that are damaged at random, and add, withdraw and roll
back items. Memory, open files and compilations are read from /metrics all the
while; the last quarter of the time is compared with the second. At the end a
SIGTERM comes in the middle of requests. The workdir is copied first, so the
editions are of the copy.
"""

import argparse
import asyncio
import collections
import json
import os
import pathlib
import random
import shutil
import statistics
import tempfile
import time
from typing import Any

from benchmarks import http_client, other_side, scratch, serving

_K = 10
_HISTORIES = 64
# Beside those who are fine: each of these all the time.
_EVIL = ("dies early", "dies late", "dawdles", "never reads", "rubbish")


class Soak:
  """One run.

  Attributes:
    counts: what happened, by kind.
    wrong: answers that weren't the expected ones, or didn't come.
  """

  def __init__(
    self, port: int, asked: list[list[str]], expected: list[list[str]]
  ):
    self.counts: collections.Counter[str] = collections.Counter()
    self.wrong: list[str] = []
    self.seconds: list[float] = []
    self._port = port
    self._bodies = [http_client.recommend(own, _K) for own in asked]
    self._expected = expected
    self._random = random.Random(0)
    self.stopping = self.over = False

  @property
  def _good(self) -> str:
    """What a good request counts as; one that is cut off is wrong before."""
    return "good after SIGTERM" if self.stopping else "good"

  async def good(self) -> None:
    """Asks for lists and compares each."""
    connection = http_client.Connection(self._port)
    while not self.over:
      n = self._random.randrange(len(self._bodies))
      try:
        answer = await connection.ask("POST", "/v1/recommend", self._bodies[n])
      except (OSError, asyncio.IncompleteReadError):
        self.counts[f"{self._good}: connection lost"] += 1
        if not self.stopping:
          self.wrong.append(f"{n}: connection lost")
        connection.close()
        await asyncio.sleep(0.05)
        continue
      self.counts[f"{self._good}: {answer.status}"] += 1
      if answer.status == 200:
        self.seconds.append(answer.seconds)
        (found,) = answer.json()["recommendations"]
        ids = [item["external_id"] for item in found]
        if ids != self._expected[n]:
          self.counts["wrong answers"] += 1
          self.wrong.append(f"{n}: {ids} in place of {self._expected[n]}")
      elif answer.status in (429, 503):
        await asyncio.sleep(0.05)
    connection.close()

  async def evil(self, kind: str) -> None:
    """Misbehaves in one way, again and again."""
    while not self.over:
      self.counts[kind] += 1
      try:
        await asyncio.wait_for(self._evil(kind), 15)
      except (OSError, TimeoutError, asyncio.IncompleteReadError):
        pass
      await asyncio.sleep(0.02)

  async def _evil(self, kind: str) -> None:
    body = self._random.choice(self._bodies)
    if kind == "rubbish":
      connection = http_client.Connection(self._port)
      answer = await connection.ask(
        "POST", "/v1/recommend", self._damaged(body)
      )
      self.counts[f"rubbish: {answer.status}"] += 1
      if answer.status >= 500 and answer.status != 503:
        self.counts["rubbish: server errors"] += 1
        self.wrong.append(answer.body.decode(errors="replace")[:300])
      connection.close()
      return
    reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
    try:
      whole = http_client.request("POST", "/v1/recommend", body)
      if kind == "dies early":
        writer.write(whole[: self._random.randrange(1, len(whole))])
        await writer.drain()
      elif kind == "dies late":
        writer.write(whole)
        await writer.drain()
        await asyncio.sleep(self._random.random() * 0.05)
      elif kind == "dawdles":
        for byte in whole:
          writer.write(bytes([byte]))
          await writer.drain()
          await asyncio.sleep(0.005)
        await reader.readuntil(b"\r\n\r\n")
      else:  # Asks for much and never reads.
        for _ in range(20):
          writer.write(whole)
        await asyncio.sleep(5)
    finally:
      writer.transport.abort()  # No farewell.

  def _damaged(self, body: bytes) -> bytes:
    choice = self._random.randrange(5)
    if choice == 0:
      return bytes(self._random.randrange(256) for _ in range(64))
    if choice == 1:
      return body[: self._random.randrange(len(body))]
    if choice == 2:
      return b"[" * self._random.randrange(1, 100_000)
    if choice == 3:
      value = json.loads(body)
      key = self._random.choice([*value, "allow", "deadline_ms", "surprise"])
      value[key] = self._random.choice([None, -1, 1e300, "x", [[["x"]]], {}])
      return json.dumps(value).encode()
    flipped = bytearray(body)
    for _ in range(3):
      flipped[self._random.randrange(len(flipped))] ^= 1 << 6
    return bytes(flipped)

  async def changing(self) -> None:
    """Adds an item nobody is near to, withdraws it, and rolls both back."""
    connection = http_client.Connection(self._port)
    number = 0
    while not self.over:
      number += 1
      item = {"external_id": f"soak{number}", "title": f"\u6f22 {number}"}
      for path, content in (
        ("", {"items": [item]}),
        ("/withdraw", {"external_ids": [item["external_id"]]}),
        ("/rollback", {}),
        ("/rollback", {}),
      ):
        answer = await connection.ask(
          "POST", f"/v1/catalogue{path}", json.dumps(content).encode()
        )
        self.counts[f"catalogue{path}: {answer.status}"] += 1
        if answer.status != 200:
          break
      await asyncio.sleep(2)


async def _run(
  soak: Soak, server: serving.Server, minutes: float, clients: int, change: bool
) -> list[dict[str, float]]:
  tasks = [asyncio.create_task(soak.good()) for _ in range(clients)]
  tasks += [asyncio.create_task(soak.evil(kind)) for kind in _EVIL]
  if change:
    tasks.append(asyncio.create_task(soak.changing()))
  seen, until = [], time.monotonic() + 60 * minutes
  while time.monotonic() < until:
    await asyncio.sleep(min(2.0, 60 * minutes / 40))
    seen.append(await asyncio.to_thread(server.metrics))
  soak.stopping = True
  server.process.terminate()
  await asyncio.sleep(0.5)
  soak.over = True
  for ended in await asyncio.gather(*tasks, return_exceptions=True):
    # A server that has ended accepts nothing; all else is a mistake of ours.
    gone = isinstance(ended, OSError | asyncio.IncompleteReadError)
    if isinstance(ended, Exception) and not gone:
      raise ended
  return seen


def measure(arguments: argparse.Namespace, workdir: str) -> dict[str, Any]:
  """Returns what happened to a server of a workdir."""
  asked = serving.histories(workdir, _HISTORIES)
  calls = other_side.OtherSide("serve_calls.py", workdir, 1)
  expected = calls.ask({"histories": asked, "k": _K})["lists"]
  calls.close()
  server = serving.ours(workdir, fallback=True, read_seconds=5)
  soak = Soak(server.port, asked, expected)
  seen = asyncio.run(
    _run(soak, server, arguments.minutes, arguments.clients, arguments.change)
  )
  status = server.process.wait(120)
  quarter = max(1, len(seen) // 4)

  def median(part: list[dict[str, float]], name: str) -> float:
    return statistics.median(own[name] for own in part)

  names = ("process_resident_memory_bytes", "process_open_fds")
  return {
    "counts": dict(sorted(soak.counts.items())),
    "wrong": soak.wrong[:5],
    "exit_status": status,
    "compilations_since_ready": max(
      own["bigrec_compilations_since_ready"] for own in seen
    ),
    "waits": http_client.percentiles(soak.seconds),
    **{
      name: {
        "second quarter": median(seen[quarter : 2 * quarter], name),
        "last quarter": median(seen[-quarter:], name),
      }
      for name in names
    },
  }


def main() -> None:
  """Soaks, prints what happened, writes JSON; exit status 1 if it is bad."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--workdir", required=True, help="finished; it is copied")
  parser.add_argument("--minutes", type=float, default=10.0)
  parser.add_argument("--clients", type=int, default=8)
  parser.add_argument(
    "--change",
    action=argparse.BooleanOptionalAction,
    default=True,
    help="the catalogue, too",
  )
  parser.add_argument("--json")
  arguments = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder) / "workdir"
    shutil.copytree(arguments.workdir, root, symlinks=True)
    found = measure(arguments, str(root))
  print(json.dumps(found, indent=2))
  if arguments.json:
    about = {"arguments": scratch.named(arguments)}
    about["arguments"]["workdir"] = os.path.basename(arguments.workdir)
    cores = os.cpu_count() or 1
    scratch.write_json(
      arguments.json, about | scratch.surroundings(cores) | found
    )
  counts = found["counts"]
  bad = len(found["wrong"])
  for path in ("", "/withdraw", "/rollback") if arguments.change else ():
    own = {k: n for k, n in counts.items() if k.startswith(f"catalogue{path}:")}
    # 503 is said while it stops.
    bad += not own.pop(f"catalogue{path}: 200", 0)
    bad += sum(n for k, n in own.items() if not k.endswith(" 503"))
  if bad or found["exit_status"] or found["compilations_since_ready"]:
    raise SystemExit(1)


if __name__ == "__main__":
  main()
