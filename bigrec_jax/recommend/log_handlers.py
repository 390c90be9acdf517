"""Keeps absl from setting up logging in a program that has not.

The first absl message of a process calls `logging.basicConfig` where the root
logger has no handler, which whoever imports a library may not want, and which
turns their own later `basicConfig` into nothing.
"""

import contextlib
import logging
import threading
from collections.abc import Iterator

_lock = threading.Lock()
_inside = 0
# What Python itself prints warnings with where nobody set anything up.
_handler = logging.lastResort or logging.NullHandler()


@contextlib.contextmanager
def left_alone() -> Iterator[None]:
  """Leaves the root logger's handlers as they are, in all threads inside."""
  global _inside
  root = logging.getLogger()
  with _lock:
    if not root.handlers:
      root.addHandler(_handler)
    _inside += 1
  try:
    yield
  finally:
    with _lock:
      _inside -= 1
      if not _inside:
        root.removeHandler(_handler)
