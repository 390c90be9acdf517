"""A cell as a file: metrics and the rank of every user, no data of anybody.

{"schema", "commit", "data", "system", "rows", "seed", "settings", "hardware",
"versions", "seconds", "fingerprints", "measured": {name: {split: {"hr",
"ndcg", "ranks"}}}}. Ranks are uint32, 0 = best, zlib and base64; the users are
those of `fingerprints`, in their order, whose labels are in users.json beside.
"""

import base64
import dataclasses
import importlib.metadata
import os
import pathlib
import platform
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks import scratch
from bigrec_jax.results import clusters, metrics
from bigrec_jax.workdir import storage

SPLITS = ("valid", "test")
CUTOFFS = (1, 3, 5, 10, 20, 50)
RESULTS = pathlib.Path(__file__).parents[1] / "results" / "quality"
SCHEMA = 1
USERS = "users.json"
_PACKAGES = ("jax", "jaxlib", "flax", "numpy")


@dataclasses.dataclass(frozen=True)
class Name:
  """What a cell is of.

  Attributes:
    data: the data set.
    system: model and variant, such as sasrec or smollm2-minilm.
    rows: train rows it has seen; 0 = none, -1 = all.
    seed: of the sample of rows, the weights and the order.
  """

  data: str
  system: str
  rows: int
  seed: int

  @property
  def file(self) -> str:
    """The file's name, e.g. sasrec-1024-0.json."""
    rows = "all" if self.rows == -1 else str(self.rows)
    return f"{self.system}-{rows}-{self.seed}.json"

  def path(self, folder: pathlib.Path) -> pathlib.Path:
    """Returns where the cell is under a folder of results."""
    return folder / self.data / self.file


def pack(values: np.ndarray) -> str:
  """Returns whole numbers [N] as text; `unpack` gives them back."""
  values = np.asarray(values)
  if values.min() < 0 or values.max() >= 1 << 32:
    raise ValueError(f"{values.min()} to {values.max()}: no uint32")
  content = values.astype("<u4").tobytes()
  # Bytes of equal weight lie together: the upper ones are nearly all zero.
  planes = np.frombuffer(content, np.uint8).reshape(-1, 4).T.tobytes()
  return base64.b64encode(zlib.compress(planes, 9)).decode("ascii")


def unpack(text: str) -> np.ndarray:
  """Returns the numbers [N] int64 that `pack` made a text of."""
  planes = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)
  content = np.ascontiguousarray(planes.reshape(4, -1).T).tobytes()
  return np.frombuffer(content, "<u4").astype(np.int64)


def measured(ranks: np.ndarray) -> dict[str, Any]:
  """Returns a row of one split: metrics and ranks."""
  return {**metrics.summarise(ranks, CUTOFFS), "ranks": pack(ranks)}


def write(
  folder: pathlib.Path,
  name: Name,
  rows: Mapping[str, Mapping[str, Mapping[str, Any]]],
  settings: Mapping[str, Any],
  fingerprints: Mapping[str, str],
  seconds: Mapping[str, float],
) -> None:
  """Writes a cell.

  Args:
    folder: of all results.
    name: of the cell.
    rows: by name and split: `measured`, or metrics alone.
    settings: that count, which were chosen on valid and of how many.
    fingerprints: of catalogue, valid and test.
    seconds: by step, wall time.
  """
  result = {
    "schema": SCHEMA,
    **dataclasses.asdict(name),
    "settings": dict(settings),
    "hardware": {
      "processor": _processor(),
      "cores": os.cpu_count(),
      "load": round(os.getloadavg()[0], 1),
    },
    "versions": {
      "python": platform.python_version(),
      **{package: importlib.metadata.version(package) for package in _PACKAGES},
    },
    "seconds": {key: round(value, 1) for key, value in seconds.items()},
    "fingerprints": dict(fingerprints),
    "measured": {key: dict(value) for key, value in rows.items()},
  }
  path = name.path(folder)
  path.parent.mkdir(parents=True, exist_ok=True)
  scratch.write_json(path, result)
  print(f"wrote {path}", flush=True)


def _processor() -> str:
  """Returns what the processor calls itself."""
  try:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
  except OSError:
    lines = []
  named = [line.partition(":")[2] for line in lines if "model name" in line]
  return named[0].strip() if named else platform.machine()


def read_all(folder: pathlib.Path) -> list[dict[str, Any]]:
  """Returns every cell of a folder of results, in the order of their names.

  Raises:
    ValueError: a file is of another version, or of other users than the rest
      of its data set.
  """
  found = []
  known: dict[str, Any] = {}
  for path in sorted(folder.glob("*/*.json")):
    if path.name == USERS:
      continue
    cell = storage.read_json(path)
    if cell.get("schema") != SCHEMA:
      raise ValueError(f"{path}: schema {cell.get('schema')}, not {SCHEMA}")
    users = {key: cell["fingerprints"][key] for key in ("catalogue", *SPLITS)}
    if known.setdefault(cell["data"], users) != users:
      raise ValueError(f"{path}: other users or items than the cells before it")
    found.append(cell)
  return found


def owners(
  folder: pathlib.Path, data: str, rows: int | None = None
) -> clusters.Clusters | None:
  """Returns whose the first test rows of a data set are, by users.json.

  Args:
    folder: of the results.
    data: the data set.
    rows: how many; None = all of the page.

  Returns:
    None where each row is of another user, or the file isn't made.
  """
  users = read_users(folder, data)
  if users is None:
    return None
  return clusters.of_owners(unpack(users["owners"]["test"])[:rows])


def read_users(folder: pathlib.Path, data: str) -> dict[str, Any] | None:
  """Returns users.json of a data set, None where it isn't made."""
  path = folder / data / USERS
  return storage.read_json(path) if path.exists() else None
