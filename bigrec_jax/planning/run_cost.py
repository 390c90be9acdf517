"""What a whole run takes at least: steps, hours of the machine, money."""

from collections.abc import Mapping
from typing import Any

from bigrec_jax import config as config_lib
from bigrec_jax.data.prepared import manifest
from bigrec_jax.workdir import paths as paths_lib


def _examples(
  config: config_lib.Config, paths: paths_lib.Paths, split: str
) -> int | None:
  """Returns how many rows of a split a run takes; None = nobody knows."""
  stored = None
  if paths.manifest.exists():
    stored = manifest.read(paths.manifest).num_examples.get(split)
  wanted = getattr(config.data, f"num_{split}")
  known = [n for n in (wanted, stored) if n is not None and n != -1]
  return min(known, default=None)


def train(
  config: config_lib.Config,
  paths: paths_lib.Paths,
  seconds_per_step: float | None,
  devices: int,
  samples: int | None = None,
) -> dict[str, Any]:
  """Returns steps and chip-hours of the configured training.

  Args:
    config: sections data and train.
    paths: of a workdir, which may hold a manifest.
    seconds_per_step: None = not known.
    devices: their number.
    samples: that a task makes of the rows; None = one a row.
  """
  found = _examples(config, paths, "train")
  if found is None:
    return {"examples": None, "steps": None, "chip_hours": None}
  found = found if samples is None else samples
  steps = config.train.num_epochs * -(-found // config.train.batch_size)
  hours = None
  if seconds_per_step is not None:
    hours = steps * seconds_per_step * devices / 3600
  return {"examples": found, "steps": steps, "chip_hours": hours}


def whole(
  config: config_lib.Config,
  paths: paths_lib.Paths,
  parts: Mapping[str, Mapping[str, Any]],
  devices: int,
) -> dict[str, Any] | None:
  """Returns hours of all devices together, and what they cost.

  Args:
    config: `report.price_per_hour` is that of the machine.
    paths: of a workdir, which may hold a manifest.
    parts: `train` and `generate` of plan.json.
    devices: their number.

  Returns:
    None where a part is missing or has no time. All epochs count, though
    training may stop early; evaluating them, embedding the catalogue and
    starting do not.
  """
  chip_hours = parts.get("train", {}).get("chip_hours")
  rate = parts.get("generate", {}).get("users_per_second")
  sizes = [_examples(config, paths, split) for split in ("valid", "test")]
  users = None if None in sizes else sum(n for n in sizes if n is not None)
  if chip_hours is None or rate is None or users is None:
    return None
  training, writing = chip_hours / devices, users / rate / 3600
  price = config.report.price_per_hour
  return {
    "train_hours": training,
    "generate_hours": writing,
    "users": users,
    "price_per_hour": price,
    "cost": (training + writing) * price if price else None,
  }
