"""The other side of a benchmark, in a process of its own.

A script `peer_*.py` is started with what never changes. It prints a line with
its versions, then a line for each order that it reads; all lines are JSON.
"""

import json
import os
import pathlib
import subprocess
from typing import Any

from benchmarks import children, scratch

_ROOT = pathlib.Path(__file__).resolve().parents[1]


class OtherSide:
  """A running script.

  Attributes:
    versions: of its packages.
  """

  def __init__(self, script: str, *arguments: object):
    """Starts it; returns once it is ready.

    Args:
      script: its name in this folder.
      arguments: what it is given.
    """
    path = pathlib.Path(__file__).with_name(script)
    self._process = children.start(
      [scratch.interpreter(), str(path), *map(str, arguments)],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(_ROOT)},
      text=True,
    )
    self.versions: dict[str, str] = self._read()

  @property
  def pid(self) -> int:
    """Number of the process."""
    return self._process.pid

  def ask(self, order: dict[str, Any]) -> dict[str, Any]:
    """Returns the answer to an order."""
    assert self._process.stdin is not None
    self._process.stdin.write(json.dumps(order) + "\n")
    self._process.stdin.flush()
    return self._read()

  def close(self) -> None:
    """Ends the process."""
    assert self._process.stdin is not None
    self._process.stdin.close()
    self._process.wait()

  def _read(self) -> dict[str, Any]:
    assert self._process.stdout is not None
    return json.loads(self._process.stdout.readline())
