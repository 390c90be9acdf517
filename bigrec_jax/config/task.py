"""Section `task`: which system of the literature runs."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class TaskConfig:
  """What samples, texts, loss and evaluation are (bigrec_jax/tasks).

  The name is checked where tasks are found by it (tasks/registry.py).
  """

  name: str
