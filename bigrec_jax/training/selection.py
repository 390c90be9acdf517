"""What decides which adapter of a run is the best, and when to stop."""

import dataclasses
from collections.abc import Callable
from typing import Any

Tree = Any
EVAL_LOSS = "loss"


@dataclasses.dataclass(frozen=True)
class Selection:
  """By the eval loss, unless a task measures something of its own.

  Attributes:
    metric: its name; `eval_<metric>` in metrics/train.jsonl.
    higher_is_better: an equal value is never better.
    measure: adapter -> value on the valid split; None = the eval loss, which
      is measured and written in any case. All processes call it.
    every_steps: optimizer steps between two evaluations, which are also where
      patience counts and checkpoints are kept; 0 = at the end of each epoch.
  """

  metric: str = EVAL_LOSS
  higher_is_better: bool = False
  measure: Callable[[Tree], float] | None = None
  every_steps: int = 0

  def better(self, value: float | None, best: float | None) -> bool:
    """Returns whether `value` beats the best so far; None = not measured."""
    if value is None or best is None:
      return True
    return value > best if self.higher_is_better else value < best

  def due(self, step: int, per_epoch: int, total: int) -> bool:
    """Returns whether to evaluate after optimizer step number `step`."""
    return step == total or step % (self.every_steps or per_epoch) == 0
