"""One tokenizer for many threads, none of which keeps it for long."""

import threading
import time
from collections.abc import Callable, Sequence

# Texts of a turn: some 20 ms for titles behind a prompt's end.
AT_ONCE = 1024


class Turns:
  """Lets threads encode in turns.

  Whether special tokens are split is a setting of a tokenizer, not of a call,
  so one thread may use it at a time. A whole catalogue takes seconds; texts of
  others come in between.
  """

  def __init__(self) -> None:
    self._lock = threading.Lock()

  def __call__(
    self,
    texts: Sequence[str],
    encode: Callable[[list[str]], list[list[int]]],
  ) -> list[list[int]]:
    """Returns the ids of each text.

    Args:
      texts: any number.
      encode: the tokenizer; called with some of the texts, alone.
    """
    found: list[list[int]] = []
    for start in range(0, len(texts), AT_ONCE):
      if start:
        time.sleep(0)  # Whoever waits comes first, as a rule.
      with self._lock:
        found += encode(list(texts[start : start + AT_ONCE]))
    return found
