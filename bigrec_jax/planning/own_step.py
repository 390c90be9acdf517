"""A task's first optimizer step, where it isn't one of plain texts.

Candidates behind their prompts, soft tokens, targets on their own: what rows
hold only the samples tell. So a plan lays out the first step as training will,
and compiles its programs for the largest micro-batch of it.
"""

import dataclasses
import math
from collections.abc import Callable

from bigrec_jax import config as config_lib
from bigrec_jax.data.text import packing, source as source_lib, tokenization
from bigrec_jax.models import LanguageModel, own_weights
from bigrec_jax.training import objective as objective_lib, trainer


@dataclasses.dataclass(frozen=True, eq=False)
class OwnStep:
  """What the first step of a task is.

  Attributes:
    loss: the task's objective.
    weights: those of the task's own; None = it has none.
    batches: the micro-batches, on the host.
  """

  loss: objective_lib.Objective
  weights: own_weights.Spec | None
  batches: tuple[packing.MicroBatch, ...]

  @property
  def largest(self) -> packing.MicroBatch:
    """The micro-batch with the most places for tokens."""
    shared = [b for b in self.batches if packing.ROWLESS[0] in b]
    return max(shared or self.batches, key=_places)

  @property
  def turns(self) -> float:
    """How many of the largest one all micro-batches are, by places."""
    return sum(map(_places, self.batches)) / _places(self.largest)

  @property
  def prefix(self) -> int:
    """P, tokens that a step computes once; 0 = rows hold whole texts."""
    header = self.largest.get(packing.ROWLESS[0])
    return 0 if header is None else len(header) - 1

  @property
  def tokens(self) -> int:
    """Real tokens of the rows of the step."""
    return sum(packing.count_tokens(batch)[0] for batch in self.batches)

  @property
  def places(self) -> int:
    """Places for tokens in the largest micro-batch."""
    return _places(self.largest)


# Of a model, section `train` and the rows R of a micro-batch.
Make = Callable[[LanguageModel, config_lib.TrainConfig, int], OwnStep]


def _places(batch: packing.MicroBatch) -> int:
  return sum(
    math.prod(array.shape)
    for name, array in batch.items()
    if name.endswith("tokens")
  )


def maker(
  loss: objective_lib.Objective,
  weights: own_weights.Spec | None,
  train: source_lib.TextSource,
  tokenizer: tokenization.Tokenizer,
  seed: int,
) -> Make | None:
  """Returns what lays out the first step; None = plain texts do for a plan.

  Args:
    loss: the task's objective.
    weights: of the task's own.
    train: its samples.
    tokenizer: of the base.
    seed: of the run.
  """
  plain = type(loss) is objective_lib.LanguageModelling
  if plain and weights is None and not isinstance(train, source_lib.LaidOut):
    return None

  def make(
    model: LanguageModel, config: config_lib.TrainConfig, rows: int
  ) -> OwnStep:
    share = loss.reads_header and trainer.shares_header(config, model)
    stream = trainer.train_stream(
      loss, train, tokenizer, config, rows, seed, share
    )
    return OwnStep(loss, weights, tuple(next(stream)))

  return make
