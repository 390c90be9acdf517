"""The items that can be recommended: ids, titles and popularity.

data/catalogue.jsonl has a line per item: {"item", "external_id", "title",
"popularity"}, in the order of rows.
"""

import dataclasses
import functools
import json
from collections.abc import Sequence

import numpy as np

from bigrec_jax import errors
from bigrec_jax.data.text import prompts
from bigrec_jax.workdir import fingerprints, paths as paths_lib, storage

_KEYS = ("external_id", "title", "popularity")


@dataclasses.dataclass(frozen=True, eq=False)
class Catalogue:
  """The catalogue; an item is its row number everywhere in the program.

  Attributes:
    external_ids: the user's own ids, unique.
    titles: as the user gave them, with blanks and HTML entities.
    popularity: [I] int64, interactions of each item in the train part.
  """

  external_ids: tuple[str, ...]
  titles: tuple[str, ...]
  popularity: np.ndarray

  def __post_init__(self):
    sizes = {len(self.external_ids), len(self.titles), len(self.popularity)}
    if len(sizes) != 1:
      raise ValueError(f"ids, titles and popularity differ in length: {sizes}")

  def __len__(self) -> int:
    return len(self.titles)

  @functools.cached_property
  def groups(self) -> np.ndarray:
    """[I] int32: rows with equal titles share a number, their smallest row.

    Equal means equal after cleaning (prompts.clean_title): that text is what
    is embedded, so those rows can't be told apart by distance.
    """
    first: dict[str, int] = {}
    return np.array(
      [
        first.setdefault(prompts.clean_title(title), row)
        for row, title in enumerate(self.titles)
      ],
      np.int32,
    )

  @functools.cached_property
  def _by_title(self) -> dict[str, int]:
    return first_rows(self.titles)

  @functools.cached_property
  def _by_clean_title(self) -> dict[str, int]:
    return first_rows([prompts.clean_title(title) for title in self.titles])

  @functools.cached_property
  def _by_external_id(self) -> dict[str, int]:
    return first_rows(self.external_ids)

  def index_of_title(self, title: str) -> int | None:
    """Returns the smallest row with this title, None where there is none.

    The exact title comes first, then the title after cleaning.
    """
    row = self._by_title.get(title)
    if row is None:
      row = self._by_clean_title.get(prompts.clean_title(title))
    return row

  def index_of_clean_title(self, title: str) -> int | None:
    """Returns the smallest row whose cleaned title this is, or None."""
    return self._by_clean_title.get(title)

  @functools.cached_property
  def _by_folded_title(self) -> dict[str, int]:
    return first_rows([folded(title) for title in self.titles])

  def index_of_written_title(self, title: str) -> int | None:
    """Returns the smallest row with a title as people write it, or None.

    As `index_of_title`; then whatever its case is and however many blanks
    are in it.
    """
    row = self.index_of_title(title)
    return self._by_folded_title.get(folded(title)) if row is None else row

  def names(self, text: str) -> bool:
    """Returns whether a cleaned text is a title; one of blanks never is."""
    return bool(text.strip()) and self.index_of_clean_title(text) is not None

  def index_of_external_id(self, external_id: str) -> int | None:
    """Returns the row of an external id, None where there is none."""
    return self._by_external_id.get(external_id)

  @functools.cached_property
  def fingerprint(self) -> str:
    """Names ids and titles in their order; popularity is left out."""
    return fingerprints.of_value([list(self.external_ids), list(self.titles)])

  def extended(
    self, external_ids: Sequence[str], titles: Sequence[str], fingerprint: str
  ) -> "Catalogue":
    """Returns the catalogue with more rows behind its own.

    Its indexes are copied, not made again: that would take seconds of a large
    catalogue.

    Args:
      external_ids: of the new rows, none of which it has.
      titles: of them; nobody has bought these items yet.
      fingerprint: of the whole.
    """
    size = len(self)
    whole = Catalogue(
      self.external_ids + tuple(external_ids),
      self.titles + tuple(titles),
      np.concatenate([self.popularity, np.zeros(len(titles), np.int64)]),
    )
    clean = [prompts.clean_title(title) for title in titles]
    by_clean = dict(self._by_clean_title)
    groups = [
      by_clean.setdefault(title, row) for row, title in enumerate(clean, size)
    ]
    by_title, by_id = dict(self._by_title), dict(self._by_external_id)
    by_folded = dict(self._by_folded_title)
    for row, (own_id, title) in enumerate(
      zip(external_ids, titles, strict=True), size
    ):
      by_title.setdefault(title, row)
      by_folded.setdefault(folded(title), row)
      by_id.setdefault(own_id, row)
    # Where functools.cached_property looks first.
    whole.__dict__.update(
      _by_title=by_title,
      _by_clean_title=by_clean,
      _by_folded_title=by_folded,
      _by_external_id=by_id,
      groups=np.concatenate([self.groups, np.array(groups, np.int32)]),
      fingerprint=fingerprint,
    )
    return whole


def load(paths: paths_lib.Paths) -> Catalogue:
  """Reads data/catalogue.jsonl.

  Raises:
    UserError: the file is missing, or a line isn't as `save` wrote it.
  """
  ids, titles, popularity = [], [], []
  try:
    with open(paths.catalogue, encoding="utf-8") as file:
      for number, line in enumerate(file):
        row = json.loads(line)
        if row["item"] != number:
          raise ValueError(f"item {row['item']} found")
        external_id, title, count = (row[key] for key in _KEYS)
        if not (type(external_id) is type(title) is str and type(count) is int):
          raise TypeError(f"{external_id!r}, {title!r} and {count!r} found")
        if not 0 <= count < 1 << 63:
          raise ValueError(f"popularity {count} found")
        ids.append(external_id)
        titles.append(title)
        popularity.append(count)
  except FileNotFoundError:
    raise errors.UserError(
      f"{paths.catalogue}: not found, --mode=prepare makes it"
    ) from None
  except (ValueError, KeyError, TypeError, RecursionError) as error:
    raise errors.UserError(
      f"{paths.catalogue}: line {len(titles) + 1}: {repr(error)[:200]}, item"
      f" {len(titles)} with external_id, title and popularity expected"
    ) from None
  if not titles:
    raise errors.UserError(f"{paths.catalogue}: no item found")
  return Catalogue(tuple(ids), tuple(titles), np.array(popularity, np.int64))


def save(catalogue: Catalogue, paths: paths_lib.Paths) -> None:
  """Writes data/catalogue.jsonl atomically."""
  rows = zip(
    catalogue.external_ids,
    catalogue.titles,
    catalogue.popularity.tolist(),
    strict=True,
  )
  with storage.atomic_path(paths.catalogue) as temporary:
    with open(temporary, "w", encoding="utf-8") as file:
      for number, (external_id, title, popularity) in enumerate(rows):
        row = {
          "item": number,
          "external_id": external_id,
          "title": title,
          "popularity": popularity,
        }
        file.write(json.dumps(row, ensure_ascii=False) + "\n")


def folded(title: str) -> str:
  """Returns a title cleaned, in small letters, with one blank at a time."""
  return " ".join(prompts.clean_title(title).casefold().split())


def first_rows(keys: Sequence[str]) -> dict[str, int]:
  """Returns the smallest row of each key."""
  rows: dict[str, int] = {}
  for row, key in enumerate(keys):
    rows.setdefault(key, row)
  return rows
