"""Slots that never stop: prompts enter while others are being decoded.

A lane (lanes.py) knows all its prompts before it begins. A server doesn't: its
slots are refilled with whoever has come since the last few steps, and a user
leaves as soon as the own texts are done. A pass computes free slots, too: while
few users are at hand there are few, one, four or sixteen. All shapes are known
before, so `warm_up` compiles every program that `admit` and `advance` will ever
call: prompts of a bucket are read one at a time or a group at a time, the
caches are as wide as the longest prompt at hand needs, and there is room for
all tokens.

Letters: B slots at most, C slots now, R users read at a time, W beams,
T tokens.
"""

import itertools
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from bigrec_jax.config import GenerateConfig
from bigrec_jax.decoding import (
  constraints,
  generate,
  lanes,
  program,
  seats,
  slots as slots_lib,
  stepping,
)
from bigrec_jax.devices import sharding
from bigrec_jax.models import LanguageModel

# Passes of the network after which whoever has come meanwhile is let in.
STEPS = 8
# Calls of `advance` for which fewer slots would do, until there are fewer: who
# was answered may ask again, and to move users costs a copy.
_PATIENCE = 2


class Prompt(NamedTuple):
  """One user who is to be decoded.

  Attributes:
    name: comes back with what was written; of those at hand each once.
    tokens: without the shared beginning, at least one.
    norm_length: prompt length that `length_norm_includes_prompt` counts.
    log_masses: [K] float32 of the user's prior; None without one.
  """

  name: Hashable
  tokens: Sequence[int]
  norm_length: int
  log_masses: np.ndarray | None = None


class Written(NamedTuple):
  """What was written for one user.

  Attributes:
    name: of the prompt.
    tokens: [<= W] lists of tokens, best first.
    scores: [W] float32, -inf where there is no hypothesis.
    problem: why there is none at all, "" where there is.
  """

  name: Hashable
  tokens: list[list[int]]
  scores: np.ndarray
  problem: str


class Network(NamedTuple):
  """What writes.

  Attributes:
    model: built for `mesh`.
    params: its base weights.
    lora: its adapter, or None.
    prefix: what all prompts begin with, already read.
    eos_ids: the tokens that end a hypothesis.
    mesh: slots are split over its axes data and fsdp.
    seed: of sampling.
  """

  model: LanguageModel
  params: Any
  lora: Any | None
  prefix: generate.Prefix
  eos_ids: tuple[int, ...]
  mesh: Mesh
  seed: int


