"""Texts as vectors: the base model's final-norm state at the last token.

BIGRec data/embedding.ipynb takes `hidden_states[-1][:, -1]` of the base LLaMA
(without the adapter) under left padding; here rows are padded at the right,
where causal attention cannot see it, and the last real token is picked.
"""

import functools
import hashlib
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bigrec_jax import errors, schema, sharding
from bigrec_jax.data.catalogue import Catalogue
from bigrec_jax.reporting.progress import Reports

# Bytes of one stored shard, about.
_SHARD_BYTES = 1 << 28
_RECORD = "embeddings.json"
_ROWS = "rows.npy"


def length_bucket(length: int) -> int:
  """Returns the padded length: 8, 16, 24, 32, 48, 64, 96, 128, ...

  At most a third of a long row is padding, and titles of any catalogue
  compile a handful of programs.
  """
  if length <= 32:
    return max(8, -(-length // 8) * 8)
  power = 1 << (length - 1).bit_length()
  return power * 3 // 4 if length <= power * 3 // 4 else power


def batches(
  lengths: Sequence[int], batch_size: int
) -> Iterator[tuple[int, np.ndarray]]:
  """Yields (padded length, row numbers) of at most `batch_size` rows each.

  Shortest first; rows of one batch share a bucket.
  """
  buckets = np.array([length_bucket(n) for n in lengths])
  for bucket in np.unique(buckets):
    rows = np.flatnonzero(buckets == bucket)
    for start in range(0, len(rows), batch_size):
      yield int(bucket), rows[start : start + batch_size]


@functools.partial(jax.jit, static_argnames=("model", "mesh"))
def _last_states(
  model: nn.Module, mesh: Mesh, params: Any, tokens: jax.Array, last: jax.Array
) -> jax.Array:
  """Maps tokens [B, T] and last positions [B] to float32 [B, D]."""
  slots = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
  positions = jnp.broadcast_to(slots, tokens.shape)
  segments = (slots <= last[:, None]).astype(jnp.int32)
  hidden = model.apply({"params": params}, tokens, positions, segments, True)
  states = jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]
  states = states.astype(jnp.float32)
  # Whole on every device, so that each host of several can read all of it.
  return jax.lax.with_sharding_constraint(states, sharding.replicated(mesh))


def embed_texts(
  model: nn.Module,
  params: Any,
  token_lists: Sequence[Sequence[int]],
  batch_size: int,
  mesh: Mesh,
  progress: Reports,
) -> np.ndarray:
  """Returns the state at the last token of each text.

  Args:
    model: the base, built without an adapter.
    params: its variables.
    token_lists: token ids of each text, as the tokenizer gives them. An empty
      one has no state to read: its vector is zero.
    batch_size: rows per program; the row shards of `mesh` divide it.
    mesh: of `params`.
    progress: told of every text done.

  Returns:
    [N, D] float32, in the order given.

  Raises:
    UserError: `batch_size` does not divide over the mesh, or a state isn't
      finite.
  """
  sharding.check_batch(mesh, batch_size, "embed.batch_size")
  vectors = np.zeros((len(token_lists), model.config.hidden_size), np.float32)
  pending = None
  lengths = [len(tokens) for tokens in token_lists]
  for bucket, rows in batches(lengths, batch_size):
    tokens = np.zeros((batch_size, bucket), np.int32)
    last = np.zeros(batch_size, np.int32)
    for place, row in enumerate(rows):
      tokens[place, : lengths[row]] = token_lists[row]
      last[place] = max(lengths[row] - 1, 0)
    inputs = (_put(mesh, tokens), _put(mesh, last))
    states = _last_states(model, mesh, params, *inputs)
    # The copy of one batch waits until the next one is under way.
    if pending is not None:
      _collect(vectors, *pending, progress)
    pending = rows, states
  if pending is not None:
    _collect(vectors, *pending, progress)
  vectors[np.array(lengths, np.int64) == 0] = 0.0
  bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
  if bad.size:
    raise errors.UserError(
      f"embedding: text {bad[0]} (of {len(bad)}) has states that are NaN or"
      " infinite, finite ones expected; check the base's weights and"
      " config.model.dtype"
    )
  return vectors


def _put(mesh: Mesh, array: np.ndarray) -> jax.Array:
  """Splits rows that every process holds whole over the row shards."""
  return jax.make_array_from_callback(
    array.shape, sharding.batch_sharding(mesh), lambda index: array[index]
  )


def _collect(
  vectors: np.ndarray, rows: np.ndarray, states: jax.Array, progress: Reports
) -> None:
  vectors[rows] = np.asarray(states)[: len(rows)]
  progress.update(len(rows))


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
  base_fingerprint: str,
) -> None:
  """Writes title embeddings as .npy shards and what they were made from.

  The record is removed first and written last: a kill in between leaves
  embeddings that `load` refuses, never a mixture.

  Args:
    directory: `Paths.embeddings`.
    vectors: [I, D] float32.
    catalogue: whose titles these are, row by row.
    base_fingerprint: of the base model.
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
    with schema.atomic_path(directory / name) as temporary:
      with open(temporary, "wb") as file:
        np.save(file, array, allow_pickle=False)
  schema.write_json(
    directory / _RECORD,
    {
      "base": base_fingerprint,
      "catalogue": catalogue.fingerprint,
      "shape": list(vectors.shape),
      "shards": names,
      "sizes": [(directory / name).stat().st_size for name in names],
    },
  )


def load(
  directory: pathlib.Path, catalogue: Catalogue, base_fingerprint: str
) -> np.ndarray:
  """Reads title embeddings [I, D] float32; one shard is memory-mapped.

  Args:
    directory: `Paths.embeddings`.
    catalogue: the present one.
    base_fingerprint: of the present base.

  Raises:
    UserError: they are missing, cut short, of another base, or of other
      titles (the rows are named).
  """
  path = directory / _RECORD
  record = schema.read_json(path)
  if record["base"] != base_fingerprint:
    raise errors.UserError(
      f"{path}: made with base {record['base']}, {base_fingerprint} expected;"
      " --mode=embed makes them again"
    )
  _check_rows(directory, catalogue)
  shards = []
  for name, size in zip(record["shards"], record["sizes"], strict=True):
    file = directory / name
    found = file.stat().st_size if file.exists() else None
    if found != size:
      raise errors.UserError(
        f"{file}: {'not found' if found is None else f'{found} bytes found'},"
        f" {size} bytes expected; delete {directory} to make it again"
      )
    shards.append(np.load(file, mmap_mode="r", allow_pickle=False))
  vectors = shards[0] if len(shards) == 1 else np.concatenate(shards)
  if list(vectors.shape) != record["shape"]:
    raise errors.UserError(
      f"{path}: shape {record['shape']} expected, {vectors.shape} found"
    )
  return vectors


def _check_rows(directory: pathlib.Path, catalogue: Catalogue) -> None:
  path = directory / _ROWS
  if not path.exists():
    raise errors.UserError(f"{path}: not found; --mode=embed makes it again")
  stored = np.load(path, allow_pickle=False)
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
