"""The web server: listens, says where, and drains when it is stopped."""

import asyncio
import contextlib
import ipaddress
import pathlib
import signal
import socket
import time
from collections.abc import Callable, Iterator

import uvicorn
from absl import logging

from bigrec_jax import errors
from bigrec_jax.config import ServeConfig
from bigrec_jax.serving import app as app_lib, engine as engine_lib
from bigrec_jax.workdir import interrupts

_BACKLOG = 1024
_LONGEST_TOKEN = 4096
# For whatever the threads do after the last answer.
_JOIN_SECONDS = 10.0


def listen(config: ServeConfig) -> socket.socket:
  """Returns the socket of `serve.host` and `serve.port`.

  Raises:
    UserError: it can't be had.
  """
  try:
    family, _, _, _, address = socket.getaddrinfo(
      config.host, config.port, type=socket.SOCK_STREAM
    )[0]
    found = socket.create_server(address, family=family, backlog=_BACKLOG)
  except (OSError, UnicodeError) as error:
    # Python repeats the address behind what the system says.
    problem = str(getattr(error, "strerror", None) or error).split(" (while")[0]
    raise errors.UserError(
      f"config.serve.host, config.serve.port: {config.host}:{config.port}:"
      f" {problem}; an address of this machine and a free port expected"
    ) from None
  # Connections inherit it. asyncio sets it only where a socket was made with
  # TCP's number, and this one wasn't: an answer's body, written behind its
  # head, then waits for the client to acknowledge that, 40 ms as a rule.
  found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
  return found


def token(config: ServeConfig) -> str:
  """Returns the token of `serve.token_file`; "" = none is asked for.

  Raises:
    UserError: the file can't be read, or holds no token.
  """
  if not config.token_file:
    return ""
  path = pathlib.Path(config.token_file)
  key = f"config.serve.token_file: {path}"
  try:
    with open(path, encoding="utf-8") as file:
      found = file.read(_LONGEST_TOKEN + 1).strip()
  except (OSError, ValueError) as error:
    problem = getattr(error, "strerror", None) or error
    raise errors.UserError(f"{key}: {problem}") from None
  if not found or len(found) > _LONGEST_TOKEN or not found.isprintable():
    raise errors.UserError(
      f"{key}: {len(found)} characters found, one line with a token expected"
    )
  return found


def is_open(host: str) -> bool:
  """Returns whether others than this machine may come."""
  try:
    return not ipaddress.ip_address(host).is_loopback
  except ValueError:
    return host != "localhost"


def run(
  app: app_lib.App,
  engine: engine_lib.Engine,
  sock: socket.socket,
  started: Callable[[], None],
) -> None:
  """Serves until a signal comes, then answers who is there, and returns.

  Args:
    app: what is served.
    engine: started here; its threads have ended afterwards.
    sock: that listens.
    started: called once requests are taken, the first of them refused until
      all is compiled.

  Raises:
    Interrupted: the drain was cut off: somebody was not answered.
    Exception: the engine failed.
  """
  config: ServeConfig = engine.config
  server = _Server(
    uvicorn.Config(
      app.asgi,
      log_config=None,
      access_log=False,
      lifespan="off",
      server_header=False,
      # A client that neither sends nor reads keeps nothing but a socket.
      timeout_keep_alive=int(max(1, config.read_seconds)),
      timeout_graceful_shutdown=int(max(1, config.drain_seconds)),
    ),
    started,
  )
  with _Drain(server, app, config.drain_seconds) as drain:
    engine.start(server.stop)
    asyncio.run(server.serve(sockets=[sock]))
    whole = engine.is_idle
    engine.stop()
    whole &= engine.join(_JOIN_SECONDS)
    if engine.failure is not None:
      raise engine.failure
    if drain.number and not whole:
      raise errors.Interrupted(
        drain.number,
        f"after config.serve.drain_seconds={config.drain_seconds:g} some"
        " requests had no answer",
      )
    drain.ends_well = True
  logging.info("serve: stopped; all requests were answered")


class _Server(uvicorn.Server):
  """Uvicorn, which leaves signals to this program."""

  def __init__(self, config: uvicorn.Config, started: Callable[[], None]):
    super().__init__(config)
    self._started = started

  def stop(self) -> None:
    """Ends it, from any thread: who is there is answered first."""
    self.should_exit = True

  async def startup(self, sockets: list[socket.socket] | None = None) -> None:
    """Does what uvicorn does, and says that it is done."""
    await super().startup(sockets)
    self._started()

  @contextlib.contextmanager
  def capture_signals(self) -> Iterator[None]:
    """Captures none."""
    yield


class _Drain(interrupts.Watch):
  """Has a signal stop the server, in place of the process."""

  said = ""

  def __init__(self, server: _Server, app: app_lib.App, seconds: float):
    super().__init__()
    self._server, self._app, self._limit = server, app, seconds

  def begin_stop(self, number: int, several: bool) -> int | None:
    """Stops taking requests."""
    del several
    self.number = number
    self._app.draining = True
    self._server.stop()
    name = signal.Signals(number).name
    logging.info("serve: %s: answering who is there, then stopping", name)
    return 0

  def is_late(self, since: float) -> bool:
    """Returns whether the drain takes longer than it may."""
    return time.monotonic() - since > self._limit + 2 * _JOIN_SECONDS
