"""P(Yes) of every sample, by one forward pass each.

The score is the softmax over the logits of the two answers' tokens at the
place where the answer starts. The published evaluate.py takes the softmax of
that softmax; no ranking, so no AUC, can tell the two apart.

Letters: B samples, T positions, D width, V vocabulary.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bigrec_jax import errors, progress as progress_lib
from bigrec_jax.data.text import tokenization
from bigrec_jax.data.text.source import TextSource
from bigrec_jax.devices import sharding
from bigrec_jax.models import LanguageModel, embedding
from bigrec_jax.tasks import protocol
from bigrec_jax.tasks.yes_no import texts
from bigrec_jax.workdir import parts


def answer_ids(
  tokenizer: tokenization.Tokenizer, question: str
) -> tuple[int, int]:
  """Returns the tokens that begin the answers Yes and No.

  Args:
    tokenizer: of the base.
    question: any text that an answer follows.

  Raises:
    UserError: an answer's word is not one token there, or both begin alike.
  """
  (before,) = tokenizer.encode_data([question])
  found = []
  for word in texts.ANSWERS:
    rest = _after(tokenizer, question, before, word)
    whole = _after(tokenizer, question, before, f"{word}.")
    if len(rest) != 1 or whole[:1] != rest:
      raise errors.UserError(
        f"config.model.tokenizer: {word!r} is {len(rest)} tokens after a"
        f" prompt and {word + '.'!r} begins with {whole[:1]}; one token each"
        " expected: the score compares the tokens of the two answers"
      )
    found += rest
  yes, no = found
  if yes == no:
    raise errors.UserError(
      f"config.model.tokenizer: {texts.ANSWERS[0]!r} and {texts.ANSWERS[1]!r}"
      f" are both token {yes}, two tokens expected"
    )
  return yes, no


def _after(
  tokenizer: tokenization.Tokenizer,
  question: str,
  before: list[int],
  word: str,
) -> list[int]:
  """Returns the tokens of a word after a text; none if the text's change."""
  (ids,) = tokenizer.encode_data([question + word])
  return ids[len(before) :] if ids[: len(before)] == before else []


class Scorer:
  """The samples of a split, tokenised once, for any number of adapters."""

  def __init__(
    self, network: protocol.Network, source: TextSource, batch_size: int
  ):
    """Tokenises the questions.

    Args:
      network: base and tokenizer.
      source: the samples.
      batch_size: samples per program; the row shards of the mesh divide it.

    Raises:
      UserError: the batch doesn't divide, or an answer isn't one token.
    """
    sharding.check_batch(
      network.mesh, batch_size, "config.task.yes_no.batch_size"
    )
    questions = [source.text(n).question for n in range(len(source))]
    tokens = network.tokenizer.encode_data(questions)
    self._network = network
    self._size = len(questions)
    ids = answer_ids(network.tokenizer, questions[0])
    self._answers = sharding.put_replicated(
      network.mesh, np.array(ids, np.int32)
    )
    self._batches = list(self._laid_out(tokens, batch_size))

  def _laid_out(self, tokens: Sequence[Sequence[int]], batch_size: int):
    """Yields (numbers, tokens [B, T], last positions [B]) on the mesh."""
    mesh = self._network.mesh
    lengths = [len(ids) for ids in tokens]
    unit = sharding.batch_size_unit(mesh)
    for batch in embedding.batches(lengths, batch_size, unit):
      block = np.zeros((batch.rows, batch.width), np.int32)
      last = np.zeros(batch.rows, np.int32)
      for place, number in enumerate(batch.numbers):
        block[place, : lengths[number]] = tokens[number]
        last[place] = lengths[number] - 1
      yield batch.numbers, _put(mesh, block), _put(mesh, last)

  def logits(
    self,
    adapter: Any,
    progress: progress_lib.Reports | None = None,
    kept: parts.Vectors | None = None,
  ) -> np.ndarray:
    """Returns the logits of Yes and No where the answer starts.

    Args:
      adapter: the weights of collection `lora`.
      progress: told of every sample done.
      kept: the samples that were done before, [N, 2], and where others go as
        they are done; None = nothing is kept.

    Returns:
      [N, 2] float32.

    Raises:
      NonFiniteError: one is NaN or infinite.
    """
    network, progress = self._network, progress or progress_lib.NullProgress()
    kept = kept or parts.Vectors(None, "", self._size, 2)
    progress.skip(int(kept.done.sum()))
    under_way = [
      (
        numbers,
        _answer_logits(
          network.model,
          network.mesh,
          network.params,
          adapter,
          self._answers,
          tokens,
          last,
        ),
      )
      for numbers, tokens, last in self._batches
      if not kept.done[numbers].all()
    ]
    for numbers, part in under_way:
      found = jax.device_get(part)[: len(numbers)]
      bad = np.flatnonzero(~np.isfinite(found).all(axis=1))
      if bad.size:
        row = int(numbers[bad[0]])
        raise errors.NonFiniteError(
          row,
          "answer logits that are NaN or infinite found, finite ones expected;"
          " look at the adapter's and the base's weights, at config.model.dtype"
          " and whether the tokenizer is the base's own",
          f"sample {row}",
        )
      kept.add(numbers, found)
      progress.update(len(numbers))
    return kept.values

  def probabilities(
    self,
    adapter: Any,
    progress: progress_lib.Reports | None = None,
    kept: parts.Vectors | None = None,
  ) -> np.ndarray:
    """Returns [N] float64: the softmax of `logits`, of Yes."""
    yes, no = self.logits(adapter, progress, kept).astype(np.float64).T
    return 1.0 / (1.0 + np.exp(no - yes))


@functools.partial(jax.jit, static_argnames=("model", "mesh"))
def _answer_logits(
  model: LanguageModel,
  mesh: Mesh,
  params: Any,
  adapter: Any,
  answers: jax.Array,
  tokens: jax.Array,
  last: jax.Array,
) -> jax.Array:
  """Maps tokens [B, T] and last positions [B] to float32 logits [B, 2]."""
  given = {"params": params, "lora": adapter}
  model, variables = model.executable(given)
  slots = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
  positions = jnp.broadcast_to(slots, tokens.shape)
  segments = (slots <= last[:, None]).astype(jnp.int32)
  hidden = model.apply(variables, tokens, positions, segments, True)
  states = jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]
  head = model.apply(variables, method="head_weight")  # [D, V]
  logits = jnp.matmul(
    states, head[:, answers], preferred_element_type=jnp.float32
  )
  # Whole on every device, so that each host of several can read all of it.
  return jax.lax.with_sharding_constraint(logits, sharding.replicated(mesh))


def _put(mesh: Mesh, array: np.ndarray) -> jax.Array:
  """Splits rows that every process holds whole over the row shards."""
  return jax.make_array_from_callback(
    array.shape, sharding.batch_sharding(mesh), lambda index: array[index]
  )
