"""Who of the processes of a run is there, who left, and who is gone.

JAX learns late of a process that died (by heartbeats), and of the first one's
end by a C++ abort with a stack trace. So the processes hold a TCP connection
each to the first, from before JAX is imported, whose end the kernel tells at
once; keepalive probes find a host that lost its power. Whoever ends on purpose
says so before. The first answers at the coordinator's address itself and
passes JAX's own traffic on to JAX; the others reach it through a relay in
their own process, which never shows JAX that the first process is gone, so
that it is this module that ends the process, with one line.

Messages are JSON objects, a line each:

  {"hello": 1, "of": 4}            the first message of a process
  {"refused": why}                 the answer where it isn't wanted
  {"all": true}                    all are here
  {"signal": 15, "at_once": false} one of them was sent a signal
  {"at": 7}                        the last step that this process has done
  {"stop": 9}                      the step after which all stop; null: now
  {"bye": 0}                       this process leaves, with that status
  {"left": 1, "status": 0}         that one did
  {"gone": 1}                      that one did without a word
"""

import asyncio
import contextlib
import json
import socket
import threading
import time
from typing import Any

from bigrec_jax import errors
from bigrec_jax.workdir import connections, interrupts

_MAGIC = b"BIGREC "
GONE = 2  # The exit status where another process is gone.
MEET_SECONDS = 300.0  # As JAX waits.
_RETRY_SECONDS = 0.2
_TELL_SECONDS = 10.0  # Between lines about who is missing.
# A process that failed may have told all others the cause, through JAX.
_OWN_WORDS_SECONDS = 4.0
# For those who come too late, to hear of it.
_LINGER_SECONDS = 3.0
_BYE_SECONDS = 1.0
_Streams = connections.Streams


