"""What a task adds to the plain programs, as far as it can be told."""

import dataclasses
import math
from collections.abc import Sequence

from jax.sharding import Mesh

from bigrec_jax import errors
from bigrec_jax.models import Architecture
from bigrec_jax.planning import arguments
from bigrec_jax.tasks import protocol

# A weight, Adam's two moments and the sum of its gradients.
_COPIES = 4


@dataclasses.dataclass(frozen=True)
class OfTask:
  """What is counted of a task.

  Attributes:
    parameters: weights of its own, trained beside the adapter.
    bytes: that they take of a device in training.
    samples: that an epoch reads; None = the train rows.
    notes: what a plan says: what isn't counted, and what isn't run.
    counts_all: whether nothing of it was left out.
  """

  parameters: int = 0
  bytes: int = 0
  samples: int | None = None
  notes: tuple[str, ...] = ()
  counts_all: bool = True


NONE = OfTask()


def read(
  task: protocol.Task, arch: Architecture, mesh: Mesh, parts: Sequence[str]
) -> OfTask:
  """Returns what there is to say of a task; data may be missing.

  Args:
    task: of the configuration.
    arch: of the base.
    mesh: of the topology.
    parts: `plan.parts`.
  """
  found, notes = NONE, []
  if task.has_own_weights and "train" in parts:
    try:
      found, note = _own(task, arch, mesh)
    except (errors.UserError, OSError) as error:
      note = f"trains weights of its own, which are not counted: {error}"
    notes.append(note)
  if task.computes:
    notes.append("what its evaluation runs beside these programs isn't counted")
  whole = not notes
  listed = task.grounds or task.recommends
  for part, is_run in (("generate", task.decodes), ("ground", listed)):
    if part in parts and not is_run:
      notes.append(f"runs no such program: leave {part} out of plan.parts")
  try:
    samples = task.num_samples("train")
  except (errors.UserError, OSError):
    samples = None
  return dataclasses.replace(
    found,
    samples=samples,
    notes=tuple(f"task {task.name}: {note}" for note in notes),
    counts_all=whole,
  )


def _own(
  task: protocol.Task, arch: Architecture, mesh: Mesh
) -> tuple[OfTask, str]:
  """Returns the size of a task's own weights, and what is said of them."""
  spec = task.own_weights(arch)
  assert spec is not None  # Of a task that has some.
  count = sum(math.prod(weight.shape) for weight in spec.weights)
  size = _COPIES * arguments.device_bytes(spec.abstract(mesh))
  note = (
    f"trains {count:,} weights of its own: their memory is counted, their"
    " products aren't"
  )
  return OfTask(count, size), note
