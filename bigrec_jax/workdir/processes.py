"""The processes of one run: what the first does alone, and who waits.

With `--distributed` every process runs the same modes over the same workdir,
which all of them must see. Devices are shared by all; files are written, and
questions about files answered, by the first process alone, so that none acts
on what another is just changing. A single process needs no JAX for any of it.
"""

import atexit
import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from bigrec_jax import errors
from bigrec_jax.workdir import interrupts

if TYPE_CHECKING:
  from bigrec_jax.workdir import lookout

_FAILED = -1
_TOLD = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
# JAX's own, of processes that hang; those that die are found by the lookout.
_HEARTBEAT_SECONDS = 600
_DETECT_SECONDS = 300
_lookout: "lookout.Lookout | None" = None


def are_asked_for(arguments: Sequence[str]) -> bool:
  """Returns whether a command line, not parsed yet, is of several processes."""
  flags = {argument.lstrip("-").lower() for argument in arguments[1:]}
  return not flags.isdisjoint(
    {"distributed", "distributed=true", "distributed=1"}
  )


def expect_others(arguments: Sequence[str]) -> None:
  """Looks out for the other processes of the run, before JAX is imported.

  Whoever dies after that is missed. Where the environment doesn't say who is
  who, JAX has to find out first, see `join`, which also says what is wrong.

  Args:
    arguments: the command line, not parsed yet.
  """
  if not are_asked_for(arguments):
    return
  address, count, own = (os.environ.get(name, "") for name in _TOLD)
  if address and count.isdigit() and own.isdigit() and int(own) < int(count):
    with contextlib.suppress(errors.UserError):
      _look_out(address, int(count), int(own))
  interrupts.join(_lookout)


def _look_out(address: str, count: int, own: int) -> "lookout.Lookout":
  global _lookout
  from bigrec_jax.workdir import lookout

  if _lookout is None:
    _lookout = lookout.Lookout(address, count, own)
    interrupts.join(_lookout)
    # Registered before JAX's own farewell, so called after it.
    atexit.register(_lookout.bye, 0)
  return _lookout


def join() -> None:
  """Connects this process to the others of the run.

  TPU pods and SLURM say themselves who is who. Elsewhere the environment does:
  JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.

  Raises:
    UserError: it isn't known who is who, or not all are found.
  """
  import jax
  from jax._src import clusters

  # It has a handler of SIGTERM of its own; see workdir/interrupts.py.
  jax.config.update("jax_enable_preemption_service", False)
  address, *numbers = (os.environ.get(name) for name in _TOLD)
  try:
    count, own = (None if n is None else int(n) for n in numbers)
    devices = None
    if address is None or count is None or own is None:
      detect = clusters.ClusterEnv.auto_detect_unset_distributed_params
      address, count, own, devices = detect(
        address, count, own, None, None, _DETECT_SECONDS
      )
    inner = None
    if address is not None and count is not None and own is not None:
      inner = _look_out(address, count, own).meet()
    jax.distributed.initialize(
      coordinator_address=inner,
      coordinator_bind_address=inner,
      num_processes=count,
      process_id=own,
      local_device_ids=devices,
      heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
    )
  except ValueError as error:
    raise errors.UserError(
      f"--distributed: {' '.join(str(error).split())}; on a TPU pod or under"
      " SLURM nothing more is needed, elsewhere JAX_COORDINATOR_ADDRESS"
      " (host:port), JAX_NUM_PROCESSES and JAX_PROCESS_ID are expected in the"
      " environment"
    ) from None


def leave(status: int) -> None:
  """Tells the others that this process ends, and how."""
  if _lookout is not None:
    _lookout.bye(status)


def are_several() -> bool:
  """Returns whether other processes are looked out for, joined or not yet."""
  return _lookout is not None


def joined() -> bool:
  """Returns whether this is one process of several."""
  # Whoever joined processes has imported JAX; others need not pay for it.
  jax = sys.modules.get("jax")
  return jax is not None and jax.distributed.is_initialized()


def is_first() -> bool:
  """Returns whether this process writes files; a single one does."""
  if not joined():
    return True
  import jax

  return jax.process_index() == 0


def on_first(work: Callable[[], object]) -> None:
  """Runs `work` in the first process; all return once it is done.

  It begins once all are here, so none still reads what it changes.

  Args:
    work: what writes files.

  Raises:
    Exception: what `work` raised; in the other processes a UserError.
  """

  def done() -> bool:
    work()
    return True

  if joined():
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices("on_first")
  ask(done)


def agree(question: Callable[[], bool]) -> bool:
  """Returns the first process's answer in all of them; see `ask`."""
  return bool(ask(question))


def ask(question: Callable[[], int]) -> int:
  """Returns the first process's answer in all of them.

  Args:
    question: asked in the first process only; a number of at least 0.

  Raises:
    Exception: what `question` raised; in the other processes a UserError.
  """
  if not joined():
    return question()
  import numpy as np
  from jax.experimental import multihost_utils

  answer, problem = _FAILED, None
  if is_first():
    try:
      answer = int(question())
    except BaseException as error:  # Whatever it is, the others must not wait.
      problem = error
  agreed = int(multihost_utils.broadcast_one_to_all(np.int32(answer)))
  if problem is not None:
    raise problem
  if agreed == _FAILED:
    raise errors.UserError("stopped, because the first process was; see there")
  return agreed
