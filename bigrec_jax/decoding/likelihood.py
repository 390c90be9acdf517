"""Log-probabilities of given answers after prompts: nothing is written.

A prompt is read once; the answers that are asked for after it lie side by side
in rows of a few dozen tokens, where each sees the prompt's keys and itself
alone. So a candidate costs its own tokens, not the prompt's again. Only the
logits that predict a token of an answer are ever made, a chunk of positions at
a time.

Rows of all users of a group fill the calls of one program: its shape depends
on neither how many answers a user has nor how long they are.

Letters: N users, M answers, B users of a group, R rows of a call, T tokens of
a row, V vocabulary, D width.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bigrec_jax import errors
from bigrec_jax.decoding import (
  generate,
  lanes,
  packed_answers,
  slots as slots_lib,
)
from bigrec_jax.devices import sharding
from bigrec_jax.models import LanguageModel, kv_cache
from bigrec_jax.progress import Reports
from bigrec_jax.workdir import parts

# Tokens of a call and device. A CPU's products are at their fastest by then,
# and what a layer makes of them stays small.
_TOKENS = {"cpu": 1024}
_ACCELERATOR_TOKENS = 8192
_CHUNK = 512  # Positions whose logits a device makes at a time.
_SEEN = 1024  # Tokens of prompts beyond which a call has fewer.


class Batch(NamedTuple):
  """Rows of one call, split over the mesh.

  Attributes:
    tokens: [R, T] int32, what is read.
    targets: [R, T] int32, what should follow.
    offsets: [R, T] int32, places within the answers, from 0.
    segments: [R, T] int32, 0 = padding.
    owners: [R] int32, users, counted within the shard.
  """

  tokens: jax.Array
  targets: jax.Array
  offsets: jax.Array
  segments: jax.Array
  owners: jax.Array


def score(
  model: LanguageModel,
  params: Any,
  lora: Any | None,
  prompts: Sequence[Sequence[int]],
  answers: Sequence[Sequence[int]],
  candidates: np.ndarray,
  mesh: Mesh,
  *,
  batch_size: int,
  buckets: Sequence[int],
  progress: Reports,
  prefix: generate.Prefix | None = None,
  kept: parts.Vectors | None = None,
) -> np.ndarray:
  """Returns log p(answer | prompt), summed over the answer's tokens.

  Args:
    model: the network, built for `mesh`.
    params: its base weights.
    lora: its adapter, or None.
    prompts: [N] token ids.
    answers: token ids, each with the EOS that ends it.
    candidates: [N, M] places in `answers`, -1 = none.
    mesh: users are split over its axes data and fsdp.
    batch_size: B, users whose prompts are in memory at a time; a multiple of
      the row shards.
    buckets: widths to which prompts are padded.
    progress: told of every user done.
    prefix: what all prompts begin with; None finds and reads it.
    kept: the users who were done before, and where others go as they are done.

  Returns:
    [N, M] float32, -inf where there is no candidate.

  Raises:
    UserError: a prompt or an answer is empty.
    NonFiniteError: a probability is NaN or 0.
  """
  _check(prompts, answers, candidates)
  sharding.check_batch(mesh, batch_size, "config.generate.batch_size")
  if kept is None:
    kept = parts.Vectors(None, "", *candidates.shape)
  progress.skip(int(kept.done.sum()))
  if prefix is None:
    ids = generate.shared_beginning(prompts)
    prefix = generate.read_prefix(model, params, lora, ids, mesh)
  variables = {"params": model.prepare(params)}
  if lora is not None:
    variables["lora"] = model.prepare(lora)
  work = _Work(model, variables, prefix, mesh, answers)
  own = [prompt[len(prefix.ids) :] for prompt in prompts]
  for width, users in _groups(own, batch_size, buckets):
    if kept.done[users].all():
      continue
    tokens = [own[user] for user in users]
    found = work.group(tokens, candidates[users], width, batch_size)
    _refuse_broken(found, candidates[users], users)
    kept.add(users, found)
    progress.update(len(users))
  return np.where(candidates >= 0, kept.values, np.float32(-np.inf))


class _Work(NamedTuple):
  """What all groups share; arguments as those of `score`."""

  model: LanguageModel
  variables: Any
  prefix: generate.Prefix
  mesh: Mesh
  answers: Sequence[Sequence[int]]

  def group(
    self,
    prompts: Sequence[Sequence[int]],
    candidates: np.ndarray,
    width: int,
    size: int,
  ) -> np.ndarray:
    """Returns the log-probabilities [n, M] of a group; 0 for no candidate.

    Args:
      prompts: [n] own tokens.
      candidates: [n, M].
      width: S, to which prompts are padded.
      size: B >= n.
    """
    shards = sharding.batch_size_unit(self.mesh)
    # User k is in shard k % shards: all have as much to do.
    places = np.arange(size).reshape(-1, shards).T.ravel()
    tokens = np.zeros((size, width), np.int32)
    lengths = np.ones(size, np.int32)
    firsts = np.zeros((size, candidates.shape[1]), np.int32)
    for row, user in enumerate(places.tolist()):
      if user < len(prompts):
        tokens[row, : len(prompts[user])] = prompts[user]
        lengths[row] = len(prompts[user])
        own = candidates[user]
        firsts[row, own >= 0] = [
          self.answers[n][0] for n in own[own >= 0].tolist()
        ]
    logs, prompt = _read(
      self.model,
      self.variables,
      *(self._put(x) for x in (tokens, lengths, firsts)),
      self.prefix.cache,
    )
    calls = packed_answers.calls(
      self.answers, candidates, shards, self._tokens(width)
    )
    running = []
    for call in calls:
      batch = Batch(*(self._put(x) for x in call.arrays))
      rows = call.arrays[0].shape
      scored = _score(
        self.model,
        self.variables,
        batch,
        prompt,
        self.prefix.cache,
        chunks=_chunks(rows[0] // shards, rows[1]),
      )
      running.append((call.places, scored))
    found = np.zeros(candidates.shape, np.float64)
    found[places[places < len(found)]] = np.asarray(logs)[places < len(found)]
    flat = found.reshape(-1)
    for where, scored in running:
      there = where >= 0
      np.add.at(flat, where[there], np.asarray(scored)[there])
    return np.where(candidates >= 0, found, 0.0).astype(np.float32)

  def _tokens(self, width: int) -> int:
    """Returns how many tokens of a row shard a call has, about.

    Each has a score for every token of its prompt: fewer where prompts are
    long.

    Args:
      width: S.
    """
    platform = self.mesh.devices.flat[0].platform
    most = _TOKENS.get(platform, _ACCELERATOR_TOKENS)
    return most * _SEEN // max(_SEEN, width + len(self.prefix.ids))

  def _put(self, array: np.ndarray) -> jax.Array:
    """Splits rows that every process holds whole over the row shards."""
    return jax.make_array_from_callback(
      array.shape, sharding.batch_sharding(self.mesh), array.__getitem__
    )


@functools.partial(jax.jit, static_argnames=("model",))
def _read(
  model: LanguageModel,
  variables: Any,
  tokens: jax.Array,
  lengths: jax.Array,
  firsts: jax.Array,
  prefix: kv_cache.PromptCache | None,
) -> tuple[jax.Array, kv_cache.PromptCache]:
  """Reads prompts; log-probabilities of first tokens [B, M], and the cache.

  Args:
    model: the network.
    variables: its collections.
    tokens: [B, S] int32, without the shared beginning.
    lengths: [B] int32.
    firsts: [B, M] int32, the first token of each answer.
    prefix: the shared beginning, or None.
  """
  network, variables = model.executable(variables)
  hidden, prompt = network.apply(
    variables, tokens, lengths, prefix, method="prefill"
  )
  hidden = jnp.take_along_axis(hidden, (lengths - 1)[:, None, None], axis=1)
  logits = network.apply(variables, hidden[:, 0], method="logits")  # [B, V]
  logs = jnp.take_along_axis(logits, firsts, axis=1)
  logs -= jax.nn.logsumexp(logits, axis=1, keepdims=True)
  prompt = slots_lib.split(prompt.replace(prefix=None), model.mesh)
  return _whole(logs, model.mesh), prompt


@functools.partial(jax.jit, static_argnames=("model", "chunks"))
def _score(
  model: LanguageModel,
  variables: Any,
  batch: Batch,
  prompt: kv_cache.PromptCache,
  prefix: kv_cache.PromptCache | None,
  *,
  chunks: int,
) -> jax.Array:
  """Returns log p(target) [R, T] at every position of the rows.

  Args:
    model: the network.
    variables: its collections.
    batch: the rows.
    prompt: of the users.
    prefix: the shared beginning, or None.
    chunks: pieces of T whose logits are made one after the other.
  """
  network, variables = model.executable(variables)
  if prefix is not None:
    prompt = prompt.replace(prefix=prefix.prefix)
  hidden = network.apply(
    variables,
    batch.tokens,
    batch.offsets,
    batch.segments,
    batch.owners,
    prompt,
    method="continue_prompts",
  )

  def cut(x: jax.Array) -> jax.Array:
    """[R, T, ...] -> [chunks, R, T / chunks, ...]."""
    x = x.reshape(x.shape[0], chunks, -1, *x.shape[2:])
    return jnp.moveaxis(x, 1, 0)

  def one(part: tuple[jax.Array, jax.Array]) -> jax.Array:
    states, targets = part
    logits = network.apply(variables, states, method="logits")
    own = jnp.take_along_axis(logits, targets[:, :, None], axis=-1)[:, :, 0]
    return own - jax.nn.logsumexp(logits, axis=-1)

  logs = jax.lax.map(one, (cut(hidden), cut(batch.targets)))
  logs = jnp.moveaxis(logs, 0, 1).reshape(batch.tokens.shape)
  return _whole(logs, model.mesh)


def _whole(x: jax.Array, mesh: Mesh | None) -> jax.Array:
  """Makes an array whole on every device, so that each host can read it."""
  if mesh is None:
    return x
  return jax.lax.with_sharding_constraint(x, sharding.replicated(mesh))


def _chunks(rows: int, length: int) -> int:
  """Returns into how many pieces T is cut, a divisor of it."""
  wanted = -(-rows * length // _CHUNK)
  return next(n for n in range(wanted, length + 1) if length % n == 0)


def _groups(
  prompts: Sequence[Sequence[int]], size: int, buckets: Sequence[int]
) -> Iterator[tuple[int, np.ndarray]]:
  """Yields (padded width, users): each group of one width, longest first."""
  widths = np.array([lanes.bucket_of(len(p), buckets) for p in prompts])
  for width in np.unique(widths)[::-1].tolist():
    users = np.flatnonzero(widths == width)
    for start in range(0, len(users), size):
      yield width, users[start : start + size]


def _check(
  prompts: Sequence[Sequence[int]],
  answers: Sequence[Sequence[int]],
  candidates: np.ndarray,
) -> None:
  if len(prompts) != len(candidates):
    raise ValueError(f"{len(prompts)} prompts, {len(candidates)} candidates")
  for name, texts in (("prompt", prompts), ("answer", answers)):
    for row, text in enumerate(texts):
      if not len(text):
        raise errors.UserError(f"{name} {row}: no token found, some expected")


def _refuse_broken(
  found: np.ndarray, candidates: np.ndarray, users: np.ndarray
) -> None:
  """Raises NonFiniteError for the first user with a NaN or a zero."""
  broken = ~np.isfinite(found) & (candidates >= 0)
  if broken.any():
    row = int(users[np.flatnonzero(broken.any(axis=1))[0]])
    raise errors.NonFiniteError(
      row,
      "probabilities of titles that are NaN or 0 found, finite logarithms"
      " expected; look at the adapter's and the base's weights, at lora.alpha,"
      " at model.dtype, and whether the tokenizer is the base's own",
    )
