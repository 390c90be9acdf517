"""Where every file of a workdir is, how it is written and fingerprinted."""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from bigrec_jax import errors


@dataclasses.dataclass(frozen=True)
class Paths:
  """The files and folders of one workdir (DESIGN.md section 2)."""

  root: pathlib.Path

  @property
  def data(self) -> pathlib.Path:
    return self.root / "data"

  @property
  def catalogue(self) -> pathlib.Path:
    return self.data / "catalogue.jsonl"

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
  def adapter(self) -> pathlib.Path:
    return self.root / "adapter"

  @property
  def checkpoints(self) -> pathlib.Path:
    return self.root / "checkpoints"

  @property
  def embeddings(self) -> pathlib.Path:
    return self.root / "embeddings"

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

  @property
  def recommendations(self) -> pathlib.Path:
    """One line for each history: its items with scores and provenance."""
    return self.root / "recommendations.jsonl"

  @property
  def plan(self) -> pathlib.Path:
    return self.root / "plan.json"

  @property
  def export(self) -> pathlib.Path:
    return self.root / "export"

  def record(self, stage: str) -> pathlib.Path:
    """What the artefact of a stage was made from (modes/artefacts.py)."""
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


def fingerprint(value: Any) -> str:
  """Returns 16 hex digits that name a JSON-like value, or bytes, for good."""
  if not isinstance(value, bytes):
    value = json.dumps(
      value, sort_keys=True, ensure_ascii=False, default=str
    ).encode("utf-8", "surrogatepass")
  return hashlib.sha256(value).hexdigest()[:16]


def file_fingerprint(path: str | os.PathLike) -> str:
  """Returns the fingerprint of a file's bytes; the file is streamed."""
  digest = hashlib.sha256()
  with open(path, "rb") as file:
    while block := file.read(1 << 20):
      digest.update(block)
  return digest.hexdigest()[:16]


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """Yields a temporary sibling that replaces `path` once the block succeeds.

  A kill in between leaves the old file whole, never a half-written new one.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
  try:
    yield temporary
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


def write_json(
  path: str | os.PathLike, value: Any, *, indent: int | None = 2
) -> None:
  """Writes JSON atomically. NaN is refused: it isn't JSON."""
  with atomic_path(path) as temporary:
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: str | os.PathLike) -> Any:
  """Reads JSON; a missing or damaged file is a UserError that names it."""
  try:
    with open(path, encoding="utf-8") as file:
      return json.load(file)
  except FileNotFoundError:
    raise errors.UserError(f"{path}: not found") from None
  except (json.JSONDecodeError, UnicodeDecodeError) as error:
    raise errors.UserError(f"{path}: not valid JSON: {error}") from None
