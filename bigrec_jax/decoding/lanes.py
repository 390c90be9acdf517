"""Who is decoded when: prompts wait, pass through slots, and are collected.

A lane is B slots. Users whose prompts are longest come first; whenever a
group of slots is free, as many new users are read and take their places. The
caches are no wider than the users in the slots need: prompts are padded to a
bucket, and what the beams write doubles its room when somebody needs it. So
few programs are compiled: a prefill for each bucket in use, a loop for each
bucket with each room. Everything here happens on the host, alike in every
process.
"""

import collections
import dataclasses
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from bigrec_jax.decoding import (
  constraints,
  program,
  slots as slots_lib,
  stepping,
)
from bigrec_jax.devices import executor as executor_lib, sharding
from bigrec_jax.models import LanguageModel, kv_cache, soft_tokens

_BUCKET_STEP = 128  # Beyond the last configured bucket.
# Slots are refilled in groups of a quarter: fewer would make products with
# few rows, more would leave slots free for longer.
_GROUPS = 4
_FREE = -1

# Numbers of prompts [R] -> the log masses [R, K] of their priors, float32
# (constraints/prior.py).
Masses = Callable[[np.ndarray], np.ndarray]
# Takes row numbers [N], their hypotheses, and [N] bool: whose are broken.
Collect = Callable[[np.ndarray, stepping.Found, np.ndarray], None]


@dataclasses.dataclass(frozen=True)
class Job:
  """What all lanes share.

  Attributes:
    model: The network.
    settings: Of the compiled programs.
    variables: Collections `params` and, with an adapter, `lora`.
    seed: [] uint32, of sampling.
    prefix: What all prompts begin with, already read, or None.
    trie: The titles that may be written, or None.
    mesh: Slots are split over its axes data and fsdp.
    prompts: Token ids without the common beginning.
    numbers: [N] of each prompt, which its random key is made of.
    lengths: [N] tokens of all prompts, of which these may be the rest; slots
      are as for all.
    buckets: Widths to which prompts are padded.
    length_penalty: Exponent of the length norm.
    norm_lengths: [N] prompt lengths that the norm counts, or None.
    log_masses: the prompts' priors; None without one.
    soft: soft tokens of all prompts, by their numbers; None = none has any.
    shift: tokens of the common beginning.
  """

  model: LanguageModel
  settings: program.Settings
  variables: Any
  seed: jax.Array
  prefix: kv_cache.PromptCache | None
  trie: constraints.Trie | None
  mesh: Mesh
  prompts: Sequence[Sequence[int]]
  numbers: np.ndarray
  lengths: np.ndarray
  buckets: tuple[int, ...]
  length_penalty: float
  norm_lengths: np.ndarray | None
  log_masses: Masses | None
  soft: soft_tokens.Prompts | None = None
  shift: int = 0

  def width_of(self, numbers: np.ndarray) -> int:
    """Returns the bucket that holds the prompts of all these users."""
    longest = max(len(self.prompts[number]) for number in numbers)
    return bucket_of(longest, self.buckets)


