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
  compiled_rows,
  compiling,
  meshes,
  of_task,
  programs,
  run_cost,
  titles as titles_lib,
  topology,
  train_part,
  uncounted,
  versions,
  work,
)
from bigrec_jax.tasks import protocol
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
    self._rows = compiled_rows.Rows(
      config.plan, target, self.mesh, self.capacity, tell
    )
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
    self._uncounted = uncounted.keys(
      self.config, self._titles.trie is not None, self._task.step is not None
    )
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
    about = self.config, self.paths, self.net, self.sizes
    train = train_part.Train(
      *about, self._rows, self._task, self._titles, self.target.chip
    )
    parts = {"train": train.make, "generate": self._generate}
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
      else all(row["fits"] for row in self._rows.found),
      "programs": self._rows.found,
      **found,
      "run": run_cost.whole(self.config, self.paths, found, self.devices),
      "uncounted": self._uncounted,
      "table_bytes": self._titles.sizes(),
      "quick": self.config.plan.quick,
      "versions": versions.read(),
    }

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
    first = self._rows.add(read, prompts, shape)
    row = self._rows.add(advance, work.add((turns, token)), shape)

    def program_of(users: int) -> compiling.Program:
      own = dataclasses.replace(self.config.generate, batch_size=users)
      config = dataclasses.replace(self.config, generate=own)
      return programs.generate(self.net, config, self._titles)[1]

    seconds = None
    if first["seconds"] is not None:
      groups = users / shape.group
      seconds = compiled_rows.added(groups * first["seconds"], row["seconds"])
    return {
      "users_per_second": _rate(users, seconds),
      "largest_batch": self._rows.largest(row, program_of, users, _MOST_USERS),
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
    first = self._rows.add(
      near, work.distances(shape.users, layout.padded, shape.width), shape
    )
    last = self._rows.add(
      count, work.counting(shape.users, layout.padded), shape
    )
    seconds = compiled_rows.added(first["seconds"], last["seconds"])
    return {"items": items, "users_per_second": _rate(shape.users, seconds)}


def _rate(count: int, seconds: float | None) -> float | None:
  return None if seconds is None else count / seconds
