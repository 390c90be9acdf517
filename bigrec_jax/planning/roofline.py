"""Times that a chip's peaks allow, and which of them is the bound."""

import dataclasses
from collections.abc import Iterable

from bigrec_jax.planning import chips, hlo, work


@dataclasses.dataclass(frozen=True)
class Times:
  """Seconds of one call at the chip's published peaks.

  Attributes:
    compute: of the matrix products.
    memory: of the bytes over HBM.
    network: of the bytes that a chip receives from others.
  """

  compute: float
  memory: float
  network: float

  @property
  def seconds(self) -> float:
    """The longest of the three: they overlap at best."""
    return max(self.compute, self.memory, self.network)

  @property
  def bound(self) -> str:
    """The name of the longest."""
    values = dataclasses.asdict(self)
    return max(values, key=lambda name: values[name])


def received(items: Iterable[hlo.Collective]) -> float:
  """Returns bytes that one device receives in one call."""
  return sum(item.bytes * item.times for item in items)


def times(
  done: work.Work, network_bytes: float, chip: chips.Chip, devices: int
) -> Times:
  """Returns the roofline of one call.

  Args:
    done: on all devices together; assumed to be split evenly.
    network_bytes: that one device receives.
    chip: its peaks.
    devices: their number.
  """
  return Times(
    compute=done.executed * done.passes / devices / chip.flops,
    memory=done.bytes / devices / chip.bandwidth,
    network=network_bytes / chip.network,
  )


def by_kind(items: Iterable[hlo.Collective]) -> dict[str, dict[str, float]]:
  """Returns {kind: {"count", "bytes"}} of one call on one device."""
  found: dict[str, dict[str, float]] = {}
  for item in items:
    row = found.setdefault(item.kind, {"count": 0, "bytes": 0.0})
    row["count"] += item.times
    row["bytes"] += item.bytes * item.times
  return found
