"""Editions of a catalogue: items that came, or went, after it was prepared.

What was prepared never changes: splits, CF models and evaluations number its
rows. An edition is that catalogue, then items that were added in order, less
those that were withdrawn. On disk, under catalogue/ of a workdir:

  items-<name>.jsonl, .npy   added together: ids with titles, and their vectors
  edition-<number>.json      which of these files, what is withdrawn, and the
                             edition it was made of
  current.json               the number of the one that counts

Each is written whole, and current.json last, so that a kill leaves the edition
before. Nothing is ever changed or removed: to roll back is to name another.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bigrec_jax import errors
from bigrec_jax.data.prepared import catalogue as catalogue_lib
from bigrec_jax.workdir import (
  arrays,
  fields,
  fingerprints,
  paths as paths_lib,
  storage,
)

_CURRENT = "current.json"


class Segment(NamedTuple):
  """Items that were added together.

  Attributes:
    name: of their files.
    size: items.
    digest: of both files.
    encoder: fingerprint of what embedded them.
  """

  name: str
  size: int
  digest: str
  encoder: str


@dataclasses.dataclass(frozen=True, eq=False)
class Edition:
  """What a catalogue offers beyond, and less than, what was prepared.

  Attributes:
    number: 0 is the prepared catalogue as it is.
    parent: the edition that it was made of; of 0 itself.
    prepared: fingerprint of the prepared catalogue.
    segments: what was added, in order.
    withdrawn: external ids that aren't listed any more, sorted.
    external_ids: of all that was added.
    titles: of these.
  """

  number: int
  parent: int
  prepared: str
  segments: tuple[Segment, ...] = ()
  withdrawn: tuple[str, ...] = ()
  external_ids: tuple[str, ...] = ()
  titles: tuple[str, ...] = ()

  @functools.cached_property
  def fingerprint(self) -> str:
    """Names what is offered; that of the prepared catalogue where it's that."""
    if not self.titles and not self.withdrawn:
      return self.prepared
    return fingerprints.of_value(
      [self.prepared, [s.digest for s in self.segments], list(self.withdrawn)]
    )

  def plus(
    self, external_ids: Sequence[str], titles: Sequence[str]
  ) -> "Edition":
    """Returns what it will be with more items; without a number, or files."""
    return dataclasses.replace(
      self,
      number=-1,
      external_ids=(*self.external_ids, *external_ids),
      titles=(*self.titles, *titles),
    )

  def without(self, withdrawn: Sequence[str]) -> "Edition":
    """Returns what it will be with exactly these withdrawn; likewise."""
    return dataclasses.replace(
      self, number=-1, withdrawn=tuple(sorted(withdrawn))
    )

  def offered(
    self, prepared: catalogue_lib.Catalogue
  ) -> catalogue_lib.Catalogue:
    """Returns the catalogue with all rows, those of withdrawn items too."""
    if not self.titles:
      return prepared
    return prepared.extended(self.external_ids, self.titles, self.fingerprint)

  def listed(self, offered: catalogue_lib.Catalogue) -> np.ndarray | None:
    """Returns which rows may be listed, [I] bool; None = all of them."""
    if not self.withdrawn:
      return None
    result = np.ones(len(offered), bool)
    for external_id in self.withdrawn:
      row = offered.index_of_external_id(external_id)
      if row is not None:
        result[row] = False
    return result


