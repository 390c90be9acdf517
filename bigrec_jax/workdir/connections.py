"""TCP connections between the processes of a run (workdir/lookout.py)."""

import asyncio
import contextlib
import socket

from bigrec_jax import errors

_BLOCK = 1 << 16
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def pass_on(
  reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
  """Passes bytes on until there are no more, whether they arrive or not."""
  with contextlib.suppress(OSError):
    while block := await reader.read(_BLOCK):
      if not writer.is_closing():
        writer.write(block)
        with contextlib.suppress(OSError):
          await writer.drain()


async def connect(host: str, port: int) -> Streams | None:
  """Returns a connection, None where nobody listens."""
  try:
    return await asyncio.open_connection(host, port)
  except OSError:
    return None


def listen(port: int) -> socket.socket:
  """Listens at all addresses of this machine, as JAX does.

  Raises:
    UserError: somebody else does.
  """
  try:
    if socket.has_dualstack_ipv6():
      with contextlib.suppress(OSError):
        return socket.create_server(
          ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024
        )
    return socket.create_server(("", port), backlog=1024)
  except OSError as error:
    raise errors.UserError(
      f"JAX_COORDINATOR_ADDRESS: port {port}: {error.strerror}; does another"
      " run use it?"
    ) from None


def keep_alive(writer: asyncio.StreamWriter) -> None:
  """Has the kernel find a dead host within seven seconds."""
  own = writer.get_extra_info("socket")
  own.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
  for name, value in (
    ("TCP_KEEPIDLE", 3),
    ("TCP_KEEPINTVL", 2),
    ("TCP_KEEPCNT", 2),
    ("TCP_USER_TIMEOUT", 7000),
  ):
    if hasattr(socket, name):  # Linux has all of them.
      own.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
