"""A loss that is NaN or infinite, and what is known of its cause.

Before the first update that moves anything, the learning rate can't be it: the
network itself, where the adapter starts, or a text gives no finite loss.
"""

import math

from bigrec_jax import errors

_START = {
  "train": (
    "the base (its weights, rope_theta, config.model.dtype), config.lora.alpha"
    " or the adapter of config.model.adapter"
  ),
  "pretrain": (
    "config.model.arch (rope_theta, rms_norm_eps) or config.model.dtype"
  ),
}
_UPDATES = {
  "train": (
    "a lower config.train.learning_rate expected, or less config.lora.alpha or"
    " config.train.weight_decay"
  ),
  "pretrain": "a lower config.pretrain.learning_rate expected",
}


class NotFinite(errors.UserError):
  """Training stopped, because a loss or a gradient isn't finite.

  Attributes:
    what: is not, e.g. "loss is nan at step 3".
    step: the one whose texts they are; 0 = those of the evaluation.
    moved: whether an update before it had a learning rate above 0.
  """

  def __init__(self, what: str, step: int, section: str, *, moved: bool):
    """Makes the line.

    Args:
      what: see the class.
      step: likewise.
      section: of the configuration, train or pretrain.
      moved: see the class.
    """
    self.what, self.step, self.moved = what, step, moved
    if moved:
      line = f"after updates; {_UPDATES[section]}"
    else:
      line = (
        "so the learning rate is not the cause: finite numbers of these texts"
        f" expected from {_START[section]}"
      )
    super().__init__(f"training: {what}, {line}")


class Moves:
  """Knows whether any update so far moved the weights."""

  def __init__(self) -> None:
    self.any = False
    self._first = True

  def add(self, step: int, rate: float) -> None:
    """Takes an update, the `step`th one; a resumed run begins later."""
    self.any |= rate > 0 or (self._first and step > 1)
    self._first = False


def check(
  values: dict[str, float], step: int, section: str, moves: Moves
) -> None:
  """Raises NotFinite where a metric of a step is no number.

  Args:
    values: by name; those of a step are of the weights before its update.
    step: its number, from 1.
    section: train or pretrain.
    moves: the updates before this step.
  """
  for name in sorted(values, key=lambda name: name != "loss"):
    if not math.isfinite(values[name]):
      what = f"{name} is {values[name]} at step {step}"
      if not moves.any:
        what += ", before any update"
      raise NotFinite(what, step, section, moved=moves.any)