def bucket_of(length: int, buckets: Sequence[int]) -> int:
  """Returns the smallest bucket that holds `length` tokens.

  Beyond the last bucket it is the next multiple of 128: a prompt is never
  cut.
  """
  for bucket in sorted(buckets):
    if length <= bucket:
      return bucket
  return -(-length // _BUCKET_STEP) * _BUCKET_STEP


def run(
  work: Job,
  batch_size: int,
  executor: executor_lib.Executor,
  collect: Collect,
) -> None:
  """Decodes all prompts.

  Args:
    work: The prompts and how they are decoded.
    batch_size: Slots of a lane, fewer if there are fewer prompts.
    executor: Says how many lanes, fewer if one has slots enough.
    collect: Called with users who are done, never twice at a time.
  """
  collecting = threading.Lock()

  def locked(*finished: Any) -> None:
    with collecting:
      collect(*finished)

  place_of = {number: place for place, number in enumerate(work.numbers)}
  for numbers, most in alike(work.lengths, batch_size, work.buckets):
    order = np.array([place_of[n] for n in numbers if n in place_of], int)
    size = slots_of(len(numbers), most, work.mesh)
    count = min(executor.width, -(-len(order) // size))
    if not count:
      continue
    team = executor.team()
    lanes = [
      Lane(work, order[start::count], size, team) for start in range(count)
    ]
    team.run([functools.partial(lane.run, locked) for lane in lanes])


def alike(
  lengths: np.ndarray, batch_size: int, buckets: Sequence[int]
) -> Iterator[tuple[np.ndarray, int]]:
  """Yields users who are decoded side by side, and how many at most.

  All of them, but for those whose prompts are far longer than nine of ten
  others: every slot's cache is as wide as the longest prompt needs, so beside
  one of 10,000 tokens few others have room.

  Args:
    lengths: Tokens of each prompt.
    batch_size: Slots of a lane of usual prompts.
    buckets: Widths to which prompts are padded.

  Yields:
    (Row numbers, longest prompt first; slots of a lane).
  """
  order = np.argsort(-lengths, kind="stable")
  near = max(len(order) // 10, min(1, len(order) - 1))
  most = bucket_of(int(lengths[order[near]]), buckets)
  usual = max(*buckets, 2 * most) if buckets else 2 * most
  far = int(np.count_nonzero(lengths > usual))
  for of_one_size in np.split(order[:far], _changes(lengths[order[:far]])):
    if len(of_one_size):
      width = bucket_of(int(lengths[of_one_size[0]]), buckets)
      yield of_one_size, max(1, batch_size * usual // width)
  yield order[far:], batch_size


def _changes(lengths: np.ndarray) -> np.ndarray:
  """Returns where descending lengths fall below another power of two."""
  powers = np.ceil(np.log2(np.maximum(lengths, 1)))
  return np.flatnonzero(np.diff(powers)) + 1


def slots_of(count: int, wanted: int, mesh: Mesh) -> int:
  """Returns B: fewer slots than wanted if there are so few prompts.

  The row shards of the mesh divide it, and it is at least as many.
  """
  unit = sharding.batch_size_unit(mesh)
  wanted = max(wanted // unit, 1) * unit
  size = unit
  while size < min(count, wanted):
    size *= 2
  return min(size, wanted)


def group_of(slots: int, mesh: Mesh) -> int:
  """Returns R, how many users are read at a time."""
  unit = sharding.batch_size_unit(mesh)
  return max(slots // _GROUPS // unit, 1) * unit


class Lane:
  """B slots and the users who wait for them.

  Args:
    work: What is decoded.
    order: Row numbers of this lane's users, longest prompt first.
    slots: B.
    team: Of all lanes.
  """

  def __init__(
    self, work: Job, order: np.ndarray, slots: int, team: executor_lib.Team
  ):
    self._work, self._team = work, team
    self._waiting = collections.deque(order.tolist())
    self._shards = sharding.batch_size_unit(work.mesh)
    self._group = group_of(slots, work.mesh)
    self._users = np.full(slots, _FREE)  # Row number in each slot.
    self._step = np.zeros(slots, np.int32)
    self._slots: slots_lib.Slots | None = None

  def run(self, collect: Collect) -> None:
    """Decodes all users of the lane."""
    while not self._team.stopped.is_set():
      with self._team.calling:
        self._refill()
        outcome = self._advance()
      outcome = jax.device_get(outcome)
      self._step = np.where(self._users == _FREE, 0, outcome.step)
      ended = np.flatnonzero(outcome.done & (self._users != _FREE))
      if len(ended):  # Not where the cache had no room and nobody was done.
        found = tuple(part[ended] for part in outcome.found)
        collect(self._users[ended], found, outcome.broken[ended])
      self._users[ended], self._step[ended] = _FREE, 0
      if not self._waiting and np.all(self._users == _FREE):
        return

  def _wanted(self) -> int:
    """Returns how many slots have to be free before users are read."""
    if not self._waiting:
      return len(self._users)
    shard = self._group // self._shards
    return self._shards * min(shard, -(-len(self._waiting) // self._shards))

  def _refill(self) -> None:
    """Reads users who wait, and puts them into free slots."""
    groups = list(self._groups())
    if self._slots is not None:
      self._fit()
    work = self._work
    for numbers, places in groups:
      users = program.read(
        work.model,
        work.settings,
        work.variables,
        self._batch(numbers),
        work.seed,
        work.prefix,
        work.trie,
      )
      if self._slots is None:
        self._slots = slots_lib.empty(
          users,
          len(self._users),
          work.settings.search.num_beams,
          work.settings.search.width,
          work.settings.sizes[0],
          work.model.mesh,
        )
      places = sharding.put_replicated(work.mesh, places)
      self._slots = slots_lib.place(
        self._slots, users, places, self._shards, work.model.mesh
      )

  def _groups(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields row numbers [R] and slots within shards [R] of new users."""
    shards, group = self._shards, self._group // self._shards
    by_shard = self._users.reshape(shards, -1)  # A view.
    while self._waiting:
      free = by_shard == _FREE
      # What `advance` waits for: then some shard has its part of a group.
      if free.sum() < self._wanted():
        return
      numbers = np.full((shards, group), _FREE)
      places = np.full((shards, group), len(self._users), np.int32)
      for shard in range(shards):
        for n, slot in enumerate(np.flatnonzero(free[shard])[:group]):
          if self._waiting:
            numbers[shard, n] = self._waiting.popleft()
            by_shard[shard, slot] = numbers[shard, n]
            places[shard, n] = slot
      yield numbers.ravel(), places.ravel()

  def _fit(self) -> None:
    """Gives the caches the sizes that the users in the slots need."""
    if (slots := self._slots) is None:
      return
    sizes = self._work.settings.sizes
    now = slots.suffix.room
    step = int(self._step.max())
    room = next(size for size in sizes if size >= step)
    # Not smaller for a few tokens only.
    if room < now and 2 * step > room:
      room = now
    width = self._work.width_of(self._users[self._users != _FREE])
    if (width, room) != (slots.users.prompt.width, now):
      self._slots = slots_lib.resize(slots, width, room, self._work.model.mesh)

  def _advance(self) -> program.Outcome:
    work, wanted = self._work, self._wanted()
    self._slots, outcome = program.advance(
      work.model,
      work.settings,
      work.variables,
      self._slots,
      sharding.put_replicated(work.mesh, np.int32(wanted)),
      work.prefix,
      work.trie,
    )
    return outcome

  def _batch(self, numbers: np.ndarray) -> program.Batch:
    """Returns the arrays of new users on the mesh; -1 fills a place."""
    work = self._work
    active = numbers != _FREE
    log_masses = None
    if work.log_masses is not None:
      log_masses = work.log_masses(work.numbers[numbers[active]])
    width = work.width_of(numbers[active])
    return batch_of(
      [work.prompts[n] if n != _FREE else None for n in numbers],
      width,
      np.where(active, work.numbers[numbers], 0),
      stepping.length_norms(
        len(numbers),
        work.settings.search.max_new_tokens,
        work.length_penalty,
        None
        if work.norm_lengths is None
        else np.where(active, work.norm_lengths[numbers], 1),
      ),
      log_masses,
      work.mesh,
      self._soft(np.where(active, work.numbers[numbers], _FREE), width),
    )

  def _soft(self, numbers: np.ndarray, width: int) -> soft_tokens.Soft | None:
    """Returns the soft tokens of rows [R, S], by numbers of all prompts."""
    work = self._work
    if work.soft is None:
      return None
    split = sharding.batch_sharding(work.mesh)
    places, items = (
      jax.make_array_from_callback(x.shape, split, x.__getitem__)
      for x in work.soft.laid_out(numbers, work.shift, width)
    )
    return soft_tokens.Soft(places, items, work.soft.table)


def batch_of(
  prompts: Sequence[Sequence[int] | None],
  width: int,
  numbers: np.ndarray,
  norms: stepping.LengthNorms,
  log_masses: np.ndarray | None,
  mesh: Mesh,
  soft: soft_tokens.Soft | None = None,
) -> program.Batch:
  """Returns the arrays of R new users on the mesh.

  Args:
    prompts: [R] their tokens; None where a row only fills the group.
    width: S, to which prompts are padded.
    numbers: [R], which their random keys are made of.
    norms: length norms, [R, T] each.
    log_masses: [n, K] of the n users who are some; None without a prior.
    mesh: Rows are split over its axes data and fsdp.
    soft: what stands in place of some tokens; None = nothing.
  """
  active = np.array([prompt is not None for prompt in prompts])
  tokens = np.zeros((len(prompts), width), np.int32)
  lengths = np.ones(len(prompts), np.int32)
  for place, prompt in enumerate(prompts):
    if prompt is not None:
      tokens[place, : len(prompt)] = prompt
      lengths[place] = len(prompt)
  if log_masses is not None:
    found, shape = log_masses, (len(prompts), log_masses.shape[1])
    log_masses = np.zeros(shape, np.float32)
    log_masses[active] = found
  split = sharding.batch_sharding(mesh)

  def put(x: np.ndarray) -> jax.Array:
    return jax.make_array_from_callback(x.shape, split, x.__getitem__)

  return program.Batch(
    tokens=put(tokens),
    lengths=put(lengths),
    numbers=put(numbers.astype(np.int32)),
    active=put(active),
    norms=jax.tree.map(put, norms),
    log_masses=None if log_masses is None else put(log_masses),
    soft=soft,
  )
