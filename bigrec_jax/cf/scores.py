"""CF scores on disk: written in blocks, read back only where they belong.

`cf/<model>/<split>.npy` is float32 [examples, items]. Beside it lie the same
scores in factorised form where the model has one (`<split>.states.npy` [N, D]
and `<split>.items.npy` [I, D]; of item_knn sparse, `.npz`), a digest of every
row and column (`<split>.rows.npz`), and the record `<split>.json`, written
last. Beyond a bound there is the factorised form only; readers don't see the
difference.
"""

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bigrec_jax import errors
from bigrec_jax.cf import sparse_factors
from bigrec_jax.cf.factors import Factors
from bigrec_jax.data.prepared.catalogue import Catalogue
from bigrec_jax.data.prepared.examples import Examples
from bigrec_jax.workdir import arrays, storage

_BLOCK = 1 << 24  # Scores written or checked at a time, 64 MiB.
# What scores come from: users to float32 [n, I], where there are no factors.
Source = Factors | sparse_factors.SparseScores | Callable[[slice], np.ndarray]
_PRIMES = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xFF51AFD7ED558CCD))


@dataclasses.dataclass(frozen=True, eq=False)
class FactorisedScores:
  """Scores that are computed when they are read: `scores[rows] -> [n, I]`.

  Attributes:
    factors: states and items.
  """

  factors: Factors

  @property
  def shape(self) -> tuple[int, int]:
    """(N, I)."""
    return (len(self.factors.states), len(self.factors.items))

  @property
  def dtype(self) -> np.dtype:
    """float32."""
    return np.dtype(np.float32)

  def __len__(self) -> int:
    return self.shape[0]

  def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
    """Returns float32 [n, I] for a slice or an array of row numbers."""
    return np.asarray(self.factors.states[rows]) @ self.factors.items.T


# What `load_scores` opens: float32 [N, I], read by rows.
Scores = np.ndarray | FactorisedScores | sparse_factors.SparseScores


@dataclasses.dataclass(frozen=True, eq=False)
class _Files:
  """The files that belong to one split's scores."""

  dense: pathlib.Path

  def _beside(self, suffix: str) -> pathlib.Path:
    return self.dense.with_name(f"{self.dense.stem}.{suffix}")

  @property
  def states(self) -> pathlib.Path:
    return self._beside("states.npy")

  @property
  def items(self) -> pathlib.Path:
    return self._beside("items.npy")

  @property
  def sparse(self) -> tuple[pathlib.Path, pathlib.Path]:
    """Users' and items' part of sparse scores."""
    return self._beside("states.npz"), self._beside("items.npz")

  @property
  def rows(self) -> pathlib.Path:
    return self._beside("rows.npz")

  @property
  def record(self) -> pathlib.Path:
    return self._beside("json")


def exists(path: pathlib.Path) -> bool:
  """Returns whether `write_scores` has finished a split.

  Args:
    path: `<split>.npy`.
  """
  files = _Files(path)
  record = storage.read_json_if_whole(files.record)
  if not isinstance(record, dict) or "unfinished" in record:
    return False
  return (
    path.exists()
    or (files.states.exists() and files.items.exists())
    or all(file.exists() for file in files.sparse)
  )


def _row_digests(examples: Examples) -> np.ndarray:
  """Returns a number for each example's user, history and target, [N]."""
  columns = [examples.user, examples.target, *examples.history.T]
  digest = np.zeros(len(examples), np.uint64)
  with np.errstate(over="ignore"):
    for column in columns:
      digest ^= column.astype(np.int64).view(np.uint64) * _PRIMES[0]
      digest = (digest ^ (digest >> np.uint64(33))) * _PRIMES[1]
  return digest


def _column_digests(catalogue: Catalogue) -> np.ndarray:
  """Returns a number for each item's id and title, [I] uint64."""
  pairs = zip(catalogue.external_ids, catalogue.titles, strict=True)
  texts = (f"{i}\t{t}".encode("utf-8", "surrogatepass") for i, t in pairs)
  joined = b"".join(hashlib.blake2b(t, digest_size=8).digest() for t in texts)
  return np.frombuffer(joined, "<u8")


