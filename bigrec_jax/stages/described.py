"""What a stage would make, as a line of --dry_run."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bigrec_jax.stages import graph

if TYPE_CHECKING:
  from bigrec_jax.stages.session import Session

_MOST_REASONS = 5  # In a line; a new version may bring dozens of keys.


def describe(
  found: graph.Found,
  session: "Session",
  speeds: Mapping[str, Mapping[str, Any]],
) -> str:
  """Returns the line of a stage for --dry_run.

  Args:
    found: how it stands.
    session: whose command it is.
    speeds: content of metrics/throughput.json.
  """
  stage = found.stage
  line = f"{stage.mode}: {stage.where(session)}"
  if found.is_current:
    told = f" (made with {'; '.join(found.told)})" if found.told else ""
    return f"{line} is current{told}"
  if found.status is graph.Status.WAITING:
    why = f"after {', '.join(found.why)}"
  else:
    why = "; ".join(found.why[:_MOST_REASONS])
    if more := len(found.why[_MOST_REASONS:]):
      why += f"; and {more} more"
  return f"{line} would be made: {why}{_priced(stage.cost(session), speeds)}"


def _priced(
  cost: graph.Cost | None, speeds: Mapping[str, Mapping[str, Any]]
) -> str:
  if cost is None:
    return ""
  most = "at most " if cost.at_most else ""
  line = f"; {most}{cost.count:,} {cost.unit}"
  known = speeds.get(cost.label, {})
  own = "count" if known.get("unit") == cost.unit else cost.unit
  if done := known.get(own):
    seconds = cost.count * known["seconds"] / done
    line += f", {_duration(seconds)} if as fast as last time"
  return line


def _duration(seconds: float) -> str:
  if seconds < 90:
    return f"{seconds:.0f} s"
  minutes = seconds / 60
  return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
