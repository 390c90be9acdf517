"""A client of its own: HTTP/1.1 over sockets, so many requests at a time.

Nothing of a web library is between the clock and the server. A connection is
used again and again, as behind a proxy.
"""

import asyncio
import dataclasses
import json
import math
import time
from collections.abc import Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Answer:
  """What came back.

  Attributes:
    status: of HTTP.
    body: as sent.
    seconds: from the first byte of the request to the last of the answer.
  """

  status: int
  body: bytes
  seconds: float

  def json(self) -> Any:
    """Returns the body's value."""
    return json.loads(self.body)


class Connection:
  """One connection, which is opened when it is needed."""

  def __init__(self, port: int):
    self._port = port
    self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = (
      None
    )

  async def ask(self, method: str, path: str, body: bytes = b"") -> Answer:
    """Sends a request and reads the answer to its end."""
    start = time.perf_counter()
    if self._streams is None:
      self._streams = await asyncio.open_connection("127.0.0.1", self._port)
    reader, writer = self._streams
    writer.write(request(method, path, body))
    await writer.drain()
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(head.split("content-length:")[1].split("\r\n")[0])
    content = await reader.readexactly(length)
    found = Answer(int(head.split()[1]), content, time.perf_counter() - start)
    if "connection: close" in head:
      self.close()
    return found

  def close(self) -> None:
    """Ends the connection, whatever is under way."""
    if self._streams is not None:
      self._streams[1].close()
      self._streams = None


def request(method: str, path: str, body: bytes) -> bytes:
  """Returns the bytes of a request."""
  return (
    f"{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    f"content-length: {len(body)}\r\n\r\n"
  ).encode() + body


def recommend(history: Sequence[str], k: int) -> bytes:
  """Returns the body that asks for one list."""
  return json.dumps({"histories": [list(history)], "k": k}).encode()


async def load(
  port: int, bodies: Sequence[bytes], concurrency: int
) -> tuple[list[Answer], float]:
  """Sends all bodies, so many at a time; returns answers and seconds.

  Answers are in the order of the bodies.
  """
  found: list[Answer | None] = [None] * len(bodies)
  waiting = iter(range(len(bodies)))

  async def work() -> None:
    connection = Connection(port)
    for n in waiting:
      found[n] = await connection.ask("POST", "/v1/recommend", bodies[n])
    connection.close()

  start = time.perf_counter()
  await asyncio.gather(*(work() for _ in range(concurrency)))
  seconds = time.perf_counter() - start
  return [answer for answer in found if answer is not None], seconds


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
  """Returns median, p90 and p99 in milliseconds, each a value that was."""
  ordered = sorted(seconds)
  return {
    name: round(1e3 * ordered[math.ceil(share * len(ordered)) - 1], 2)
    for name, share in (("median", 0.5), ("p90", 0.9), ("p99", 0.99))
  }
