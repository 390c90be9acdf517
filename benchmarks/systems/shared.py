"""What systems share: prepared data, one base a seed, CF models, and costs.

Test users are the first 1,000 of the 2,000 of docs/quality.md, valid's the
first 250: samples are prefixes of one permutation, so the first 1,000 ranks of
a cell there are of the users here.
"""

import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections

from benchmarks.quality import cells, datasets, lm_cells, product
from bigrec_jax import config as config_lib
from bigrec_jax.stages import (
  prepare,
  pretrain,
  session as session_lib,
  train_cf,
)
from bigrec_jax.workdir import locks, records, storage
from configs import demo, real

SCRATCH = pathlib.Path(__file__).parents[2] / ".scratch" / "systems"
RESULTS = pathlib.Path(__file__).parents[1] / "results" / "systems"
DATA = ("ml-latest-small", "amazon-toys")
USERS, VALID, TRAIN = 1000, 250, 1024
CUTOFFS = (1, 5, 10)
CF = "sasrec"
# Counted and trained once a seed; of all train rows, as the base has read them.
MODELS = ("most_pop", "item_knn", CF)
CF_KEYS = {
  "cf.num_train": -1,
  "cf.loss": "softmax",
  "cf.family": "dros",
  "cf.hidden_size": 64,
  "cf.num_layers": 1,
  "cf.num_heads": 1,
  "cf.dropout": 0.1,
  "cf.learning_rate": 3e-3,
  "cf.weight_decay": 1e-6,
  "cf.batch_size": 256,
  "cf.num_epochs": 6,
  "cf.patience": 3,
  "cf.num_seeds": 1,
  "cf.mask_seen": False,
}
# Of a try with few users.
_TRY = {"cf.num_train": 0, "cf.num_epochs": 1}
# The base that is made here is the demo's: 0.7 M parameters.
_STEPS = 600
_ALL = ("q", "k", "v", "o", "gate", "up", "down")


@dataclasses.dataclass(frozen=True)
class Base:
  """A language model that all systems of a table start from.

  Attributes:
    title: for tables.
    keys: of every system's configuration, beside those of `tuning`.
  """

  title: str
  keys: dict[str, Any]


BASES = {
  "small": Base("a LLaMA of 0.7 M parameters", {}),
  "smollm2": Base("SmolLM2-135M", {}),
}


@dataclasses.dataclass(frozen=True)
class Place:
  """What the cells of one data set, base and number of users share.

  Attributes:
    data: the data set.
    base: of `BASES`.
    folder: of the data.
    users: test users; fewer than the page's stay in the scratch folder.
    steps: of pretraining, where the base is made here.
    results: where cells are written.
    common: of the workdirs that bases have in common.
    work: of the others.
  """

  data: str
  base: str
  folder: pathlib.Path
  users: int
  steps: int
  results: pathlib.Path
  common: pathlib.Path
  work: pathlib.Path

  @property
  def is_try(self) -> bool:
    """Whether this shows that all works, and nothing else."""
    return self.users != USERS

  @property
  def cf_keys(self) -> dict[str, Any]:
    """Keys of section `cf`, the same for every system."""
    return CF_KEYS | _TRY if self.is_try else CF_KEYS

  @property
  def data_keys(self) -> dict[str, Any]:
    """Keys of section `data`, the same for every system."""
    own = datasets.flags(self.data, self.folder, self.users)
    return {key: own[key] for key in own if key.startswith("data.")} | {
      "data.num_train": 64 if self.is_try else TRAIN,
      "data.num_valid": min(VALID, self.users),
      "data.max_history": 10,
    }

  def name(self, system: str, seed: int) -> cells.Name:
    """Returns the name of a cell."""
    return cells.Name(self.data, system, TRAIN, seed)

  def is_made(self, name: cells.Name) -> bool:
    """Returns whether a cell is there already."""
    return name.path(self.results).exists()


def place(data: str, base: str, folder: pathlib.Path, users: int) -> Place:
  """Returns where the cells of a data set and base work and are kept."""
  results, steps, scratch = RESULTS / base, _STEPS, SCRATCH
  if users != USERS:
    scratch = SCRATCH / f"try-{users}"
    results, steps = scratch / "results" / base, 20
  common, work = scratch / "common" / data, scratch / base / data
  own = folder.resolve(), users, steps, results, common, work
  return Place(data, base, *own)


