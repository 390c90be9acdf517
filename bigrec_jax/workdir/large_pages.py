"""Large pages for what malloc maps, which programs on a CPU need most.

XLA asks malloc for a program's temporaries anew at each call, a gigabyte or
more, and glibc maps such blocks for themselves and unmaps them when freed. In
pages of 4 KiB faults take much of a training step (docs/performance.md, 135 M
parameters). glibc asks the kernel for large pages only if an environment
variable says so when the process starts.
"""

import os
import pathlib
import sys

_VARIABLE, _TUNABLE = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"
_KERNEL = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")


def are_to_be_asked_for() -> bool:
  """Says whether the kernel gives large pages, and glibc doesn't ask yet."""
  if _TUNABLE in os.environ.get(_VARIABLE, ""):
    return False
  try:
    # "always" needs no asking, "never" hears none.
    return "[madvise]" in _KERNEL.read_text(encoding="ascii")
  except OSError:
    return False


def ask() -> None:
  """Starts this command anew, in the same process, where that is of use.

  To be called first of all; what a C library doesn't know it passes over.
  """
  if not are_to_be_asked_for():
    return
  given = os.environ.get(_VARIABLE)
  wanted = f"{_TUNABLE}=1"
  os.environ[_VARIABLE] = f"{given}:{wanted}" if given else wanted
  os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
