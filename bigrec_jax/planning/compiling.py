"""Compiles a program ahead of time and reads what XLA says about it."""

import dataclasses
import pathlib
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
from absl import logging

from bigrec_jax.planning import hlo

# Of libtpu 0.0.42 and 0.0.51; both count arguments too, whatever they say.
_FULL = re.compile(
  r"(?:Used |memory required for HLO temporaries \()([\d.]+)([KMGT]?)"
  r"(?: of [\d.]+[KMGT]? hbm|\) exceeds available HBM)",
  re.IGNORECASE,
)
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Program:
  """One compiled function of the product, on abstract arguments.

  Attributes:
    name: for the plan.
    lower: returns the lowered function.
    elsewhere: bytes a device that stay in memory though the program does not
      take them, e.g. Adam's moments while gradients are summed.
    loops: turns of its loops, see `hlo.collectives`.
  """

  name: str
  lower: Callable[[], jax.stages.Lowered]
  elsewhere: int
  loops: Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class Memory:
  """Bytes of one device while a program runs.

  Attributes:
    arguments: weights, state and inputs.
    outputs: that do not take an argument's place.
    temporaries: everything in between.
    code: the program.
    elsewhere: see `Program`.
    refused: what the compiler says the program would take, where it did not
      fit; the parts are 0 then.
  """

  arguments: int = 0
  outputs: int = 0
  temporaries: int = 0
  code: int = 0
  elsewhere: int = 0
  refused: int = 0

  @property
  def peak(self) -> int:
    """All of it together."""
    parts = self.arguments + self.outputs + self.temporaries + self.code
    return max(parts, self.refused) + self.elsewhere


@dataclasses.dataclass(frozen=True)
class Compiled:
  """What is known of a compiled program.

  Attributes:
    memory: of one device.
    collectives: see `hlo.Collective`; None where the program did not fit.
    unknown_loops: see `hlo.collectives`.
    xla_flops: XLA's count on one device, loop bodies once.
    xla_bytes: likewise.
    seconds: that compiling took.
  """

  memory: Memory
  collectives: list[hlo.Collective] | None
  unknown_loops: list[str]
  xla_flops: float | None
  xla_bytes: float | None
  seconds: float


def run(program: Program, devices: int, quick: bool) -> Compiled:
  """Compiles a program.

  Args:
    program: what.
    devices: of its mesh.
    quick: let the compiler try less hard: several times faster, and more
      memory rather than less.

  Raises:
    JaxRuntimeError: anything but too little memory.
  """
  start = time.monotonic()
  logging.info("plan: compiling %s", program.name)
  lowered = program.lower()
  # jax's stubs know strings and flags only.
  options: Any = {"exec_time_optimization_effort": -1.0} if quick else {}
  with tempfile.TemporaryDirectory() as folder:
    options |= {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
    try:
      compiled = lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
      used = refused_bytes(str(error))
      if used is None:
        raise
      memory = Memory(refused=used, elsewhere=program.elsewhere)
      return Compiled(memory, None, [], None, None, time.monotonic() - start)
    text = _text(compiled, pathlib.Path(folder))
  found: Any = compiled.memory_analysis()
  memory = Memory(
    arguments=found.argument_size_in_bytes,
    outputs=found.output_size_in_bytes - found.alias_size_in_bytes,
    temporaries=found.temp_size_in_bytes,
    code=found.generated_code_size_in_bytes,
    elsewhere=program.elsewhere,
  )
  items, unknown = hlo.collectives(text, program.loops, devices)
  cost = compiled.cost_analysis() or {}
  return Compiled(
    memory=memory,
    collectives=items,
    unknown_loops=unknown,
    xla_flops=cost.get("flops"),
    xla_bytes=cost.get("bytes accessed"),
    seconds=time.monotonic() - start,
  )


def _text(compiled: jax.stages.Compiled, folder: pathlib.Path) -> str:
  """Returns the compiled program as the compiler wrote it.

  `as_text` has jaxlib read it back first, which fails for some programs of a
  newer libtpu ("async-update instruction should have 1 operands").
  """
  # Beside it lie small modules that the compiler took out of it.
  written = list(folder.glob("*.jit_*after_optimizations.txt"))
  if len(written) == 1:
    return written[0].read_text()
  return compiled.as_text() or ""


def refused_bytes(message: str) -> int | None:
  """Returns the bytes that a program would take, from the compiler's refusal.

  Args:
    message: of the exception; None is returned if it is about anything else.
  """
  match = _FULL.search(message)
  if match is None:
    return None
  return round(float(match.group(1)) * _UNITS[match.group(2).upper()])
