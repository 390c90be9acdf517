"""The file system's limits, as libraries report them, in one line.

A full disk or a read-only one is an OSError where Python writes. TensorStore,
safetensors, tokenizers, ArrayRecord and others raise what they like, of which
the text alone says what happened.
"""

import contextlib
import errno
import logging
import os
import pathlib
import shutil
import sys
import types
from collections.abc import Iterator

from bigrec_jax import errors

# What the machine refuses, and no mistake of this program's.
_LIMITS = (
  errno.ENOSPC,
  errno.EDQUOT,
  errno.EROFS,
  errno.EFBIG,
  errno.EACCES,
  errno.EPERM,
  errno.ENAMETOOLONG,
  errno.ELOOP,
  errno.ENOTDIR,
  errno.EISDIR,
  errno.EMFILE,
  errno.ENFILE,
  errno.EIO,
  errno.ESTALE,
)
_TEXTS = {os.strerror(number).lower(): number for number in _LIMITS}


def as_os_error(error: BaseException) -> OSError | None:
  """Returns what the file system refused, None where it refused nothing.

  Args:
    error: an OSError, one that was raised from an OSError, or any whose text
      is the system's own.
  """
  cause: BaseException | None = error
  while cause is not None and not isinstance(cause, errors.UserError):
    if isinstance(cause, OSError) and cause.errno is not None:
      return cause
    text = str(cause).lower()
    # Of copying a tree: a list of (from, to, why), each why a text.
    copied = cause.args[0] if isinstance(cause, shutil.Error) else None
    for message, number in _TEXTS.items():
      if message in text:
        name = copied[0][1] if copied else None
        return OSError(number, os.strerror(number), name)
    if isinstance(cause, OSError):
      return cause  # A library's own, with words for a number.
    cause = cause.__cause__
  return None


def is_news(record: logging.LogRecord) -> bool:
  """Returns whether a log record says more than that the system refused.

  Libraries log with a traceback what they are going to raise; whoever catches
  it says it in a line.
  """
  error = record.exc_info[1] if record.exc_info else None
  return error is None or as_os_error(error) is None


def excepthook(
  kind: type[BaseException],
  error: BaseException,
  trace: types.TracebackType | None,
) -> None:
  """Shows what nobody caught, but for TensorStore's answers after a failure.

  Its threads report each write to the event loop that waits for them; the
  first that the system refuses closes that loop, and then each one more prints
  a traceback of its own.
  """
  if not (kind is RuntimeError and str(error) == "Event loop is closed"):
    sys.__excepthook__(kind, error, trace)


def line(error: OSError) -> str:
  """Returns the file and what is wrong with it, in one line."""
  # Of two names, as of a renaming, the second is the one that was wanted.
  name = error.filename2 or error.filename
  if isinstance(name, bytes):
    name = os.fsdecode(name)
  if error.strerror is None:  # A library's own message.
    return errors.one_line(" ".join(str(error).split()))
  where = "writing" if name is None or isinstance(name, int) else str(name)
  return errors.one_line(f"{where}: {error.strerror}")


@contextlib.contextmanager
def writing(
  path: str | os.PathLike, temporary: pathlib.Path | None = None
) -> Iterator[None]:
  """Names the file in what its writer raises for the file system's limits.

  Args:
    path: what is being written, a file or a folder.
    temporary: under which name, until it is whole.

  Raises:
    OSError: with the name, whatever the library raised.
  """
  try:
    yield
  except Exception as error:
    found = as_os_error(error)
    if found is None:
      raise
    if found.errno is None:
      # numpy knows how much was written, and not why no more was.
      said = f"not written in whole ({found}); is there room?"
      found = OSError(errno.EIO, said)
    named = found.filename2 or found.filename
    if named is not None and not _is_inside(named, temporary):
      raise  # It is about another file, and says which.
    raise OSError(found.errno, found.strerror, os.fspath(path)) from error


def _is_inside(name: object, folder: pathlib.Path | None) -> bool:
  if folder is None or not isinstance(name, (str, os.PathLike)):
    return False
  return pathlib.Path(name).is_relative_to(folder)