class Lookout:
  """The connections of this process to the others, served by a thread."""

  def __init__(self, address: str, count: int, own: int):
    """Begins to listen, or to look for the first process.

    Args:
      address: host:port of the first process, as JAX is given it.
      count: of processes.
      own: number of this one.

    Raises:
      UserError: the address can't be used.
    """
    self._count, self._own = count, own
    host, _, port = address.rpartition(":")
    if not port.isdigit():
      raise errors.UserError(
        f"JAX_COORDINATOR_ADDRESS: {address}: host:port expected"
      )
    self._host, self._port, self._address = host.strip("[]"), int(port), address
    self._here = {own: True}  # Of those that are here, whether they still are.
    self._at: dict[int, int] = {}
    self._writers: dict[int, asyncio.StreamWriter] = {}
    self._verdict: dict[str, Any] | None = None  # Why the run is over.
    self._met = threading.Event()
    if count == 1:
      self._met.set()
    self._found_first = threading.Event()
    self._refused = ""
    self._done = False
    self._tasks: set[asyncio.Task] = set()
    public = None
    if own == 0:
      public = connections.listen(self._port)
    # The first process's JAX, or the relay to it.
    self._inner = socket.create_server(("127.0.0.1", 0))
    self._inner_port = self._inner.getsockname()[1]
    if own == 0:
      self._inner.close()  # For JAX to listen there.
    self._loop = asyncio.new_event_loop()
    run = threading.Thread(
      target=self._run, args=(public,), name="lookout", daemon=True
    )
    run.start()

  def meet(self) -> str:
    """Waits until all are here; returns the address to give to JAX.

    Raises:
      UserError: they aren't, for minutes, or this one isn't wanted.
    """
    deadline = time.monotonic() + MEET_SECONDS
    while not self._met.wait(_TELL_SECONDS):
      if time.monotonic() > deadline:
        raise errors.UserError(
          f"--distributed: {self._missing()} not found within"
          f" {MEET_SECONDS:.0f} s; {self._count} expected at {self._address}"
        )
      print(f"waiting for {self._missing()} at {self._address}", flush=True)
    if self._refused:
      raise errors.UserError(f"--distributed: {self._refused}")
    return f"127.0.0.1:{self._inner_port}"

  def tell(self, number: int, at_once: bool) -> None:
    """See interrupts.Others."""
    self._send({"signal": number, "at_once": at_once})

  def agree(self, step: int) -> None:
    """See interrupts.Others."""
    self._send({"at": step})

  def bye(self, status: int) -> None:
    """See interrupts.Others; nothing that comes after ends this process."""
    if self._done:
      return
    self._done = True
    may_wait = threading.current_thread().name != "lookout"
    early = bool(status) and not self._met.is_set() and may_wait
    if early and self._own:
      self._found_first.wait(_LINGER_SECONDS)  # To tell it.
    self._send({"bye": status})
    if early and not self._own:
      time.sleep(_LINGER_SECONDS)

  def _missing(self) -> str:
    if self._own:
      return f"process 0 of {self._count}"
    absent = [str(n) for n in range(self._count) if n not in self._here]
    return f"process {', '.join(absent)} of {self._count}"

  def _send(self, message: dict[str, Any]) -> None:
    """Sends a message of this process, from any thread; returns once it did."""
    if threading.current_thread().name == "lookout":
      self._heard(self._own, message)
      return
    sent = threading.Event()

    def send() -> None:
      try:
        self._heard(self._own, message)
      finally:
        sent.set()

    self._loop.call_soon_threadsafe(send)
    sent.wait(_BYE_SECONDS)

  def _run(self, public: socket.socket | None) -> None:
    asyncio.set_event_loop(self._loop)
    if public is not None:
      serve = asyncio.start_server(self._accept, sock=public)
    else:
      serve = asyncio.start_server(self._relay, sock=self._inner)
      self._start(self._look_for_first())
    self._loop.run_until_complete(serve)
    self._loop.run_forever()

  def _start(self, work: Any) -> None:
    task = self._loop.create_task(work)
    self._tasks.add(task)  # The loop itself keeps only weak references.
    task.add_done_callback(self._tasks.discard)

  def _heard(self, process: int, message: dict[str, Any]) -> None:
    """Deals with a message of a process, which may be this one.

    The first process passes on what concerns all.
    """
    if self._own and process == self._own:
      self._write(0, message)
      return
    if "bye" in message:
      message = {"left": process, "status": message["bye"]}
    if "at" in message:
      self._at[process] = message["at"]
      self._settle()
      return
    if not self._own and not message.get("all"):
      if "gone" in message or message.get("status"):
        self._verdict = self._verdict or message
      for other in list(self._writers):
        if other != process:
          self._write(other, message)
    self._obey(process, message)

  def _obey(self, process: int, message: dict[str, Any]) -> None:
    if "all" in message:
      self._met.set()
    elif "refused" in message:
      self._refused = message["refused"]
      self._met.set()
    elif "signal" in message and process != self._own:
      self._in_thread(
        interrupts.notice, message["signal"], bool(message["at_once"])
      )
    elif "stop" in message:
      self._in_thread(interrupts.decided, message["stop"])
    elif "left" in message:
      self._has_left(message["left"], message["status"])
    elif "gone" in message and not self._done:
      self._start(self._leave_behind(message["gone"], _GONE_LINE, 0.0))

  def _has_left(self, process: int, status: int) -> None:
    self._here[process] = False
    if process == self._own or not status or self._done:
      return
    number = status - 128
    if number in interrupts.SIGNALS:
      self._in_thread(interrupts.notice, number, False)
      self._in_thread(interrupts.decided, None)
      return
    line = f"stopped with status {status}; see its own message"
    self._start(self._leave_behind(process, line, _OWN_WORDS_SECONDS))

  def _settle(self) -> None:
    """Tells all at which step to stop, once each has said where it is."""
    if len(self._at) == self._count:
      self._heard(self._own, {"stop": max(self._at.values()) + 1})

  async def _leave_behind(self, process: int, why: str, wait: float) -> None:
    """Ends this process because another one did."""
    await asyncio.sleep(wait)
    if not self._own and not self._met.is_set():
      await asyncio.sleep(_LINGER_SECONDS)  # Latecomers are told, too.
    if interrupts.pending():  # It has something better to say.
      await asyncio.sleep(_OWN_WORDS_SECONDS)
    if not self._done:
      interrupts.leave(
        f"stopped: process {process} of {self._count} {why}", GONE
      )

  @staticmethod
  def _in_thread(work: Any, *arguments: Any) -> None:
    """Has what may wait for this thread done by another one."""
    threading.Thread(target=work, args=arguments, daemon=True).start()

  def _write(self, process: int, message: dict[str, Any]) -> None:
    writer = self._writers.get(process)
    if writer is not None and not writer.is_closing():
      # Sent at once, if the socket's buffer has room.
      writer.write(json.dumps(message).encode() + b"\n")

  def _lost(self, process: int) -> None:
    """Deals with the end of a connection."""
    self._writers.pop(process, None)
    if self._here.get(process, True) and not self._done:
      self._here[process] = False
      self._heard(process, {"gone": process})

  # The first process.

  async def _accept(
    self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
  ) -> None:
    try:
      first = await reader.readexactly(len(_MAGIC))
    except (OSError, asyncio.IncompleteReadError):
      writer.close()
      return
    if first == _MAGIC:
      await self._welcome(reader, writer)
    else:
      inner = await connections.connect("127.0.0.1", self._inner_port)
      if inner is None:  # JAX doesn't listen yet; they try again.
        writer.close()
        return
      inner[1].write(first)
      await self._join((reader, writer), inner)

  async def _welcome(
    self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
  ) -> None:
    connections.keep_alive(writer)
    hello = json.loads(await reader.readline())
    process, count = hello["hello"], hello["of"]
    why = ""
    if count != self._count:
      why = f"process {process} is of {count}, process 0 of {self._count}"
    elif process in self._here:
      why = f"process {process} of {count} is there already"
    if why or self._verdict is not None:
      answer = {"refused": why} if why else self._verdict
      writer.write(json.dumps(answer).encode() + b"\n")
      await writer.drain()
      return
    self._here[process] = True
    self._writers[process] = writer
    if len(self._here) == self._count:
      self._met.set()
      for other in self._writers:
        self._write(other, {"all": True})
    await self._listen_to(process, reader)

  async def _listen_to(
    self, process: int, reader: asyncio.StreamReader
  ) -> None:
    with contextlib.suppress(OSError, ValueError):
      while line := await reader.readline():
        if not line.endswith(b"\n"):
          break
        self._heard(process, json.loads(line))
    self._lost(process)

  # The others.

  async def _look_for_first(self) -> None:
    while (found := await connections.connect(self._host, self._port)) is None:
      await asyncio.sleep(_RETRY_SECONDS)
    reader, writer = found
    connections.keep_alive(writer)
    hello = {"hello": self._own, "of": self._count}
    writer.write(_MAGIC + json.dumps(hello).encode() + b"\n")
    self._writers[0] = writer
    self._here[0] = True
    self._found_first.set()
    await self._listen_to(0, reader)

  async def _relay(
    self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
  ) -> None:
    outer = await connections.connect(self._host, self._port)
    if outer is None:
      writer.close()
      return
    await self._join((reader, writer), outer)

  async def _join(self, here: _Streams, there: _Streams) -> None:
    """Passes bytes on in both directions until `here` ends.

    In the first process the end of either ends both. In the others the end of
    the connection to the first is kept from JAX, which would abort.
    """
    back = self._loop.create_task(connections.pass_on(there[0], here[1]))
    if not self._own:
      back.add_done_callback(lambda _: here[1].close())
    await connections.pass_on(here[0], there[1])
    there[1].close()
    back.cancel()
    here[1].close()


_GONE_LINE = (
  "is gone; the same command goes on from what is on disk, also with another"
  " number of processes"
)
