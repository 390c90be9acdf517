"""Samples -> the micro-batches of every optimizer step.

An optimizer step holds exactly `train.batch_size` examples, packed or not;
the last of an epoch holds what is left, as in Hugging Face's Trainer. Order
within a step is free, because the loss is token-weighted over the step.

Every process builds the whole step and takes its rows of each micro-batch.
How many micro-batches packing gives depends on all examples of a step, and
processes that disagreed on it would wait for each other for ever.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from bigrec_jax import errors
from bigrec_jax.config import TrainConfig
from bigrec_jax.data.text import (
  encoding,
  packing,
  shared_header,
  source as source_lib,
  special_text,
  text_streams,
  tokenization,
)
from bigrec_jax.workdir import fingerprints

_PREFETCHED_STEPS = 4


class Views(Protocol):
  """Texts that a loss reads beside those of a step (views.py)."""

  def of_step(
    self, numbers: Sequence[int], examples: Sequence[encoding.Encoded]
  ) -> list[encoding.Encoded]:
    """Returns a step's examples and the texts beside them.

    Args:
      numbers: of the samples.
      examples: the samples, encoded.
    """
    ...


def training_texts(source: source_lib.TextSource) -> list[str]:
  """Returns the full text, prompt and answer, of every sample."""
  return [
    special_text.unmarked(source.text(n).training) for n in range(len(source))
  ]


def question_tokens(
  source: source_lib.TextSource, tokenizer: tokenization.Tokenizer
) -> list[list[int]]:
  """Returns what decoding or scoring continues, whole, BOS first."""
  texts = [source.text(n) for n in range(len(source))]
  return encoding.encode_questions(
    tokenizer, [(text.question, text.seams) for text in texts]
  )


def soft_questions(
  source: source_lib.TextSource, tokenizer: tokenization.Tokenizer
) -> list[encoding.Encoded]:
  """Returns what decoding continues where texts may have soft tokens.

  Their tokens are those of `question_tokens`; none of them is a label.
  """
  texts = [source.text(n) for n in range(len(source))]
  found = encoding.encode_soft(tokenizer, [text.question for text in texts])
  return [
    encoding.Encoded(
      np.array(ids, np.int32),
      len(ids),
      False,
      places,
      np.array(text.soft, np.int32),
    )
    for text, (ids, places) in zip(texts, found, strict=True)
  ]


def _layout(
  source: source_lib.TextSource,
  tokenizer: tokenization.Tokenizer,
  config: TrainConfig,
  rows: int,
  encoded: encoding.EncodedExamples,
  header: shared_header.Header | None,
  views: Views | None = None,
) -> source_lib.Layout:
  """Returns what makes the micro-batches of given samples."""
  if isinstance(source, source_lib.LaidOut):
    return source.layout(tokenizer, config, rows)

  def lay_out(numbers: Sequence[int]) -> list[packing.MicroBatch]:
    examples = encoded.get(numbers)
    if views is not None:
      examples = views.of_step(numbers, examples)
    return _micro_batches(examples, config, rows, tokenizer.pad_id, header)

  return lay_out


def _micro_batches(
  examples: Sequence[encoding.Encoded],
  config: TrainConfig,
  rows: int,
  pad_id: int,
  header: shared_header.Header | None,
) -> list[packing.MicroBatch]:
  """Lays out the examples of a step; those without the header apart."""

  def lay_out(examples, first_position):
    if config.packing:
      return packing.packed(
        examples, rows, config.max_length, pad_id, first_position
      )
    return packing.bucketed(
      examples,
      rows,
      config.max_length,
      config.length_buckets,
      pad_id,
      first_position,
    )

  if header is None:
    return lay_out(examples, 0)
  own = [header.own_part(example) for example in examples]
  sharing = lay_out([part for part in own if part is not None], header.length)
  others = [e for e, part in zip(examples, own, strict=True) if part is None]
  shared = dict(zip(packing.ROWLESS, header, strict=True))
  return [batch | shared for batch in sharing] + lay_out(others, 0)


class TrainStream:
  """The optimizer steps of a training run; an iterator of lists.

  One item is one optimizer step: its micro-batches (see packing.py). Equal
  arguments give equal steps. The order is shuffled anew in each epoch.

  Attributes:
    encoded: the tokenised examples, with counts of truncated ones.
    steps_per_epoch: ceil(examples / batch_size).
    num_steps: of all epochs.
    header: what micro-batches hold once for all examples, or None.
    step: steps given so far; equals `num_steps` at the end.
    tokens: real tokens given so far, of all processes; those of the header
      count for every example.
    header_tokens: those of them that a header stood for.
    slots: places for tokens given so far, padding included.
  """

  def __init__(
    self,
    source: source_lib.TextSource,
    tokenizer: tokenization.Tokenizer,
    config: TrainConfig,
    *,
    rows: int,
    seed: int,
    share_header: bool = False,
    shard_index: int = 0,
    shard_count: int = 1,
    views: Views | None = None,
  ):
    """Makes the stream, at its first step.

    Args:
      source: the train split.
      tokenizer: of the base.
      config: the train section.
      rows: R of a micro-batch over all processes; a multiple of the mesh's
        row shards.
      seed: of the order.
      share_header: take the common beginning out of the examples.
      shard_index: which part of the rows this process gets.
      shard_count: how many parts there are.
      views: of the texts, for a loss that reads some beside them.

    Raises:
      UserError: there are no examples.
    """
    if not len(source):
      raise errors.UserError(
        f"{source.split} split: 0 examples found, at least 1 expected"
      )
    self.encoded = encoding.EncodedExamples(
      source,
      tokenizer,
      max_length=config.max_length,
      train_on_inputs=config.train_on_inputs,
    )
    self.header = shared_header.find(self.encoded) if share_header else None
    self._lay_out = _layout(
      source, tokenizer, config, rows, self.encoded, self.header, views
    )
    self._shard = (shard_index, shard_count)
    self._made_of = fingerprints.of_value(
      [
        *source.fingerprints,
        tokenizer.fingerprint,
        config.batch_size,
        config.shuffle,
        seed,
      ]
    )
    import grain  # Here, because it takes a second and generate needs none.

    numbers = grain.MapDataset.range(len(source))
    if config.shuffle:
      numbers = numbers.seed(seed).shuffle()
    steps = numbers.batch(
      config.batch_size, drop_remainder=False, batch_fn=np.asarray
    )
    self.steps_per_epoch = len(steps)
    steps = steps.repeat(config.num_epochs)
    self.num_steps = len(steps)
    self._source = source
    self._steps = steps.map_with_index(self._build)
    # One thread tokenises ahead, in order, while the devices compute.
    self._read_options = grain.ReadOptions(
      num_threads=1, prefetch_buffer_size=_PREFETCHED_STEPS
    )
    self.tokens = self.header_tokens = self.slots = 0
    self._seek(0)

  def _build(self, step: int, numbers: np.ndarray) -> list[packing.MicroBatch]:
    wanted = numbers.tolist()
    if isinstance(self._source, source_lib.Scheduled):
      own = self._source.at_step(step, self.num_steps, wanted)
      wanted = list(own)
    return self._lay_out(wanted)

  def _seek(self, step: int) -> None:
    self.step = step
    rest = self._steps.slice(slice(step, None))
    self._iterator = iter(rest.to_iter_dataset(self._read_options))

  def __iter__(self) -> "TrainStream":
    return self

  def __next__(self) -> list[packing.MicroBatch]:
    if self.step >= self.num_steps:
      raise StopIteration
    batches = next(self._iterator)
    self.step += 1
    for batch in batches:
      own, shared = packing.count_tokens(batch)
      self.tokens += own + shared
      self.header_tokens += shared
      self.slots += batch["tokens"].size
    return [packing.shard_rows(b, *self._shard) for b in batches]

  @property
  def epoch(self) -> int:
    """Whole epochs given so far."""
    return self.step // self.steps_per_epoch

  @property
  def at_epoch_end(self) -> bool:
    """Whether the step given last was the last of its epoch."""
    return self.step > 0 and self.step % self.steps_per_epoch == 0

  @property
  def utilisation(self) -> float:
    """Share of the given slots that hold real tokens; 1.0 before the first."""
    own = self.tokens - self.header_tokens
    return own / self.slots if self.slots else 1.0

  def get_state(self) -> dict[str, Any]:
    """Returns where the stream is, as JSON."""
    return {
      "step": self.step,
      "tokens": self.tokens,
      "header_tokens": self.header_tokens,
      "slots": self.slots,
      "made_of": self._made_of,
    }

  def set_state(self, state: Mapping[str, Any]) -> None:
    """Goes to where another stream of equal arguments was.

    Raises:
      UserError: the state is that of other data, order or batch size.
    """
    if state["made_of"] != self._made_of:
      raise errors.UserError(
        "checkpoint: its data, tokenizer, seed, train.batch_size or"
        f" train.shuffle (fingerprint {state['made_of']}) differ from this"
        f" run's ({self._made_of}): restore them or use another workdir"
      )
    self.tokens, self.slots = state["tokens"], state["slots"]
    self.header_tokens = state["header_tokens"]
    self._seek(state["step"])


class EvalBatches:
  """The examples of a split in file order, as often as wanted.

  Iterating gives, for every `batch_size` examples, the list of their
  micro-batches. Tokens are made once.
  """

  def __init__(
    self,
    count: int,
    layout: Callable[[], source_lib.Layout],
    batch_size: int,
    shard: tuple[int, int],
  ):
    self._count = count
    self._make_layout = layout
    self._batch_size = batch_size
    self._shard = shard

  def __len__(self) -> int:
    return -(-self._count // self._batch_size)

  @functools.cached_property
  def _layout(self) -> source_lib.Layout:
    return self._make_layout()

  def __iter__(self) -> Iterator[list[packing.MicroBatch]]:
    for at in range(0, self._count, self._batch_size):
      end = min(at + self._batch_size, self._count)
      batches = self._layout(range(at, end))
      yield [packing.shard_rows(b, *self._shard) for b in batches]


def eval_batches(
  source: source_lib.TextSource,
  tokenizer: tokenization.Tokenizer,
  config: TrainConfig,
  *,
  rows: int,
  batch_size: int,
  share_header: bool = False,
  shard_index: int = 0,
  shard_count: int = 1,
) -> EvalBatches:
  """Returns the micro-batches that the eval loss is computed on.

  Args:
    source: the valid split; the text is the training text.
    tokenizer: of the base.
    config: the train section.
    rows: R of a micro-batch over all processes.
    batch_size: examples per item of the result.
    share_header: take the common beginning out of the examples.
    shard_index: which part of the rows this process gets.
    shard_count: how many parts there are.
  """
  encoded = encoding.EncodedExamples(
    source,
    tokenizer,
    max_length=config.max_length,
    train_on_inputs=config.train_on_inputs,
  )

  def layout() -> source_lib.Layout:
    # Of these examples: the header of the train split may be another.
    header = shared_header.find(encoded) if share_header else None
    return _layout(source, tokenizer, config, rows, encoded, header)

  shard = shard_index, shard_count
  return EvalBatches(len(source), layout, batch_size, shard)


def text_stream(
  source: source_lib.TextSource,
  tokenizer: tokenization.Tokenizer,
  *,
  batch_size: int,
  max_length: int,
  seed: int,
) -> text_streams.TextStream:
  """Returns an endless iterator of micro-batches [batch_size, max_length]."""
  encoded = encoding.EncodedExamples(
    source,
    tokenizer,
    max_length=max_length,
    train_on_inputs=True,
  )
  return text_streams.TextStream(
    encoded,
    tokenizer.pad_id,
    batch_size=batch_size,
    max_length=max_length,
    seed=seed,
  )
