"""Compiles train, generate and ground for devices that need not be there."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from bigrec_jax import config as config_lib, errors
from bigrec_jax.data.prepared import manifest
from bigrec_jax.devices import sharding
from bigrec_jax.models import encoders, lora as lora_lib
from bigrec_jax.planning import (
  arguments,
  chips,
  compiling,
  fit,
  header_work,
  meshes,
  of_task,
  programs,
  roofline,
  run_cost,
  titles as titles_lib,
  topology,
  uncounted,
  unrolled,
  versions,
  work,
)
from bigrec_jax.tasks import protocol
from bigrec_jax.training import trainer
from bigrec_jax.workdir import paths as paths_lib

_MOST_USERS = 4096  # About a test split; more would only be empty.


class Plan:
  """One configuration on one topology."""

  def __init__(
    self,
    config: config_lib.Config,
    paths: paths_lib.Paths,
    target: topology.Target,
    tell: Callable[[str], object] = print,
    titles: titles_lib.Titles = titles_lib.NONE,
    task: protocol.Task | None = None,
  ):
    """Reads what there is to read; what can't be planned is said now.

    Args:
      config: the whole configuration.
      paths: of a workdir, which may hold a catalogue and needn't.
      target: the devices.
      tell: shown a line for each program.
      titles: what the catalogue's titles make.
      task: of the configuration; None = nothing is said of it.

    Raises:
      UserError: the mesh, config.json, a batch or the catalogue's size is
        unusable.
    """
    self._tell, self._titles = tell, titles
    self.config, self.paths, self.target = config, paths, target
    self.mesh = topology.mesh(config.mesh, target)
    self.arch = arguments.read_arch(config)
    self.net = arguments.network(self.arch, config, self.mesh)
    self.devices = len(target.devices)
    self.capacity = target.chip.memory if target.chip else None
    if config.plan.memory_gib:
      self.capacity = round(config.plan.memory_gib * chips.GIB)
    self.sizes = work.Network(
      config=self.arch,
      lora=config.lora,
      itemsize=jnp.dtype(config.model.dtype).itemsize,
      quantization=config.model.quantization,
      remat=config.model.remat,
      attention=self.net.model.attention,
      replicas=sharding.batch_size_unit(self.mesh),
    )
    self._programs: list[dict[str, Any]] = []
    self._task = of_task.NONE
    if task is not None:
      self._task = of_task.read(task, self.arch, self.mesh, config.plan.parts)
    self._check_inputs()

  def _check_inputs(self) -> None:
    """Compiling takes minutes: what it can't be for is said before."""
    parts = self.config.plan.parts
    for part, key in (
      ("train", "micro_batch_size"),
      ("generate", "batch_size"),
    ):
      if part in parts:
        rows = getattr(getattr(self.config, part), key)
        sharding.check_batch(self.mesh, rows, f"config.{part}.{key}")
    self._uncounted = uncounted.keys(self.config, self._titles.trie is not None)
    for key in self._uncounted:
      self._tell(f"plan: config.{key}: not counted; the plain programs are")
    for note in self._task.notes:
      self._tell(f"plan: {note}")
    if not self._task.counts_all:
      self._uncounted.append("task.name")
    if "ground" in parts and not self._num_items():
      raise errors.UserError(
        f"config.plan.num_items: 0 found and no {self.paths.manifest}; the"
        " size of the catalogue expected (or leave ground out of plan.parts)"
      )

  def _num_items(self) -> int:
    """Returns the size of the catalogue; 0 = nobody knows it."""
    items = self.config.plan.num_items
    if not items and self.paths.manifest.exists():
      items = manifest.read(self.paths.manifest).items
    return items

  def make(self) -> dict[str, Any]:
    """Compiles everything and returns plan.json."""
    parts = {"train": self._train, "generate": self._generate}
    parts["ground"] = self._ground
    found = {name: parts[name]() for name in self.config.plan.parts}
    chip = self.target.chip
    return {
      "topology": self.target.name,
      "compiled_for": self.target.compiled_for or self.target.name,
      "devices": self.devices,
      "chip": dataclasses.asdict(chip) if chip else None,
      "capacity_bytes": self.capacity,
      "mesh": dict(self.mesh.shape),
      "model": {
        "source": self.config.model.path or "config.model.arch",
        "parameters": lora_lib.count(self.net.base),
        "adapter_parameters": lora_lib.count(self.net.adapter),
        "own_parameters": self._task.parameters,
        "dtype": self.config.model.dtype,
        "quantization": self.config.model.quantization,
        "remat": self.config.model.remat,
        "attention": self.net.model.attention,
      },
      "fits": None
      if self.capacity is None
      else all(row["fits"] for row in self._programs),
      "programs": self._programs,
      **found,
      "run": run_cost.whole(self.config, self.paths, found, self.devices),
      "uncounted": self._uncounted,
      "table_bytes": self._titles.sizes(),
      "quick": self.config.plan.quick,
      "versions": versions.read(),
    }

  def _compile(
    self, program: compiling.Program, done: work.Work, shape: Any
  ) -> dict[str, Any]:
    """Compiles one program and keeps its row."""
    compiled = compiling.run(program, self.devices, self.config.plan.quick)
    items = compiled.collectives
    peak = compiled.memory.peak
    fits = None if self.capacity is None else peak <= self.capacity
    self._tell("plan: " + fit.line(program.name, peak, self.capacity))
    for loop in compiled.unknown_loops:
      self._tell(f"plan: {program.name}: turns of {loop} unknown, counted once")
    row = {
      "name": program.name,
      "shape": dataclasses.asdict(shape),
      "fits": fits,
      "memory": dataclasses.asdict(compiled.memory) | {"peak": peak},
      "exceeds_by_bytes": max(0, peak - (self.capacity or peak)),
      "work": dataclasses.asdict(done),
      "xla_device_loops_once": {
        "flops": compiled.xla_flops,
        "bytes": compiled.xla_bytes,
      },
      "collectives": None if items is None else roofline.by_kind(items),
      "unknown_loops": compiled.unknown_loops,
      "seconds": None,
      "bound": None,
      "times": None,
      "compile_seconds": round(compiled.seconds, 1),
    }
    if self.target.chip and items is not None:
      times = roofline.times(
        done, roofline.received(items), self.target.chip, self.devices
      )
      row["times"] = dataclasses.asdict(times)
      row["seconds"], row["bound"] = times.seconds, times.bound
    self._programs.append(row)
    return row

  def _train(self) -> dict[str, Any]:
    config, train = self.config, self.config.train
    rows = trainer.micro_batch_rows(train, self.mesh)
    tables = self._titles.train + self._task.bytes
    shape = programs.train_shape(config, self.net, rows)
    made = programs.train(self.net, config, shape, tables)
    header = self._header(made, shape) if shape.prefix else []
    sizes = (rows, shape.length, shape.chunk, shape.prefix)
    first = self._compile(
      made.accumulate, work.accumulate(self.sizes, *sizes), shape
    )
    trained = lora_lib.count(self.net.adapter) + self._task.parameters
    last = self._compile(made.apply, work.apply(trained), config.lora)
    # Packed without a gap, or each text in a row of its own.
    needed, own = train.batch_size, train.batch_size * shape.own
    if train.packing:
      needed = -(-own // shape.length)
    micro = -(-needed // rows)

    def program_of(rows: int) -> compiling.Program:
      shape = programs.train_shape(config, self.net, rows)
      made = programs.train(self.net, config, shape, tables)
      return made.accumulate

    found: dict[str, Any] = {
      "micro_batches_per_step": micro,
      # Real ones: those of the header in every text, as training counts them.
      "tokens_per_step": own + train.batch_size * shape.prefix,
      "header_tokens": shape.prefix,
      "xla_check": self._check(shape),
      "largest_micro_batch": self._search(first, program_of, rows, needed),
    }
    found |= self._step_cost(micro, first, last, header, found)
    cost = found["seconds_per_step"]
    return found | run_cost.train(
      config, self.paths, cost, self.devices, self._task.samples
    )

  def _header(
    self, made: programs.Train, shape: programs.TrainShape
  ) -> list[dict[str, Any]]:
    """Compiles what a step does once for all its texts."""
    about = programs.header_shape(self.config, shape)
    # A single text is whole on every part of the data axis.
    parts = self.mesh.shape["data"]
    sizes = dataclasses.replace(self.sizes, replicas=parts)
    labelled = self.config.train.train_on_inputs
    opened = header_work.open_header(sizes, about.prefix)
    closed = header_work.close_header(
      sizes, about.prefix, about.chunk, labelled
    )
    done = zip(made.header, (opened, closed), strict=True)
    return [self._compile(program, own, about) for program, own in done]

  def _step_cost(
    self,
    micro: int,
    first: dict[str, Any],
    last: dict[str, Any],
    header: list[dict[str, Any]],
    found: dict[str, Any],
  ) -> dict[str, Any]:
    """Returns seconds, tokens/s and the MFU of an optimizer step's floor.

    Only the tokens of texts count: padding takes time for nothing. The MFU
    counts the header as often as it is computed, tokens/s in every text.

    Args:
      micro: how often `first` runs.
      first: the row of a micro-batch.
      last: that of the optimizer's step.
      header: those of the header.
      found: tokens of a step.
    """
    rest = _sum(*(row["seconds"] for row in (*header, last)))
    chip = self.target.chip  # Without one nothing has a time.
    if chip is None or first["seconds"] is None or rest is None:
      return dict.fromkeys(("seconds_per_step", "tokens_per_second", "mfu"))
    seconds, tokens = micro * first["seconds"] + rest, found["tokens_per_step"]
    own = tokens - self.config.train.batch_size * found["header_tokens"]
    slots = first["shape"]["rows"] * first["shape"]["length"]
    flops = own * first["work"]["flops"] / slots
    flops += sum(row["work"]["flops"] for row in header)
    return {
      "seconds_per_step": seconds,
      "tokens_per_second": tokens / seconds,
      "mfu": flops / (seconds * self.devices * chip.flops),
    }

  def _check(self, shape: programs.TrainShape) -> dict[str, Any]:
    """Compares the formulas with XLA's count of layers one by one."""
    sizes = dataclasses.replace(self.sizes, attention="xla", replicas=1)
    about = (shape.rows, shape.length)
    formula = work.accumulate(sizes, *about, shape.length, shape.prefix)
    spared = work.first_layer(sizes, *about, shape.prefix)
    expected = formula.executed - spared
    counted = unrolled.accumulate_flops(self.arch, self.config, shape)
    found = {
      "xla_unrolled_flops": counted,
      "formula_flops": expected,
      "ratio": counted / expected,
    }
    if shape.prefix:
      counted = unrolled.header_flops(self.arch, self.config, shape)
      expected = header_work.one_by_one(sizes, shape.prefix)
      found["header_ratio"] = counted / expected
    return found

  def _search(
    self,
    first: dict[str, Any],
    program_of: Callable[[int], compiling.Program],
    rows: int,
    useful: int,
  ) -> dict[str, Any] | None:
    """Returns the largest batch that fits.

    Args:
      first: the row of the program that is compiled already.
      program_of: gives the program for so many rows.
      rows: of `first`.
      useful: more rows than that would be empty.
    """
    if self.capacity is None or not self.config.plan.search:
      return None
    unit = sharding.batch_size_unit(self.mesh)

    def peak_of(rows: int) -> int:
      program = program_of(rows)
      name = f"{program.name}, {rows} rows"
      program = dataclasses.replace(program, name=name)
      compiled = compiling.run(program, self.devices, self.config.plan.quick)
      peak = compiled.memory.peak
      self._tell("plan: " + fit.line(program.name, peak, self.capacity))
      return peak

    known = {rows: first["memory"]["peak"]}
    limit = max(-(-useful // unit) * unit, rows)
    found = fit.largest(peak_of, known, unit, limit, self.capacity)
    return dataclasses.asdict(found)

  def _generate(self) -> dict[str, Any]:
    shape = programs.generate_shape(self.config, self.mesh)
    users = shape.users
    turns = programs.decode_turns(self.config)
    rest = (shape.prompt, shape.prefix)
    prompts = work.prefill(self.sizes, shape.group, *rest)
    token = work.decode_step(
      self.sizes, users, *rest, shape.beams, shape.steps, turns / 2
    )
    read, advance = programs.generate(self.net, self.config, self._titles)
    first = self._compile(read, prompts, shape)
    row = self._compile(advance, work.add((turns, token)), shape)

    def program_of(users: int) -> compiling.Program:
      own = dataclasses.replace(self.config.generate, batch_size=users)
      config = dataclasses.replace(self.config, generate=own)
      return programs.generate(self.net, config, self._titles)[1]

    seconds = None
    if first["seconds"] is not None:
      groups = users / shape.group
      seconds = _sum(groups * first["seconds"], row["seconds"])
    return {
      "users_per_second": _rate(users, seconds),
      "largest_batch": self._search(row, program_of, users, _MOST_USERS),
      "meshes": self._meshes(shape, turns),
    }

  def _meshes(
    self, shape: programs.GenerateShape, turns: int
  ) -> list[dict[str, Any]] | None:
    """Returns what each mesh of these devices makes of decoding, best first."""
    chip = self.target.chip
    if chip is None:
      return None
    found = meshes.estimates(
      self.sizes, shape, turns, self.devices, chip, self.capacity or chip.memory
    )
    return [dataclasses.asdict(one) for one in found]

  def _width(self) -> int:
    """Returns the length of the embeddings."""
    path = self.config.embed.model.path
    return encoders.width(path) if path else self.arch.hidden_size

  def _ground(self) -> dict[str, Any]:
    items = self._num_items()
    shape = programs.ground_shape(self.config, items, self._width(), self.mesh)
    near, count = programs.ground(shape, self.mesh)
    layout = shape.layout
    first = self._compile(
      near, work.distances(shape.users, layout.padded, shape.width), shape
    )
    last = self._compile(
      count, work.counting(shape.users, layout.padded), shape
    )
    seconds = _sum(first["seconds"], last["seconds"])
    return {"items": items, "users_per_second": _rate(shape.users, seconds)}


def _sum(*values: float | None) -> float | None:
  known = [value for value in values if value is not None]
  return sum(known) if len(known) == len(values) else None


def _rate(count: int, seconds: float | None) -> float | None:
  return None if seconds is None else count / seconds
