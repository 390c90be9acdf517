"""Memory of programs on a CPU: what they free is kept for the next call.

XLA asks malloc for a program's temporaries anew at each call, from a thread of
its own. glibc maps such blocks for themselves and unmaps them when freed,
whatever its threshold is (32 MiB is the most it takes), so each call pays for
pages that the kernel fills with zeros: a quarter of the CPU time of a training
step of 135 M parameters (docs/performance.md).
"""

import ctypes
import functools
import sys

# Parameters of mallopt, and values, by malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_NEVER = -1


@functools.cache
def keep_freed() -> None:
  """Lets malloc keep what is freed, where the C library is glibc.

  The process then stays as large as it ever was. To be called before JAX has
  started threads: those that there are keep their own arenas, and an arena
  beside the main one maps large blocks whatever it is told.
  """
  if not sys.platform.startswith("linux"):
    return
  mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
  if mallopt is None:
    return
  mallopt(_ARENA_MAX, 1)
  mallopt(_MMAP_MAX, 0)
  mallopt(_TRIM_THRESHOLD, _NEVER)