class Running:
  """B slots in which prompts are decoded as they come; for one thread.

  Attributes:
    slots: B.
    buckets: ascending; the last is the longest prompt that is taken.
  """

  def __init__(
    self,
    network: Network,
    config: GenerateConfig,
    trie: constraints.Trie | None,
    slots: int,
    buckets: Sequence[int],
  ):
    """Prepares; nothing is compiled yet.

    Args:
      network: what writes.
      config: section `generate`.
      trie: the titles that may be written, on the devices; None = any text.
      slots: B; rounded up to what the row shards of the mesh divide.
      buckets: widths to which prompts are padded.

    Raises:
      UserError: a title does not fit in `max_new_tokens`.
    """
    generate.check_titles(config, trie)
    own, mesh = network, network.mesh
    self._unit = sharding.batch_size_unit(mesh)
    self.slots = -(-slots // self._unit) * self._unit
    self._seats = seats.Seats(self.slots, self._unit)
    self.buckets = tuple(sorted(set(buckets)))
    self._network, self._config, self._trie = own, config, trie
    settings = program.settings_of(config, own.eos_ids, trie)
    # One room for all tokens: a text longer than those before it must not
    # wait for a program.
    self._settings = settings._replace(sizes=settings.sizes[-1:])
    self._variables = {"params": own.model.prepare(own.params)}
    if own.lora is not None:
      self._variables["lora"] = own.model.prepare(own.lora)
    self._seed = sharding.put_replicated(mesh, np.uint32(own.seed % 2**32))
    self._most = sharding.put_replicated(mesh, np.int32(STEPS))
    self._done = np.ones(self.slots, bool)  # [C], as the devices see it.
    self._slots: slots_lib.Slots | None = None
    self._too_many = 0  # Calls of `advance` since C was what it has to be.

  @property
  def trie(self) -> constraints.Trie | None:
    """The titles that may be written."""
    return self._trie

  def set_trie(self, trie: constraints.Trie) -> None:
    """Lets other titles be written, for which there are the same programs.

    Whoever is being decoded holds nodes of the trie, so nobody may be.

    Args:
      trie: of the shapes of the one before, on the devices.
    """
    if self.busy:
      raise ValueError(f"{self.busy} users found in the slots, none expected")
    self._trie = trie

  @property
  def busy(self) -> int:
    """Users at hand."""
    return self._seats.busy

  @property
  def free(self) -> int:
    """Users who can be taken in."""
    return self.slots - self.busy

  @property
  def count(self) -> int:
    """C, slots that a pass of the network computes now."""
    return self._seats.count

  @property
  def _group(self) -> int:
    """R, users who are read at a time where several wait."""
    return min(lanes.group_of(self.slots, self._network.mesh), self.count)

  def admit(self, prompts: Sequence[Prompt]) -> None:
    """Takes users in, at most as many as slots are free.

    Raises:
      ValueError: there are more, or a prompt is longer than the last bucket.
    """
    if len(prompts) > self.free:
      raise ValueError(f"{len(prompts)} prompts, {self.free} free slots")
    waiting = list(prompts)
    if waiting:
      needed = self._seats.needed(len(waiting))
      if needed > self.count or not self.busy:
        self._move(needed)
      if not self.busy and self._done.all():
        self._fit(self._bucket(waiting))
    while waiting:
      size = self._unit if len(waiting) <= self._unit else self._group
      placed = list(self._seats.offer(waiting, size))
      self._read(placed, size)
      names = {prompt.name for prompt, _ in placed if prompt is not None}
      waiting = [prompt for prompt in waiting if prompt.name not in names]

  def drop(self, name: Hashable) -> None:
    """Frees the slot of a user nobody waits for any more."""
    if name in (names := self._seats.names):
      names[names.index(name)] = None

  def advance(self) -> list[Written]:
    """Writes until somebody is done, for a few passes; returns who is."""
    if not self.busy:
      return []
    self._release()
    outcome = jax.device_get(self._advance(int(self._done.sum()) + 1))
    self._done = np.array(outcome.done)
    found, names = [], self._seats.names
    for slot in np.flatnonzero(outcome.done & self._seats.taken):
      own = [part[slot] for part in outcome.found]
      found.append(_written(names[slot], own, outcome.broken[slot]))
      names[slot] = None
    return found

  def warm_up(self) -> None:
    """Compiles every program that will be called; nobody may be at hand."""
    if self.busy:
      raise ValueError(f"{self.busy} users found in the slots, none expected")
    # Slots that are new are of other types than those that are in use.
    self._read([(self._longest(self.buckets[0]), 0)], self._unit)
    self._seats.clear()
    for count in self._seats.counts:
      self._warm_up(count)
    for width in self.buckets:
      for count, other in itertools.permutations(self._seats.counts, 2):
        self._fit(width)
        self._move(count)
        self._move(other)

  def _warm_up(self, count: int) -> None:
    """Compiles what so many slots take."""
    self._move(count)
    for width in self.buckets:
      for size in sorted({self._unit, self._group}):
        # Into slots of each width that a prompt of this one can meet.
        for wider in (b for b in self.buckets if b >= width):
          self._fit(wider)
          self._read([(self._longest(width), 0)], size)
          self._seats.clear()
    for width, other in itertools.product(self.buckets, repeat=2):
      self._fit(width)
      self._fit(other)
    for width in self.buckets:
      self._fit(width)
      outcome = self._advance(count)
    while not np.all(jax.device_get(outcome.done)):
      outcome = self._advance(count)
    self._done[:] = True

  def _longest(self, width: int) -> Prompt:
    masses = None
    if self._trie is not None and self._trie.prior is not None:
      count = int(np.asarray(self._trie.prior.range_of).max()) + 1
      masses = np.zeros(constraints.rounded(count), np.float32)
    return Prompt("warm-up", [0] * width, width, masses)

  def _read(
    self, placed: Sequence[tuple[Prompt | None, int]], size: int
  ) -> None:
    """Reads users and puts them into their slots."""
    own, mesh = self._network, self._network.mesh
    placed = [*placed, *[(None, self.slots)] * (size - len(placed))]
    prompts = [prompt for prompt, _ in placed if prompt is not None]
    width = self._bucket(prompts)
    known = [p.log_masses for p in prompts if p.log_masses is not None]
    masses = np.stack(known) if known else None
    norm_lengths = None
    if self._config.length_norm_includes_prompt:
      norm_lengths = np.array([p.norm_length if p else 1 for p, _ in placed])
    batch = lanes.batch_of(
      [None if prompt is None else prompt.tokens for prompt, _ in placed],
      width,
      np.zeros(size, np.int32),  # Each is the first of an own call.
      stepping.length_norms(
        size,
        self._settings.search.max_new_tokens,
        self._config.length_penalty,
        norm_lengths,
      ),
      masses,
      mesh,
    )
    users = program.read(
      own.model,
      self._settings,
      self._variables,
      batch,
      self._seed,
      own.prefix.cache,
      self._trie,
    )
    self._make_room(users, width)
    within = [
      slot % self._seats.per_shard if prompt is not None else self.slots
      for prompt, slot in placed
    ]
    assert self._slots is not None
    self._slots = slots_lib.place(
      self._slots,
      users,
      sharding.put_replicated(mesh, np.array(within, np.int32)),
      self._unit,
      own.model.mesh,
    )
    for prompt, slot in placed:
      if prompt is not None:
        self._seats.names[slot], self._done[slot] = prompt.name, False

  def _release(self) -> None:
    """Makes the slots fewer, where that would have done for a while."""
    needed = self._seats.needed(0)
    self._too_many = self._too_many + 1 if needed < self.count else 0
    if self._too_many > _PATIENCE:
      self._move(needed)

  def _move(self, count: int) -> None:
    """Makes the slots others in number, around the users at hand."""
    self._too_many = 0
    if count == self.count:
      return
    places = self._seats.move(count)
    if self._slots is not None:
      self._slots = slots_lib.moved(
        self._slots,
        sharding.put_replicated(self._network.mesh, places),
        self._unit,
        self._network.model.mesh,
      )
    self._done = ~self._seats.taken

  def _bucket(self, prompts: Sequence[Prompt]) -> int:
    """Returns the width that holds all these prompts."""
    width = lanes.bucket_of(max(len(p.tokens) for p in prompts), self.buckets)
    if width > self.buckets[-1]:
      raise ValueError(f"a prompt of more than {self.buckets[-1]} tokens")
    return width

  def _make_room(self, users: slots_lib.Users, width: int) -> None:
    """Makes the slots, or widens them to what new users need."""
    search = self._settings.search
    if self._slots is None:
      self._slots = slots_lib.empty(
        users,
        self.count,
        search.num_beams,
        search.width,
        self._settings.sizes[0],
        self._network.model.mesh,
      )
    if width > self._slots.users.prompt.width:
      self._fit(width)

  def _fit(self, width: int) -> None:
    """Gives the slots another width."""
    if self._slots is None or width == self._slots.users.prompt.width:
      return
    self._slots = slots_lib.resize(
      self._slots, width, self._slots.suffix.room, self._network.model.mesh
    )

  def _advance(self, wanted: int) -> program.Outcome:
    own, mesh = self._network, self._network.mesh
    wanted = min(wanted, self.count)
    self._slots, outcome = program.advance(
      own.model,
      self._settings,
      self._variables,
      self._slots,
      sharding.put_replicated(mesh, np.int32(wanted)),
      own.prefix.cache,
      self._trie,
      self._most,
    )
    return outcome


def _written(
  name: Hashable, found: Sequence[np.ndarray], broken: bool
) -> Written:
  """Returns the hypotheses of one user, or what is wrong with them."""
  tokens, scores, lengths = found
  problem = generate.problem_of(scores, lengths, broken)
  own = [
    beam[:length].tolist()
    for beam, length in zip(tokens, lengths, strict=True)
    if length
  ]
  return Written(name, [] if problem else own, scores, problem)
