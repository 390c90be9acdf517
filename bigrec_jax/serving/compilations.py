"""How many programs this process has compiled, by JAX's own events."""

import threading

_EVENT = "/jax/core/compile/backend_compile_duration"
_lock = threading.Lock()
_count = 0
_listening = False


def _heard(event: str, duration_secs: float, **_: str | int) -> None:
  global _count
  del duration_secs
  if event == _EVENT:
    with _lock:
      _count += 1


def listen() -> None:
  """Counts from now on; more calls change nothing."""
  global _listening
  with _lock:
    if _listening:
      return
    _listening = True
  import jax

  jax.monitoring.register_event_duration_secs_listener(_heard)


def count() -> int:
  """Returns how many programs were compiled since `listen`.

  One that the persistent cache had counts, too: it took time.
  """
  return _count
