"""A server of ours as a process, and what is asked and expected of it."""

import dataclasses
import pathlib
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import Self

from benchmarks import children
from bigrec_jax.config import MeshConfig
from bigrec_jax.recommend import (
  choice,
  finished,
  loaded as loaded_lib,
  recommender as recommender_lib,
  remembered,
)
from bigrec_jax.workdir import paths as paths_lib

ROOT = pathlib.Path(__file__).resolve().parents[1]
_URL = re.compile(r"http://127\.0\.0\.1:(\d+)")


class Server:
  """A process that listens, from `with` on until its end.

  Attributes:
    port: where.
    process: that does.
    start_seconds: until it was ready.
  """

  def __init__(self, command: list[str], ready: str):
    """Starts it.

    Args:
      command: prints a line with its address.
      ready: path that answers 200 once it is.
    """
    start = time.perf_counter()
    self.process = children.start(
      [sys.executable, *command],
      cwd=ROOT,
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      text=True,
    )
    assert self.process.stdout is not None
    for line in self.process.stdout:
      if found := _URL.search(line):
        self.port = int(found[1])
        break
    else:
      raise RuntimeError(f"{command}: ended before it listened")
    while not self._is_ready(ready):
      if self.process.poll() is not None:
        raise RuntimeError(f"{command}: ended before it was ready")
      time.sleep(0.2)
    self.start_seconds = time.perf_counter() - start

  def _is_ready(self, path: str) -> bool:
    try:
      url = f"http://127.0.0.1:{self.port}{path}"
      with urllib.request.urlopen(url, timeout=30) as answer:
        return answer.status == 200
    except (urllib.error.URLError, OSError):
      return False

  def metrics(self) -> dict[str, float]:
    """Returns the numbers that Prometheus would read, by name."""
    url = f"http://127.0.0.1:{self.port}/metrics"
    with urllib.request.urlopen(url, timeout=30) as answer:
      lines = answer.read().decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *error: object) -> None:
    self.stop()

  def stop(self) -> int:
    """Ends it by SIGTERM; returns its exit status."""
    self.process.send_signal(signal.SIGTERM)
    return self.process.wait(120)


def ours(workdir: str, fallback: bool, **keys: object) -> Server:
  """Starts `--mode=serve` on any free port.

  Args:
    workdir: finished.
    fallback: `recommend.fallback`.
    **keys: of `serve`.
  """
  given = [f"--config.serve.{key}={value}" for key, value in keys.items()]
  command = ["main.py", "--mode=serve", f"--workdir={workdir}"]
  command += ["--config.serve.port=0", "--config.recommend.injection=none"]
  command += [f"--config.recommend.fallback={fallback}"]
  command += ["--config.mesh.data=-1", "--config.mesh.fsdp=1", *given]
  return Server(command, "/health/ready")


def load(workdir: str, fallback: bool) -> loaded_lib.Loaded:
  """Returns a workdir with the settings of `ours`."""
  paths = paths_lib.Paths(pathlib.Path(workdir))
  config = remembered.config(paths, "none", None, MeshConfig(-1, 1, 1))
  own = dataclasses.replace(config.recommend, fallback=fallback)
  return loaded_lib.Loaded(
    dataclasses.replace(config, recommend=own), paths.root
  )


def recommender(workdir: str, fallback: bool) -> recommender_lib.Recommender:
  """Returns whose answers `ours` has to give."""
  loaded = load(workdir, fallback)
  adapter = finished.find_adapter(loaded)
  items = finished.load_embeddings(loaded)
  found = choice.choose(loaded, loaded.adapter_fingerprint(adapter))
  return recommender_lib.Recommender(loaded, adapter, items, found.chosen)


def histories(workdir: str, count: int) -> list[list[str]]:
  """Returns histories of the test split, as external ids; again from 0."""
  loaded = load(workdir, fallback=False)
  rows, ids = loaded.examples("test").history, loaded.catalogue.external_ids
  return [
    [ids[item] for item in rows[n % len(rows)] if item >= 0]
    for n in range(count)
  ]
