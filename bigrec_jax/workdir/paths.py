"""Where every file of a workdir is."""

import dataclasses
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from bigrec_jax import errors

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclasses.dataclass(frozen=True)
class Paths:
  """The files and folders of one workdir (docs/design.md)."""

  root: pathlib.Path

  @property
  def config(self) -> pathlib.Path:
    """What the workdir was made with (workdir/settings.py)."""
    return self.root / "config.json"

  @property
  def ledger(self) -> pathlib.Path:
    """What files that were given held (workdir/ledger.py)."""
    return self.root / "given.json"

  @property
  def data(self) -> pathlib.Path:
    return self.root / "data"

  @property
  def catalogue(self) -> pathlib.Path:
    return self.data / "catalogue.jsonl"

  @property
  def attributes(self) -> pathlib.Path:
    return self.data / "attributes.jsonl"

  @property
  def users(self) -> pathlib.Path:
    return self.data / "users.jsonl"

  @property
  def manifest(self) -> pathlib.Path:
    return self.data / "manifest.json"

  @property
  def doctor(self) -> pathlib.Path:
    return self.data / "doctor.json"

  @property
  def base(self) -> pathlib.Path:
    return self.root / "base"

  @property
  def converted_base(self) -> pathlib.Path:
    """The quantised base as Orbax restores it; may be deleted."""
    return self.root / "converted_base"

  @property
  def converted_gguf(self) -> pathlib.Path:
    """The base of a GGUF file in Hugging Face layout; may be deleted."""
    return self.converted_base / "gguf"

  @property
  def other_model(self) -> pathlib.Path:
    """What was converted of a model beside the base; may be deleted."""
    return self.root / "other_model"

  @property
  def chat_log(self) -> pathlib.Path:
    """One line for each turn of every chat."""
    return self.root / "chat.jsonl"

  @property
  def adapter(self) -> pathlib.Path:
    return self.root / "adapter"

  @property
  def first(self) -> pathlib.Path:
    """The first of two stages of training: a workdir of its own, in part."""
    return self.root / "first"

  @property
  def chosen(self) -> pathlib.Path:
    """The injection that valid likes best (results/chosen.py)."""
    return self.root / "chosen.json"

  @property
  def checkpoints(self) -> pathlib.Path:
    return self.root / "checkpoints"

  @property
  def embeddings(self) -> pathlib.Path:
    return self.root / "embeddings"

  @property
  def editions(self) -> pathlib.Path:
    """Items added or withdrawn later (data/prepared/editions.py)."""
    return self.root / "catalogue"

  @property
  def metrics(self) -> pathlib.Path:
    return self.root / "metrics"

  @property
  def train_metrics(self) -> pathlib.Path:
    return self.metrics / "train.jsonl"

  @property
  def pretrain_metrics(self) -> pathlib.Path:
    return self.metrics / "pretrain.jsonl"

  @property
  def ground_eval(self) -> pathlib.Path:
    return self.metrics / "ground_eval.json"

  @property
  def item_fairness(self) -> pathlib.Path:
    """Groups of items in everybody's lists (results/item_fairness.py)."""
    return self.metrics / "item_fairness.json"

  @property
  def contamination(self) -> pathlib.Path:
    return self.metrics / "contamination.json"

  def task_metrics(self, task: str) -> pathlib.Path:
    """Rows of any task but `next_title`, whose file is `ground_eval`."""
    return self.metrics / f"{task}.json"

  def task_each(self, task: str) -> pathlib.Path:
    """What every example of a split adds to `task_metrics`."""
    return self.metrics / f"{task}.npz"

  @property
  def seeds(self) -> pathlib.Path:
    """Mean and deviation of the runs in `seed` (results/seeds.py)."""
    return self.metrics / "seeds.json"

  def seed(self, number: int) -> pathlib.Path:
    """The workdir of one of several seeds."""
    return self.root / f"seed-{number}"

  @property
  def throughput(self) -> pathlib.Path:
    return self.metrics / "throughput.json"

  @property
  def tensorboard(self) -> pathlib.Path:
    return self.root / "tensorboard"

  @property
  def ranks(self) -> pathlib.Path:
    return self.root / "ranks"

  @property
  def report(self) -> pathlib.Path:
    return self.root / "report" / "index.html"

  def is_own(self, name: str) -> bool:
    """Returns whether an entry of the workdir is an artefact of a stage.

    Whatever begins with a dot is being written, and an adapter may have been
    set aside.
    """
    own = {
      self.ledger,
      *(self.config, self.data, self.base, self.converted_base, self.adapter),
      self.first,
      *(self.chosen, self.checkpoints, self.embeddings, self.editions),
      *(self.other_model, self.chat_log, self.metrics),
      *(self.tensorboard, self.ranks, self.report.parent, self.plan),
      *(self.export, self.record("x").parent, self.predictions("x").parent),
      self.cf_scores("x", "x").parent.parent,
    }
    known = {path.name for path in own}
    return name in known or name.startswith((".", "adapter.", "seed-"))

  @property
  def recommendations(self) -> pathlib.Path:
    """One line for each history: its items with scores and provenance."""
    return self.root / "recommendations.jsonl"

  @property
  def parts(self) -> pathlib.Path:
    """What stages that were cut short had finished (workdir/parts.py)."""
    return self.root / ".parts"

  @property
  def plan(self) -> pathlib.Path:
    return self.root / "plan.json"

  @property
  def selfcheck(self) -> pathlib.Path:
    return self.root / "selfcheck.json"

  @property
  def export(self) -> pathlib.Path:
    return self.root / "export"

  def record(self, stage: str) -> pathlib.Path:
    """What the artefact of a stage was made from (workdir/records.py)."""
    return self.root / "records" / f"{stage}.json"

  @property
  def ground_examples(self) -> pathlib.Path:
    """A few test users' histories, predictions and grounded items."""
    return self.ranks / "test_examples.json"

  def predictions(self, split: str) -> pathlib.Path:
    """BIGRec rows with `predict` and `scores`, best first."""
    return self.root / "predictions" / f"{split}.json"

  def cf_scores(self, model: str, split: str) -> pathlib.Path:
    """float32 [examples, items] scores of a CF model."""
    return self.root / "cf" / model / f"{split}.npy"


def real(path: str | os.PathLike) -> pathlib.Path:
  """Returns where a path leads; of links in a loop, the link itself.

  `Path.resolve` raises a RuntimeError there, which isn't a user's line.
  """
  return pathlib.Path(os.path.realpath(path))


def refuse_urls(values: Mapping[str, Any]) -> None:
  """Refuses a bucket or another URL where files are read and written.

  Locks, renames and memory maps need a file system; pathlib would make a
  local folder `gs:` of it.

  Args:
    values: by the flag that they are of; only text may be a path.

  Raises:
    UserError: one is a URL.
  """
  for flag, value in values.items():
    if isinstance(value, str) and _URL.match(value):
      raise errors.UserError(
        f"--{flag}: {value} found, a path of a file system expected; mount a"
        " bucket (gcsfuse, mountpoint-s3; launch/tpu_vm.sh mounts one) and name"
        " the path there"
      )