class Store:
  """The editions of a workdir; one writer at a time."""

  def __init__(self, paths: paths_lib.Paths, prepared: str):
    """Reads nothing yet.

    Args:
      paths: of the workdir.
      prepared: fingerprint of its catalogue.
    """
    self.directory = paths.editions
    self._prepared = prepared

  def current(self) -> Edition:
    """Returns the edition that counts.

    Raises:
      UserError: a file is missing or damaged, or of another catalogue.
    """
    return self.read(self.current_number())

  def current_number(self) -> int:
    """Returns the number of the edition that counts."""
    path = self.directory / _CURRENT
    if not path.exists():
      return 0
    return fields.Fields(storage.read_json(path), f"{path}:").get(
      "number", fields.count
    )

  def read(self, number: int) -> Edition:
    """Returns an edition by its number; see `current`."""
    if number == 0:
      return Edition(0, 0, self._prepared)
    path = self._path(number)
    record = fields.Fields(storage.read_json(path), f"{path}:")
    fields.check_schema(record)
    found = record.get("prepared", fields.text)
    if found != self._prepared:
      raise errors.UserError(
        f"{path}: of catalogue {found}, {self._prepared} expected: the data"
        f" were prepared anew; remove {self.directory} and add its items again"
      )
    segments = tuple(
      _segment(value, where)
      for value, where in record.get("segments", _with_places)
    )
    ids: list[str] = []
    titles: list[str] = []
    for segment in segments:
      own = self._rows(segment)
      ids += own[0]
      titles += own[1]
    return Edition(
      number,
      record.get("parent", fields.count),
      self._prepared,
      segments,
      tuple(record.get("withdrawn", fields.sequence(fields.text))),
      tuple(ids),
      tuple(titles),
    )

  def vectors(self, edition: Edition, encoder: str, width: int) -> np.ndarray:
    """Returns the embeddings [A, D] float32 of what was added.

    Args:
      edition: whose.
      encoder: fingerprint of the present one.
      width: D.

    Raises:
      UserError: they are missing or damaged, or of another encoder.
    """
    found = [np.zeros((0, width), np.float32)]
    for segment in edition.segments:
      path = self.directory / f"{segment.name}.npy"
      if segment.encoder != encoder:
        raise errors.UserError(
          f"{path}: made with encoder {segment.encoder}, {encoder} expected;"
          f" remove {self.directory} and add its items again"
        )
      own = arrays.read_npy(path, mapped=True)
      if own.dtype != np.float32 or own.shape != (segment.size, width):
        raise errors.UserError(
          f"{path}: {own.dtype} {list(own.shape)} found, float32"
          f" {[segment.size, width]} expected"
        )
      found.append(own)
    return np.concatenate(found)

  def added(
    self,
    before: Edition,
    external_ids: Sequence[str],
    titles: Sequence[str],
    vectors: np.ndarray,
    encoder: str,
  ) -> Edition:
    """Writes and returns the edition with more items; they count at once.

    Args:
      before: the current one.
      external_ids: of the items, none of which the edition has.
      titles: of them.
      vectors: [A, D] float32, their embeddings.
      encoder: fingerprint of what made these.
    """
    name = fingerprints.of_value([list(external_ids), list(titles), encoder])
    lines = [
      json.dumps({"external_id": i, "title": t}, ensure_ascii=False) + "\n"
      for i, t in zip(external_ids, titles, strict=True)
    ]
    stem = self.directory / f"items-{name}"
    with storage.atomic_path(stem.with_suffix(".jsonl")) as temporary:
      temporary.write_text("".join(lines), encoding="utf-8")
    with storage.atomic_path(stem.with_suffix(".npy")) as temporary:
      with open(temporary, "wb") as file:
        np.save(file, np.asarray(vectors, np.float32), allow_pickle=False)
    segment = Segment(stem.name, len(titles), self._digest(stem.name), encoder)
    after = before.plus(external_ids, titles)
    segments = (*before.segments, segment)
    return self._write(dataclasses.replace(after, segments=segments), before)

  def with_withdrawn(
    self, before: Edition, withdrawn: Sequence[str]
  ) -> Edition:
    """Writes and returns the edition in which exactly these are withdrawn."""
    return self._write(before.without(withdrawn), before)

  def rolled_back(self, before: Edition) -> Edition:
    """Returns the edition that one was made of; it counts from now on.

    Raises:
      UserError: there is none before it.
    """
    if before.number == 0:
      raise errors.UserError(
        f"{self.directory}: the prepared catalogue found, an edition with"
        " something before it expected"
      )
    found = self.read(before.parent)
    storage.write_json(self.directory / _CURRENT, {"number": found.number})
    return found

  def _write(self, after: Edition, before: Edition) -> Edition:
    # A number is given once: an edition that was rolled back stays readable.
    taken = [
      int(path.stem.removeprefix("edition-"))
      for path in self.directory.glob("edition-*.json")
    ]
    after = dataclasses.replace(
      after, number=max(taken, default=0) + 1, parent=before.number
    )
    storage.write_json(
      self._path(after.number),
      {
        "schema": fields.SCHEMA,
        "number": after.number,
        "parent": after.parent,
        "prepared": after.prepared,
        "segments": [segment._asdict() for segment in after.segments],
        "withdrawn": list(after.withdrawn),
      },
    )
    storage.write_json(self.directory / _CURRENT, {"number": after.number})
    return after

  def _path(self, number: int) -> pathlib.Path:
    return self.directory / f"edition-{number:06}.json"

  def _digest(self, name: str) -> str:
    stem = self.directory / name
    kinds = (".jsonl", ".npy")
    return fingerprints.of_value(
      [fingerprints.of_file(stem.with_suffix(kind)) for kind in kinds]
    )

  def _rows(self, segment: Segment) -> tuple[list[str], list[str]]:
    """Returns the ids and titles of a segment, whose files are whole."""
    path = self.directory / f"{segment.name}.jsonl"
    try:
      digest = self._digest(segment.name)
    except OSError as error:
      raise errors.UserError(f"{path}: {error.strerror or error}") from None
    if digest != segment.digest:
      raise errors.UserError(
        f"{path}: it or its .npy were changed since they were written; the"
        " files as they were, or the edition before (rollback), expected"
      )
    ids, titles = [], []
    for place, value in storage.read_lines(path):
      row = fields.Fields(value, place)
      ids.append(row.get("external_id", fields.text))
      titles.append(row.get("title", fields.text))
    return ids, titles


def _with_places(value: Any, where: str) -> list[tuple[Any, str]]:
  if not isinstance(value, list):
    raise fields.refuse(where, value, "a list")
  return [(each, f"{where}[{n}]") for n, each in enumerate(value)]


def _segment(value: Any, where: str) -> Segment:
  own = fields.Fields(value, where)
  return Segment(
    # Of this folder, whatever the file says.
    pathlib.PurePath(own.get("name", fields.text)).name,
    own.get("size", fields.count),
    own.get("digest", fields.text),
    own.get("encoder", fields.text),
  )
