"""Training's part of a plan: a step, how many of them, what they take."""

import dataclasses
from typing import Any

from bigrec_jax import config as config_lib
from bigrec_jax.models import lora as lora_lib
from bigrec_jax.planning import (
  arguments,
  chips,
  compiled_rows,
  compiling,
  header_work,
  of_task,
  own_step,
  run_cost,
  step_programs,
  titles as titles_lib,
  unrolled,
  work,
)
from bigrec_jax.training import trainer
from bigrec_jax.workdir import paths as paths_lib


class Train:
  """Compiles the programs of a step; attributes as `plan.Plan` has them."""

  def __init__(
    self,
    config: config_lib.Config,
    paths: paths_lib.Paths,
    net: arguments.Network,
    sizes: work.Network,
    rows: compiled_rows.Rows,
    task: of_task.OfTask,
    titles: titles_lib.Titles,
    chip: chips.Chip | None,
  ):
    self._config, self._paths, self._net = config, paths, net
    self._sizes, self._rows, self._task = sizes, rows, task
    self._chip, self._devices = chip, net.mesh.size
    # What an own step's programs are given is in their arguments.
    known = task.step is not None
    self._tables = 0 if known else titles.train + task.bytes

  def _own(self, rows: int) -> own_step.OwnStep | None:
    """Returns the task's first step in micro-batches of so many rows."""
    make = self._task.step
    return make and make(self._net.model, self._config.train, rows)

  def _made(
    self, rows: int
  ) -> tuple[
    own_step.OwnStep | None, step_programs.TrainShape, step_programs.Train
  ]:
    config, net, own = self._config, self._net, self._own(rows)
    if own is None:
      shape = step_programs.train_shape(config, net, rows)
    else:
      shape = step_programs.own_shape(config, net, own)
    made = step_programs.train(net, config, shape, own, self._tables)
    return own, shape, made

  def make(self) -> dict[str, Any]:
    """Compiles, and returns `train` of plan.json."""
    config, train = self._config, self._config.train
    rows = trainer.micro_batch_rows(train, self._net.mesh)
    own, shape, made = self._made(rows)
    header = self._header(made, shape) if shape.prefix else []
    check = self._check(shape)
    plain = work.accumulate(
      self._sizes, rows, shape.length, shape.chunk, shape.prefix
    )
    done: work.Work = plain
    coupling: list[dict[str, Any]] = []
    if own is not None:
      done, coupling = self._beyond(own, shape, made, plain, check)
    first = self._rows.add(made.accumulate, done, shape)
    trained = lora_lib.count(self._net.adapter) + self._task.parameters
    last = self._rows.add(made.apply, work.apply(trained), config.lora)
    # Packed without a gap, or each text in a row of its own.
    texts = train.batch_size * shape.own
    needed = -(-texts // shape.length) if train.packing else train.batch_size
    micro, turns = -(-needed // rows), float(-(-needed // rows))
    if own is not None:
      texts, micro, turns = own.tokens, len(own.batches), own.turns
      needed = micro * rows

    def program_of(rows: int) -> compiling.Program:
      return self._made(rows)[2].accumulate

    found: dict[str, Any] = {
      "micro_batches_per_step": micro,
      # Real ones: those of the header in every text, as training counts them.
      "tokens_per_step": texts + train.batch_size * shape.prefix,
      "header_tokens": shape.prefix,
      "own_step": own is not None,
      "xla_check": check,
      "largest_micro_batch": self._rows.largest(
        first, program_of, rows, needed
      ),
    }
    slots = rows * shape.length if own is None else own.places
    found |= self._step_cost(turns, slots, first, last, header, coupling, found)
    cost = found["seconds_per_step"]
    return found | run_cost.train(
      config, self._paths, cost, self._devices, self._task.samples
    )

  def _beyond(
    self,
    own: own_step.OwnStep,
    shape: step_programs.TrainShape,
    made: step_programs.Train,
    plain: work.Work,
    check: dict[str, Any],
  ) -> tuple[work.Work, list[dict[str, Any]]]:
    """Returns the work of a task's own micro-batch, and rows of its coupling.

    No formula knows what a task does with its rows: XLA counts that, layers
    one by one, and what it counts beyond rows of plain texts is added to their
    formula. Bytes grow with it.

    Args:
      own: the step.
      shape: of a micro-batch.
      made: its programs.
      plain: the formula's work of rows of plain texts.
      check: what XLA counts of those.
    """
    of_rows = check["xla_unrolled_flops"]
    first, *more = unrolled.own_flops(
      self._sizes.config, self._config, shape, own
    )
    beyond, times = first - of_rows, first / of_rows
    done = work.Work(
      plain.flops + beyond,
      plain.executed + beyond,
      plain.bytes * times,
      plain.passes,
    )
    if not more:
      return done, []
    reads = work.prefill(self._sizes, shape.rows, shape.length, shape.prefix)
    couples = work.Work(more[1], more[1], 0.0)
    pool, couple = made.coupling
    return done, [
      self._rows.add(pool, reads, shape),
      self._rows.add(couple, couples, shape),
    ]

  def _header(
    self, made: step_programs.Train, shape: step_programs.TrainShape
  ) -> list[dict[str, Any]]:
    """Compiles what a step does once for all its texts."""
    about = step_programs.header_shape(self._config, shape)
    # A single text is whole on every part of the data axis.
    parts = self._net.mesh.shape["data"]
    sizes = dataclasses.replace(self._sizes, replicas=parts)
    labelled = self._config.train.train_on_inputs
    opened = header_work.open_header(sizes, about.prefix)
    closed = header_work.close_header(
      sizes, about.prefix, about.chunk, labelled
    )
    done = zip(made.header, (opened, closed), strict=True)
    return [self._rows.add(program, own, about) for program, own in done]

  def _step_cost(
    self,
    micro: float,
    slots: int,
    first: dict[str, Any],
    last: dict[str, Any],
    header: list[dict[str, Any]],
    coupling: list[dict[str, Any]],
    found: dict[str, Any],
  ) -> dict[str, Any]:
    """Returns seconds, tokens/s and the MFU of an optimizer step's floor.

    Only the tokens of texts count: padding takes time for nothing. The MFU
    counts the header as often as it is computed, tokens/s in every text.

    Args:
      micro: how often `first` runs.
      slots: places for tokens that it has.
      first: the row of a micro-batch.
      last: that of the optimizer's step.
      header: those of the header.
      coupling: those of what ties the examples of a step, reading first.
      found: tokens of a step.
    """
    rest = compiled_rows.added(
      *(row["seconds"] for row in (*header, *coupling[1:], last))
    )
    every = compiled_rows.added(
      *(row["seconds"] for row in (first, *coupling[:1]))
    )
    chip = self._chip  # Without one nothing has a time.
    if chip is None or every is None or rest is None:
      return dict.fromkeys(("seconds_per_step", "tokens_per_second", "mfu"))
    seconds, tokens = micro * every + rest, found["tokens_per_step"]
    own = tokens - self._config.train.batch_size * found["header_tokens"]
    flops = own * first["work"]["flops"] / slots
    flops += sum(row["work"]["flops"] for row in header)
    return {
      "seconds_per_step": seconds,
      "tokens_per_second": tokens / seconds,
      "mfu": flops / (seconds * self._devices * chip.flops),
    }

  def _check(self, shape: step_programs.TrainShape) -> dict[str, Any]:
    """Compares the formulas with XLA's count of layers one by one."""
    sizes = dataclasses.replace(self._sizes, attention="xla", replicas=1)
    about = (shape.rows, shape.length)
    formula = work.accumulate(sizes, *about, shape.length, shape.prefix)
    spared = work.first_layer(sizes, *about, shape.prefix)
    expected = formula.executed - spared
    counted = unrolled.accumulate_flops(self._sizes.config, self._config, shape)
    found = {
      "xla_unrolled_flops": counted,
      "formula_flops": expected,
      "ratio": counted / expected,
    }
    if shape.prefix:
      counted = unrolled.header_flops(self._sizes.config, self._config, shape)
      expected = header_work.one_by_one(sizes, shape.prefix)
      found["header_ratio"] = counted / expected
    return found
