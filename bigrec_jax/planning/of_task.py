"""What a task adds to the plain programs, as far as it can be told."""

import dataclasses
import math
from collections.abc import Sequence

from jax.sharding import Mesh

from bigrec_jax import errors
from bigrec_jax.models import Architecture
from bigrec_jax.planning import arguments, own_step
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
    step: lays out its first optimizer step; None = steps are of plain texts,
      or the samples aren't known.
    notes: what a plan says: what isn't counted, and what isn't run.
    counts_all: whether nothing of it was left out.
  """

  parameters: int = 0
  bytes: int = 0
  samples: int | None = None
  step: own_step.Make | None = None
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
  if "train" in parts and _has_own_steps(task):
    try:
      found = _weights(task, arch, mesh)
      found = dataclasses.replace(found, step=_step(task, arch))
    except (errors.UserError, OSError) as error:
      notes.append(
        "a step is planned as one of plain texts, what it computes beyond isn't"
        f" counted: {error}"
      )
  if task.has_own_weights and task.decodes and "generate" in parts:
    notes.append("what its own weights do in decoding isn't counted")
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


def _has_own_steps(task: protocol.Task) -> bool:
  """Returns whether steps may be other than of plain texts."""
  plain = task.store.config.train.objective == "language_model"
  return task.has_own_weights or not task.mixes or not plain


def _weights(task: protocol.Task, arch: Architecture, mesh: Mesh) -> OfTask:
  """Returns the size of a task's own weights."""
  spec = task.own_weights(arch)
  if spec is None:
    return NONE
  count = sum(math.prod(weight.shape) for weight in spec.weights)
  size = _COPIES * arguments.device_bytes(spec.abstract(mesh))
  return OfTask(count, size)


def _step(task: protocol.Task, arch: Architecture) -> own_step.Make | None:
  """Returns what lays out the first step of a task's own samples."""
  store = task.store
  return own_step.maker(
    task.objective(),
    task.own_weights(arch),
    task.samples("train"),
    store.tokenizer,
    store.config.seed,
  )
