"""The processes of one run: what the first does alone, and who waits.

With `--distributed` every process runs the same modes over the same workdir,
which all of them must see. Devices are shared by all; files are written, and
questions about files answered, by the first process alone, so that none acts
on what another is just changing. A single process needs no JAX for any of it.
"""

import sys
from collections.abc import Callable

from bigrec_jax import errors

_FAILED = -1


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
