"""How likely the tuned model finds each of the answers that a question has.

One packed pass scores all answers of a question, and its prompt is read once
(decoding/likelihood.py). Of ranking that is an exact order of all candidates:
constrained decoding over the same candidates would write the best of them in
the order of the same scores, as far as its beams reach.

Letters: N questions, C answers of each.
"""

from collections.abc import Sequence

import numpy as np

from bigrec_jax import errors
from bigrec_jax.config import GenerateConfig
from bigrec_jax.data.text import pipeline, prompts
from bigrec_jax.decoding import constraints, likelihood
from bigrec_jax.devices import sharding
from bigrec_jax.progress import Reports
from bigrec_jax.tasks import protocol
from bigrec_jax.tasks.auxiliary.mixture import Mixture
from bigrec_jax.workdir import parts

# Of the users who are decoded side by side, so many are read at a time.
_SHARE = 4


def log_probabilities(
  tuned: protocol.Tuned,
  questions: Mixture,
  answers: Sequence[str],
  candidates: np.ndarray,
  prompt: prompts.Prompt,
  config: GenerateConfig,
  progress: Reports,
  kept: parts.Vectors,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns log p(answer | question) [N, C] float32, and tokens of answers.

  Args:
    tuned: the model.
    questions: N samples.
    answers: distinct texts.
    candidates: [N, C] places in `answers`.
    prompt: the layout.
    config: batch size and widths of prompts.
    progress: told of every question done.
    kept: the questions that were done before, and where others go.

  Returns:
    The log-probabilities, and [answers] how many tokens each has, its EOS too.

  Raises:
    UserError: the tokenizer merges an answer with the prompt before it.
    NonFiniteError: the network gives NaN for a question.
  """
  network = tuned.network
  tokenizer = network.tokenizer
  tokens = constraints.continuations(
    answers, prompt.answer_context, tokenizer.encode_data, tokenizer.eos_id
  )
  unit = sharding.batch_size_unit(network.mesh)
  sharding.check_batch(
    network.mesh, config.batch_size, "config.generate.batch_size"
  )
  try:
    found = likelihood.score(
      network.model,
      network.params,
      network.model.prepare(tuned.adapter),
      pipeline.question_tokens(questions, tokenizer),
      tokens,
      candidates.astype(np.int32),
      network.mesh,
      batch_size=max(1, config.batch_size // _SHARE // unit) * unit,
      buckets=config.prompt_buckets,
      progress=progress,
      kept=kept,
    )
  except errors.NonFiniteError as error:
    raise error.of(error.row, questions.name(error.row)) from None
  return found, np.array([len(own) for own in tokens])


def normed(logs: np.ndarray, lengths: np.ndarray, penalty: float) -> np.ndarray:
  """Divides log-probabilities as beam search divides scores of hypotheses.

  Args:
    logs: [N, C].
    lengths: [N, C] tokens.
    penalty: `generate.length_penalty`; 0 leaves them as they are.
  """
  return logs / lengths.astype(np.float64) ** penalty
