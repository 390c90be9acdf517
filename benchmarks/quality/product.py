"""The product, as cells use it: stages on workdirs under .scratch/quality."""

import contextlib
import dataclasses
import os
import pathlib
import shutil
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from benchmarks.quality import cells, datasets
from bigrec_jax import config as config_lib
from bigrec_jax.stages import (
  embed,
  history_titles,
  prepare,
  session as session_lib,
)
from bigrec_jax.workdir import locks, parts

# What a copy of a workdir makes again: locks, and the base as it is loaded.
_OWN = (".lock*", "converted_base")
SCRATCH = pathlib.Path(__file__).parents[2] / ".scratch" / "quality"


@dataclasses.dataclass(frozen=True)
class Place:
  """What all cells of a command have in common.

  Attributes:
    data: the data set.
    folder: of the data.
    users: rows of valid and of test.
    results: where cells are written.
    common: of what any number of users has in common.
    work: of the workdirs of this number of users.
  """

  data: str
  folder: pathlib.Path
  users: int
  results: pathlib.Path
  common: pathlib.Path
  work: pathlib.Path

  def changes(self, **keys: Any) -> dict[str, Any]:
    """Returns the data set's keys and others, dots written as `__`."""
    own = {key.replace("__", "."): value for key, value in keys.items()}
    return datasets.flags(self.data, self.folder, self.users) | own

  def name(self, system: str, rows: int, seed: int) -> cells.Name:
    """Returns the name of a cell of this data set."""
    return cells.Name(self.data, system, rows, seed)

  def is_made(self, name: cells.Name) -> bool:
    """Returns whether a cell is there already."""
    return name.path(self.results).exists()


def place(data: str, folder: pathlib.Path, users: int) -> Place:
  """Returns where cells of a data set work and are kept.

  Those of fewer users than the page's show that all works; they stay in the
  scratch folder.
  """
  results = cells.RESULTS
  if users != datasets.USERS:
    results = SCRATCH / f"results-{users}"
  common, work = SCRATCH / data, SCRATCH / f"{data}-{users}"
  return Place(data, folder.resolve(), users, results, common, work)


def set_up_jax() -> None:
  """Keeps compiled programs, as main.py does; before JAX is imported."""
  cache = os.fspath(SCRATCH / ".compilation_cache")
  os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", cache)
  os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


@contextlib.contextmanager
def session(
  workdir: pathlib.Path, changes: Mapping[str, Any], adapter: str = ""
) -> Iterator[session_lib.Session]:
  """Yields a session that writes to a workdir, alone; waits for others.

  Args:
    workdir: of the cell.
    changes: of configs/real.py.
    adapter: PEFT directory to use in place of a trained one.
  """
  config: config_lib.Config = datasets.configuration(dict(changes))
  asked = session_lib.Asked(adapter=adapter, flags=(f"--workdir={workdir}",))
  workdir.parent.mkdir(parents=True, exist_ok=True)
  with locks.turn(workdir), locks.writer(workdir, "benchmarks.quality"):
    yield session_lib.Session(config, workdir, asked)


def prepared(at: Place) -> pathlib.Path:
  """Returns a workdir that holds the prepared data; others are copies."""
  own = at.common / "prepared"
  with session(own, at.changes()) as made:
    made.make(prepare.STAGE)
  return own


def embedded(
  at: Place, name: str, base: str, encoder: str, source: pathlib.Path
) -> pathlib.Path:
  """Returns a workdir that holds the catalogue's embeddings as well.

  Args:
    at: the data set.
    name: of the workdir.
    base: Hugging Face directory.
    encoder: directory of the text encoder; "" = the base.
    source: the prepared workdir.
  """
  own = copied(source, at.common / name)
  keys = {"model__path": base, "embed__model__path": encoder}
  with session(own, at.changes(**keys)) as made:
    made.make(embed.STAGE)
  return own


def copied(source: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
  """Returns a workdir that began as a copy of another; whole or not at all."""
  if not target.exists():
    target.parent.mkdir(parents=True, exist_ok=True)
    half = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.copytree(source, half, ignore=shutil.ignore_patterns(*_OWN))
    half.rename(target)
  return target


def fingerprints(made: session_lib.Session) -> dict[str, str]:
  """Returns what names the items and users of a cell."""
  return {
    "catalogue": made.catalogue.fingerprint,
    **{split: made.examples(split).fingerprint for split in cells.SPLITS},
  }


def ranks(made: session_lib.Session, split: str, ranker: Any) -> np.ndarray:
  """Ranks a split's targets; of equal titles the best rank counts."""
  from bigrec_jax.rankers import engine

  own = engine.Ranks(
    made.examples(split).target,
    len(made.catalogue),
    made.mesh,
    most_users=made.config.ground.batch_size,
    groups=made.catalogue.groups,
  )
  return own(ranker)


def by_words(made: session_lib.Session) -> history_titles.Words:
  """Returns BM25 by the titles of histories; k1 and b are chosen on valid."""
  return history_titles.choose(made, parts.at_once)


class Clock:
  """Wall seconds of the steps of a cell, by name."""

  def __init__(self) -> None:
    self.seconds: dict[str, float] = {}

  @contextlib.contextmanager
  def time(self, name: str) -> Iterator[None]:
    """Adds what happens inside to a step."""
    start = time.perf_counter()
    yield
    spent = time.perf_counter() - start
    self.seconds[name] = self.seconds.get(name, 0.0) + spent