def write_scores(
  path: pathlib.Path,
  source: Source,
  examples: Examples,
  catalogue: Catalogue,
  made_from: Mapping[str, Any],
  max_dense_bytes: float,
) -> None:
  """Writes the scores of a split, a block of rows at a time.

  Args:
    path: `<split>.npy`.
    source: factors, or a function from users to float32 [users, I].
    examples: the rows.
    catalogue: the columns.
    made_from: kept in the record, e.g. the model's settings.
    max_dense_bytes: factors whose dense form is larger get no .npy; a function
      has no other form.
  """
  files = _Files(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  # A kill before the end leaves this, not scores that nobody vouches for.
  storage.write_json(files.record, {"unfinished": True})
  for old in (files.states, files.items, *files.sparse):
    old.unlink(missing_ok=True)
  shape = (len(examples), len(catalogue))
  if isinstance(source, Factors):
    read: Callable[[slice], np.ndarray] = FactorisedScores(source).__getitem__
    _save(files.states, source.states)
    _save(files.items, source.items)
  elif isinstance(source, sparse_factors.SparseScores):
    read = source.__getitem__
    states, items = files.sparse
    sparse_factors.save(states, source.states)
    sparse_factors.save(items, source.items)
  else:
    read, max_dense_bytes = source, float("inf")
  if 4 * shape[0] * shape[1] <= max_dense_bytes:
    _write_dense(path, read, shape)
  else:
    path.unlink(missing_ok=True)
  with storage.atomic_path(files.rows) as temporary:
    with open(temporary, "wb") as file:
      np.savez(
        file,
        examples=_row_digests(examples),
        items=_column_digests(catalogue),
      )
  record = {
    "split": examples.split,
    "num_examples": shape[0],
    "num_items": shape[1],
    "examples": examples.fingerprint,
    "catalogue": catalogue.fingerprint,
    "made_from": made_from,
  }
  storage.write_json(files.record, record)


def _save(path: pathlib.Path, array: np.ndarray) -> None:
  with storage.atomic_path(path) as temporary:
    with open(temporary, "wb") as file:
      np.save(file, np.ascontiguousarray(array, np.float32))


def _write_dense(
  path: pathlib.Path,
  read: Callable[[slice], np.ndarray],
  shape: tuple[int, int],
) -> None:
  block = max(1, _BLOCK // shape[1])
  with storage.atomic_path(path) as temporary:
    out = np.lib.format.open_memmap(temporary, "w+", np.float32, shape)
    for start in range(0, shape[0], block):
      part = slice(start, min(start + block, shape[0]))
      out[part] = read(part)
    out.flush()
    del out


def load_scores(
  path: pathlib.Path, examples: Examples, catalogue: Catalogue
) -> Scores:
  """Opens the scores of a split for reading in blocks.

  A file that `write_scores` made must be of these very rows and columns. An
  external .npy has no record: its shape, type and values are all that can be
  checked; row n must be example n and column i catalogue item i.

  Args:
    path: `<split>.npy`, or any .npy file.
    examples: the rows that are expected.
    catalogue: the columns that are expected.

  Returns:
    An np.memmap, FactorisedScores or SparseScores, float32 [N, I].

  Raises:
    UserError: a file is missing, damaged, of another shape or type, holds NaN
      or infinity, or was made for other examples or another catalogue.
  """
  files = _Files(pathlib.Path(path))
  is_ours = _has_record(files)
  if is_ours:
    _check_record(files, examples, catalogue)
  shape = (len(examples), len(catalogue))
  if is_ours and not files.dense.exists() and files.sparse[0].exists():
    found = sparse_factors.SparseScores(*map(sparse_factors.load, files.sparse))
    if found.states.shape[1] != found.items.shape[0]:
      raise errors.UserError(f"{files.sparse[0]}: not of {files.sparse[1]}")
    _check_shape(files.sparse[0], found.shape, shape)
    return found
  if is_ours and not files.dense.exists():
    states, items = _open(files.states), _open(files.items)
    for file, array in ((files.states, states), (files.items, items)):
      _check_values(file, array)
    factorised = FactorisedScores(Factors(states, items))
    _check_shape(files.states, factorised.shape, shape)
    return factorised
  scores = _open(files.dense)
  _check_shape(files.dense, scores.shape, shape)
  _check_values(files.dense, scores)
  return scores


def _open(path: pathlib.Path) -> np.ndarray:
  if not path.exists():
    raise errors.UserError(f"{path}: not found, --mode=train_cf makes it")
  array = arrays.read_npy(path, mapped=True)
  if array.dtype != np.float32 or array.ndim != 2:
    raise errors.UserError(
      f"{path}: {array.dtype} with {array.ndim} axes found, float32 with 2 axes"
      " [examples, items] expected"
    )
  return array


def _check_shape(
  path: pathlib.Path, found: tuple[int, ...], expected: tuple[int, int]
) -> None:
  if found == expected:
    return
  hint = ""
  if found == (expected[0], expected[1] + 1):
    # As the scores that go with the published Movie script.
    hint = "; one column too many: drop the padding item's"
  raise errors.UserError(
    f"{path}: {list(found)} scores found, [examples, items] ="
    f" {list(expected)} expected{hint}"
  )


def _check_values(path: pathlib.Path, array: np.ndarray) -> None:
  block = max(1, _BLOCK // max(1, array.shape[1]))
  for start in range(0, len(array), block):
    finite = np.isfinite(array[start : start + block])
    if not finite.all():
      row, column = np.argwhere(~finite)[0]
      raise errors.UserError(
        f"{path}: row {start + row}, column {column}:"
        f" {array[start + row, column]} found, a finite score expected"
      )


def _has_record(files: _Files) -> bool:
  """Returns whether the JSON beside scores is of them.

  Somebody's predictions may lie there under that name, which are a list.
  """
  if not files.record.exists():
    return False
  return not isinstance(storage.read_json(files.record), list)


def _check_record(
  files: _Files, examples: Examples, catalogue: Catalogue
) -> None:
  record = storage.read_object(files.record)
  if "unfinished" in record:
    raise errors.UserError(
      f"{files.dense}: writing it was cut short; run --mode=train_cf again"
    )
  same_rows = record.get("examples") == examples.fingerprint
  same_columns = record.get("catalogue") == catalogue.fingerprint
  if same_rows and same_columns:
    return
  try:
    archive = arrays.read_npz(files.rows)
    old_rows, old_columns = archive["examples"], archive["items"]
    if old_rows.ndim != 1 or old_columns.ndim != 1:
      raise errors.UserError(f"{files.rows}: not a number for each row")
  except (errors.UserError, KeyError) as error:
    raise errors.UserError(
      f"{files.rows}: can't be read ({error}); run --mode=train_cf again"
    ) from None
  if not same_columns:
    what = _difference(old_columns, _column_digests(catalogue), "item")
    kind = "another catalogue"
  else:
    what = _difference(old_rows, _row_digests(examples), "row")
    kind = f"other {examples.split} examples"
  raise errors.UserError(
    f"{files.dense}: made for {kind}: {what}; run --mode=train_cf again"
  )


def _difference(old: np.ndarray, new: np.ndarray, word: str) -> str:
  """Says how many differ and which are the first."""
  if len(old) != len(new):
    count = f"{len(old)} {word}s found, {len(new)} expected"
  else:
    count = f"{int((old != new).sum())} of {len(new)} {word}s differ"
  both = min(len(old), len(new))
  different = np.flatnonzero(old[:both] != new[:both])[:3].tolist()
  if not different:
    return f"{count}, the first {both} are equal"
  names = ", ".join(str(n) for n in different)
  return f"{count}, first {word} {names} (from 0)"
