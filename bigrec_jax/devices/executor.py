"""How many programs run side by side, and their threads.

XLA's programs for a CPU leave the second core idle now and then: small
products run on one thread. Another program fills it. On accelerators the host
runs ahead of one program after the other instead. `Executor` is that choice;
training and decoding ask it and know no platform.
"""

import dataclasses
import os
import threading
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import TypeVar

from jax.sharding import Mesh

_MOST = 2  # Each has its own temporaries.
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Executor:
  """Runs the parts of one piece of work.

  Attributes:
    width: how many parts are worth running side by side.
  """

  width: int

  @classmethod
  def of(cls, mesh: Mesh) -> "Executor":
    """Returns the executor of a mesh.

    Programs from different threads run in any order, so more than one only on
    one device: several would wait for each other's collectives.
    """
    alone = mesh.size == 1 and mesh.devices.flat[0].platform == "cpu"
    return cls(min(_MOST, _cores()) if alone else 1)

  @property
  def runs_ahead(self) -> bool:
    """Whether a call returns before its work is done, and the next may go."""
    return self.width == 1

  def team(self) -> "Team":
    """Returns the threads of one piece of work."""
    return Team()


def _cores() -> int:
  """Returns how many cores this process may use."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


class Team:
  """Functions that run side by side until all are done, or one fails.

  Attributes:
    calling: to be held while a program is called: two threads would compile
      it twice. What is called runs on after the call.
    stopped: set when a function failed, or on Ctrl-C; the others look at it
      now and then, and return early.
  """

  def __init__(self):
    self.calling = threading.Lock()
    self.stopped = threading.Event()

  def run(self, functions: Sequence[Callable[[], T]]) -> list[T]:
    """Returns the results in order; the first runs in the caller's thread."""
    with futures.ThreadPoolExecutor(max(1, len(functions) - 1)) as pool:
      others = [pool.submit(self._guard, each) for each in functions[1:]]
      return self._guard(
        lambda: [functions[0](), *(each.result() for each in others)]
      )

  def _guard(self, function: Callable[[], T]) -> T:
    try:
      return function()
    except BaseException:
      self.stopped.set()
      raise
