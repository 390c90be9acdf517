"""Where a training run keeps its files; two runs of a workdir never mix."""

import dataclasses
import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

from absl import logging

from bigrec_jax.workdir import paths as paths_lib, storage


@dataclasses.dataclass(frozen=True)
class RunFiles:
  """The files of the run that `fingerprint` names.

  Checkpoints of other fingerprints (another learning rate, base or data set)
  stay where they are and are never read: trying something else and coming
  back loses nothing.

  Attributes:
    paths: of the workdir.
    fingerprint: of all that the result depends on.
    write_adapter: (directory, adapter tree) -> None; writes PEFT files.
  """

  paths: paths_lib.Paths
  fingerprint: str
  write_adapter: Callable[[pathlib.Path, Any], None]

  @property
  def checkpoints(self) -> pathlib.Path:
    """This run's Orbax folder."""
    return self.paths.checkpoints / self.fingerprint

  @property
  def metrics(self) -> pathlib.Path:
    """The promised curve, of the run that last ran."""
    return self.paths.train_metrics

  @property
  def tensorboard(self) -> pathlib.Path:
    """Events, one curve a run."""
    return self.paths.tensorboard / f"train-{self.fingerprint}"

  @property
  def profile(self) -> pathlib.Path:
    """Traces of jax.profiler."""
    return self.paths.tensorboard / f"profile-{self.fingerprint}"

  def save_adapter(self, adapter: Any) -> None:
    """Replaces `adapter/` in the PEFT format."""
    self.write_adapter(self.paths.adapter, adapter)

  def claim(self) -> None:
    """Makes the curve in `metrics/` this run's own.

    The curve of the run before is put beside its checkpoints, and ours is
    brought back if we ran before that.
    """
    owner_file = self.paths.checkpoints / "current.json"
    stored = storage.read_json_if_whole(owner_file)
    owner = stored.get("fingerprint") if isinstance(stored, dict) else None
    if owner == self.fingerprint:
      return
    if owner is not None:
      logging.warning(
        "train: other options, data or base than before (%s); its checkpoints"
        " stay in %s, this run has its own",
        owner,
        self.paths.checkpoints / owner,
      )
    if owner is not None and self.metrics.exists():
      os.replace(self.metrics, self._curve(owner))
    if self._curve(self.fingerprint).exists():
      self.metrics.parent.mkdir(parents=True, exist_ok=True)
      shutil.copyfile(self._curve(self.fingerprint), self.metrics)
    storage.write_json(owner_file, {"fingerprint": self.fingerprint})

  def _curve(self, fingerprint: str) -> pathlib.Path:
    return self.paths.checkpoints / f"{fingerprint}.train.jsonl"