def tuning(seed: int) -> dict[str, Any]:
  """Returns what every system's tuning and evaluation have in common.

  Adapters, batches, steps and learning rate are alike, whatever was published
  for seven billion parameters: systems differ by their task.
  """
  return {
    "seed": seed,
    "model.dtype": "float32",
    "lora.rank": 16,
    "lora.alpha": 32.0,
    "lora.dropout": 0.05,
    "lora.target_modules": tuple(f"{name}_proj" for name in _ALL),
    "train.batch_size": 32,
    "train.micro_batch_size": 8,
    "train.num_epochs": 2,
    "train.learning_rate": 1e-3,
    "train.warmup_steps": 10,
    "train.max_length": 512,
    "train.length_buckets": (256,),
    "train.train_on_inputs": False,
    "generate.batch_size": 64,
    "generate.max_new_tokens": 48,
    "generate.prompt_buckets": (256, 512, 1024),
    "ground.cutoffs": CUTOFFS,
    "ground.cf_model": CF,
    "ground.bootstrap_samples": 200,
    "ground.permutations": 1000,
    "cf.model": CF,
  }


@contextlib.contextmanager
def session(
  workdir: pathlib.Path,
  config: ml_collections.ConfigDict,
  changes: Mapping[str, Any],
) -> Iterator[session_lib.Session]:
  """Yields a session that writes to a workdir, alone; waits for others.

  Raises:
    UserError: a key is unknown or a value out of its range.
  """
  config.update_from_flattened_dict(dict(changes))
  asked = session_lib.Asked(flags=(f"--workdir={workdir}",))
  workdir.parent.mkdir(parents=True, exist_ok=True)
  with locks.turn(workdir), locks.writer(workdir, "benchmarks.systems"):
    yield session_lib.Session(
      config_lib.from_config_dict(config), workdir, asked
    )


def _prepared(at: Place) -> pathlib.Path:
  own = at.common / "prepared"
  with session(own, real.get_config(), at.data_keys) as made:
    made.make(prepare.STAGE)
  return own


def arch_keys(at: Place) -> dict[str, Any]:
  """Returns the keys of a base that is made here: those of the demo."""
  values = demo.get_config()
  keys = [f"model.arch.{key}" for key in values.model.arch]
  keys += [f"pretrain.{key}" for key in values.pretrain]
  flat = records.flatten(values.to_dict())
  return {key: flat[key] for key in keys} | {"pretrain.num_steps": at.steps}


def base_of(at: Place, seed: int) -> str:
  """Returns the directory of the base: made here once a seed, or a package's.

  The small one reads all train rows as BIGRec's texts, so no system that starts
  from it is few-shot: 1,024 rows are what its own task is taught with.
  """
  if at.base == "smollm2":
    return str(lm_cells.base())
  own = at.work / f"base-{seed}"
  changes = at.data_keys | datasets.DATA[at.data].prompt
  changes |= {"seed": seed, "pretrain.num_steps": at.steps}
  clock = Clock(own)
  with session(own, demo.get_config(), changes) as made:
    with clock.time("pretrain"):
      made.make(*pretrain.needed(made))
  return str(own / "base")


def with_cf(at: Place, seed: int) -> pathlib.Path:
  """Returns a workdir with data and CF models; those of systems are copies."""
  own = product.copied(_prepared(at), at.common / f"cf-{seed}")
  clock = Clock(own)
  changes = at.data_keys | {"seed": seed} | at.cf_keys
  for model in MODELS:
    keys = changes | {"cf.model": model}
    with session(own, real.get_config(), keys) as made, clock.time(model):
      made.make(train_cf.stage(model))
  return own


class Clock:
  """Wall and CPU seconds of steps, kept beside a workdir over restarts.

  A kill loses those of the step that it cuts.
  """

  def __init__(self, workdir: pathlib.Path):
    """Reads what was spent before."""
    self._path = workdir.with_name(f"{workdir.name}.cost.json")
    known = storage.read_json_if_whole(self._path) or {}
    self.wall: dict[str, float] = dict(known.get("wall", {}))
    self.cpu: dict[str, float] = dict(known.get("cpu", {}))

  @contextlib.contextmanager
  def time(self, name: str) -> Iterator[None]:
    """Adds what happens inside to a step."""
    wall, cpu = time.perf_counter(), time.process_time()
    try:
      yield
    finally:
      spent = time.perf_counter() - wall, time.process_time() - cpu
      for known, more in zip((self.wall, self.cpu), spent, strict=True):
        known[name] = round(known.get(name, 0.0) + more, 1)
      storage.write_json(self._path, {"wall": self.wall, "cpu": self.cpu})
