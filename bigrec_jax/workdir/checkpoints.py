"""Checkpoints: a thin layer over Orbax.

A checkpoint is one folder named by its step with three items: `state` (arrays,
sharded), `data` (the data stream's position, JSON) and `config` (what made it
and the books of the run, JSON). Orbax writes in the background and renames
the folder into place once it is whole; it restores onto any mesh.

Orbax doesn't notice a flipped byte in an array, so a checkpoint also gets a
seal: the digests of its files, written after it is whole and checked before
it is read.
"""

import os
import pathlib
import shutil
from collections.abc import Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self

import jax
import orbax.checkpoint as ocp
from absl import logging

from bigrec_jax import errors
from bigrec_jax.workdir import faults, paths as paths_lib, processes, seals

Tree = Any

# What damaged files make Orbax raise, found by cutting, removing and flipping
# each file of a checkpoint in turn.
_DAMAGE = (ValueError, KeyError, OSError, TypeError, errors.UserError)
_ITEMS = ("state", "data", "config")


class Checkpoint(NamedTuple):
  """What a checkpoint holds.

  Attributes:
    step: optimizer steps taken.
    state: tree of arrays.
    data: position of the data stream, JSON-able.
    config: what the caller keeps beside the arrays, JSON-able.
  """

  step: int
  state: Tree
  data: Mapping[str, Any]
  config: Mapping[str, Any]


class Checkpoints:
  """The checkpoints of one run; use as a context manager, or close."""

  def __init__(
    self, directory: str | os.PathLike, keep: int, *, read_only: bool = False
  ):
    """Opens a folder of checkpoints; makes it where it's missing.

    Args:
      directory: holds one folder a checkpoint.
      keep: how many of the latest to keep.
      read_only: write and remove nothing; the folder has to be there.
    """
    self.directory = paths_lib.real(directory)
    self._read_only = read_only
    # Orbax's own `read_only` warns of each thing that it will not do.
    options = ocp.CheckpointManagerOptions(
      max_to_keep=None if read_only else keep,
      create=not read_only,
      # Left by a kill in the middle of a write.
      cleanup_tmp_directories=not read_only,
      enable_async_checkpointing=not read_only,
    )
    self._manager = ocp.CheckpointManager(
      self.directory, options=options, item_names=_ITEMS
    )

  def __enter__(self) -> Self:
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    if kind is None:
      self.close()
      return
    # The other processes may be elsewhere: nothing may wait for them here.
    try:
      if not self._read_only:
        self._manager.wait_until_finished()
        if processes.is_first():
          self._seal_all()
      self._manager.close()
    except Exception as second:
      # What stopped the block says more than that nothing could be saved.
      if faults.as_os_error(second) is None:
        raise

  def save(
    self,
    step: int,
    state: Tree,
    data: Mapping[str, Any],
    config: Mapping[str, Any],
  ) -> None:
    """Starts to write a checkpoint; returns once the arrays are copied.

    A checkpoint of the same step is replaced: the end of an epoch may follow
    a periodic save of the same step, with newer books.
    """
    self.wait()
    with faults.writing(self.directory, self.directory):
      if step in self._manager.all_steps():
        self._manager.delete(step)
      self._manager.save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(state),
          data=ocp.args.JsonSave(dict(data)),
          config=ocp.args.JsonSave(dict(config)),
        ),
        force=True,
      )

  def steps(self) -> list[int]:
    """Returns the steps on disk, oldest first."""
    return sorted(self._manager.all_steps())

  def restore_latest(self, like: Tree) -> Checkpoint | None:
    """Returns the latest whole checkpoint, or None where there is none.

    A damaged one is passed over, aloud, for the one before it, and removed so
    that its step can be written again. Where none can be read they are set
    aside, aloud, and there is none.

    Args:
      like: tree of arrays or jax.ShapeDtypeStruct with the shapes, dtypes and
        shardings to restore to, whatever mesh the checkpoint was written on.

    Raises:
      UserError: this only reads, and none of the checkpoints can be read.
    """
    self.wait()
    steps = self.steps()
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    for step in reversed(steps):
      try:
        checkpoint = self._restore(step, abstract)
      except _DAMAGE as error:
        logging.error(
          "checkpoint %s can't be read (%s); trying the one before it",
          self.directory / str(step),
          " ".join(str(error).split())[:200],
        )
        continue
      if not self._read_only:
        for damaged in [s for s in steps if s > step]:
          self._manager.delete(damaged)
      return checkpoint
    if steps and self._read_only:
      raise errors.UserError(
        f"{self.directory}: none of the checkpoints {steps} can be read"
      )
    if steps:
      self._set_aside(steps)
    return None

  def _set_aside(self, steps: list[int]) -> None:
    """Makes room to start again; nothing is thrown away."""
    aside = self.directory.with_name(f"{self.directory.name}.unreadable")

    def move() -> None:
      aside.mkdir(exist_ok=True)
      for step in steps:
        shutil.rmtree(aside / str(step), ignore_errors=True)
        (self.directory / str(step)).rename(aside / str(step))

    processes.on_first(move)
    self._manager.reload()
    logging.error(
      "%s: none of the checkpoints %s can be read: they are kept in %s, and"
      " this starts again from the beginning",
      self.directory,
      steps,
      aside,
    )

  def _restore(self, step: int, abstract: Tree) -> Checkpoint:
    seals.check(self.directory / str(step))
    restored = self._manager.restore(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardRestore(abstract),
        data=ocp.args.JsonRestore(),
        config=ocp.args.JsonRestore(),
      ),
    )
    return Checkpoint(step, restored.state, restored.data, restored.config)

  def wait(self) -> None:
    """Returns once everything is on disk, and sealed."""
    if self._read_only:
      return
    with faults.writing(self.directory, self.directory):
      self._manager.wait_until_finished()
    processes.on_first(self._seal_all)

  def _seal_all(self) -> None:
    for step in self._manager.all_steps():
      seals.seal(self.directory / str(step))

  def close(self) -> None:
    """Waits for the writes and releases the folder."""
    self.wait()
    self._manager.close()


def read_latest(directory: str | os.PathLike, like: Tree) -> Checkpoint | None:
  """Returns the latest whole checkpoint, or None; writes nothing.

  Args:
    directory: of the checkpoints; it may be missing.
    like: see `Checkpoints.restore_latest`, which also says what is raised.
  """
  if not pathlib.Path(directory).is_dir():
    return None
  with Checkpoints(directory, keep=1, read_only=True) as saved:
    return saved.restore_latest(like)
