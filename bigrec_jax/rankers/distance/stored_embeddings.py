"""The title embeddings of a workdir: written, checked and read without JAX."""

import hashlib
import pathlib
from collections.abc import Sequence

import numpy as np

from bigrec_jax import errors
from bigrec_jax.data.prepared.catalogue import Catalogue
from bigrec_jax.workdir import arrays, fields, storage

# Bytes of one stored shard, about.
_SHARD_BYTES = 1 << 28
_RECORD = "embeddings.json"
_ROWS = "rows.npy"


def row_digests(titles: Sequence[str]) -> np.ndarray:
  """Returns [I] uint64 that name each row's title, to find what changed."""
  return np.array(
    [
      int.from_bytes(
        hashlib.blake2b(
          title.encode("utf-8", "surrogatepass"), digest_size=8
        ).digest()
      )
      for title in titles
    ],
    np.uint64,
  )


def save(
  directory: pathlib.Path,
  vectors: np.ndarray,
  catalogue: Catalogue,
  encoder_fingerprint: str,
) -> None:
  """Writes title embeddings as .npy shards and what they were made from.

  The record is removed first and written last: a kill in between leaves
  embeddings that `load` refuses, never a mixture.

  Args:
    directory: `Paths.embeddings`.
    vectors: [I, D] float32.
    catalogue: whose titles these are, row by row.
    encoder_fingerprint: of the text encoder (the base by default).
  """
  if len(vectors) != len(catalogue):
    raise ValueError(f"{len(vectors)} vectors for {len(catalogue)} items")
  directory.mkdir(parents=True, exist_ok=True)
  (directory / _RECORD).unlink(missing_ok=True)
  rows = max(1, _SHARD_BYTES // (4 * vectors.shape[1]))
  count = -(-len(vectors) // rows)
  names = [f"items-{n:05}-of-{count:05}.npy" for n in range(count)]
  for stale in directory.glob("items-*.npy"):
    if stale.name not in names:
      stale.unlink()
  arrays = {
    name: vectors[n * rows : (n + 1) * rows] for n, name in enumerate(names)
  }
  for name, array in {**arrays, _ROWS: row_digests(catalogue.titles)}.items():
    with storage.atomic_path(directory / name) as temporary:
      with open(temporary, "wb") as file:
        np.save(file, array, allow_pickle=False)
  storage.write_json(
    directory / _RECORD,
    {
      "base": encoder_fingerprint,
      "catalogue": catalogue.fingerprint,
      "shape": list(vectors.shape),
      "shards": names,
      "sizes": [(directory / name).stat().st_size for name in names],
    },
  )


def load(
  directory: pathlib.Path, catalogue: Catalogue, encoder_fingerprint: str
) -> np.ndarray:
  """Reads title embeddings [I, D] float32; one shard is memory-mapped.

  Args:
    directory: `Paths.embeddings`.
    catalogue: the present one.
    encoder_fingerprint: of the present encoder.

  Raises:
    UserError: they are missing, cut short, of another encoder, or of other
      titles (the rows are named).
  """
  path = directory / _RECORD
  record = fields.Fields(storage.read_json(path), f"{path}:")
  encoder = record.get("base", fields.text)
  if encoder != encoder_fingerprint:
    raise errors.UserError(
      f"{path}: made with encoder {encoder}, {encoder_fingerprint}"
      " expected; --mode=embed makes them again"
    )
  names = record.get("shards", fields.sequence(fields.text))
  sizes = record.get("sizes", fields.sequence(fields.whole))
  shape = record.get("shape", fields.sequence(fields.whole))
  if not names or len(names) != len(sizes):
    raise errors.UserError(
      f"{path}: {len(names)} shards with {len(sizes)} sizes found; delete"
      f" {directory} to make it again"
    )
  _check_rows(directory, catalogue)
  shards = []
  for name, size in zip(names, sizes, strict=True):
    file = directory / pathlib.PurePath(name).name
    found = file.stat().st_size if file.exists() else None
    if found != size:
      raise errors.UserError(
        f"{file}: {'not found' if found is None else f'{found} bytes found'},"
        f" {size} bytes expected; delete {directory} to make it again"
      )
    shards.append(_vectors(file, shape))
  vectors = shards[0] if len(shards) == 1 else _joined(shards)
  if vectors.shape != shape:
    raise errors.UserError(
      f"{path}: shape {shape} found, {vectors.shape} in the shards; delete"
      f" {directory} to make it again"
    )
  return vectors


def _vectors(file: pathlib.Path, shape: Sequence[int]) -> np.ndarray:
  """Returns a shard, [n, D] float32, mapped into memory."""
  array = arrays.read_npy(file, mapped=True)
  if (
    array.ndim != 2
    or array.dtype != np.float32
    or (list(array.shape[1:]) != list(shape[1:]))
  ):
    raise errors.UserError(
      f"{file}: {array.dtype} {list(array.shape)} found, float32 rows of"
      f" {list(shape[1:])} expected; --mode=embed makes them again"
    )
  return array


def _joined(shards: list[np.ndarray]) -> np.ndarray:
  """Returns the shards as one array, where a CPU device takes it as it is.

  Arrays that begin at a multiple of 64 bytes (a memory-mapped shard's do)
  aren't copied: of ten million items that is half of the memory.
  """
  shape = (sum(map(len, shards)), shards[0].shape[1])
  room = np.empty(shape[0] * shape[1] + 16, np.float32)
  start = -room.ctypes.data % 64 // room.itemsize
  vectors = room[start : start + shape[0] * shape[1]].reshape(shape)
  return np.concatenate(shards, out=vectors)


def _check_rows(directory: pathlib.Path, catalogue: Catalogue) -> None:
  path = directory / _ROWS
  if not path.exists():
    raise errors.UserError(f"{path}: not found; --mode=embed makes it again")
  stored = arrays.read_npy(path)
  if stored.ndim != 1:
    raise errors.UserError(
      f"{path}: {stored.ndim} axes found, a number for each row expected;"
      " --mode=embed makes them again"
    )
  present = row_digests(catalogue.titles)
  if len(stored) != len(present):
    raise errors.UserError(
      f"{path}: {len(stored)} rows found, {len(present)} (the catalogue's)"
      " expected; --mode=embed makes them again"
    )
  differing = np.flatnonzero(stored != present)
  if differing.size:
    first = differing[0]
    raise errors.UserError(
      f"{path}: made from other titles in {len(differing)} rows, the first is"
      f" row {first} (now {catalogue.titles[first]!r}); --mode=embed makes"
      " them again"
    )
