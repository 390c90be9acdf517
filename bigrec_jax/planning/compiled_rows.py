"""The rows of a plan: programs as they are compiled, and the largest batch."""

import dataclasses
from collections.abc import Callable
from typing import Any

from jax.sharding import Mesh

from bigrec_jax import config as config_lib
from bigrec_jax.devices import sharding
from bigrec_jax.planning import compiling, fit, roofline, topology, work


class Rows:
  """Compiles programs for a topology.

  Attributes:
    found: a row for each program so far, as plan.json has them.
    capacity: bytes of a device; None = not known.
  """

  def __init__(
    self,
    config: config_lib.PlanConfig,
    target: topology.Target,
    mesh: Mesh,
    capacity: int | None,
    tell: Callable[[str], object],
  ):
    """Compiles nothing yet.

    Args:
      config: section `plan`.
      target: the devices.
      mesh: of them.
      capacity: bytes of a device; None = not known.
      tell: shown a line for each program.
    """
    self.found: list[dict[str, Any]] = []
    self.capacity = capacity
    self._config, self._target, self._tell = config, target, tell
    self._devices = len(target.devices)
    self._unit = sharding.batch_size_unit(mesh)

  def add(
    self, program: compiling.Program, done: work.Work, shape: Any
  ) -> dict[str, Any]:
    """Compiles one program and keeps its row."""
    compiled = compiling.run(program, self._devices, self._config.quick)
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
    if self._target.chip and items is not None:
      times = roofline.times(
        done, roofline.received(items), self._target.chip, self._devices
      )
      row["times"] = dataclasses.asdict(times)
      row["seconds"], row["bound"] = times.seconds, times.bound
    self.found.append(row)
    return row

  def largest(
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
    if self.capacity is None or not self._config.search:
      return None

    def peak_of(rows: int) -> int:
      program = program_of(rows)
      name = f"{program.name}, {rows} rows"
      program = dataclasses.replace(program, name=name)
      compiled = compiling.run(program, self._devices, self._config.quick)
      peak = compiled.memory.peak
      self._tell("plan: " + fit.line(program.name, peak, self.capacity))
      return peak

    known = {rows: first["memory"]["peak"]}
    limit = max(-(-useful // self._unit) * self._unit, rows)
    found = fit.largest(peak_of, known, self._unit, limit, self.capacity)
    return dataclasses.asdict(found)


def added(*values: float | None) -> float | None:
  """Returns the sum of seconds; None where one isn't known."""
  known = [value for value in values if value is not None]
  return sum(known) if len(known) == len(values) else None
