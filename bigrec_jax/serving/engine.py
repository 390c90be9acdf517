"""The one owner of the accelerator: two threads between requests and lists.

One thread decodes: it lets whoever waits into free slots, writes a few tokens
for everybody, and passes on who is done. The other makes lists of what was
written, many users at a time where many are done. So a device, or a core,
rarely waits for the host, and nobody waits for a batch to end.

`Recommender` does all the work in between, in programs that `warm_up` calls
once with every shape that a request can have.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from absl import logging

from bigrec_jax import errors
from bigrec_jax.config import ServeConfig
from bigrec_jax.data.prepared import (
  catalogue as catalogue_lib,
  histories as histories_lib,
)
from bigrec_jax.recommend import filters
from bigrec_jax.serving import (
  compilations,
  lookup,
  refusals,
  requests,
  served,
  waiting,
  warming,
)


class Engine:
  """Decodes and lists for any number of threads.

  Attributes:
    recommender: whose answers these are.
    ready: set once every program is compiled.
    waiting: who waits for a slot.
    slots_running: where users are decoded; of one thread alone.
  """

  def __init__(self, recommender: served.Served, config: ServeConfig):
    """Prepares; `start` compiles and goes on in threads of its own."""
    self.recommender, self.config = recommender, config
    self.ready = threading.Event()
    self.waiting = waiting.Queue(config.queue)
    self.failure: BaseException | None = None
    self.slots_running = recommender.running(
      config.max_batch, config.prompt_buckets
    )
    self._inside: dict[Hashable, waiting.User] = {}  # By name, those in slots.
    self._written: queue.SimpleQueue[waiting.Done | None] = queue.SimpleQueue()
    self._listing = 0  # Users whose texts are written and lists are not.
    self._change: waiting.Change | None = None
    self._most_at_once = self.slots  # Users, since all slots were free.
    self._stopping = False
    self._names = 0
    self._compiled = 0
    self._lock = threading.Lock()  # Of the counters.
    # Programs on several devices must begin in one order on all of them.
    several = recommender.mesh.size > 1
    self.devices: contextlib.AbstractContextManager[Any] = (
      threading.RLock() if several else contextlib.nullcontext()
    )
    self._threads: list[threading.Thread] = []

  @property
  def slots(self) -> int:
    """Users that are decoded side by side."""
    return self.slots_running.slots

  @property
  def busy(self) -> int:
    """Users who are being decoded."""
    return len(self._inside)

  @property
  def is_idle(self) -> bool:
    """Whether nobody waits for anything."""
    return not (len(self.waiting) or self._inside or self._listing)

  @property
  def compiled_since_ready(self) -> int:
    """Programs that were compiled while requests waited; 0 is promised."""
    if not self.ready.is_set():
      return 0
    return compilations.count() - self._compiled

  def start(self, ended: Callable[[], None]) -> None:
    """Begins; returns at once.

    Args:
      ended: called where a thread fails; `failure` then says why.
    """
    compilations.listen()

    def guarded(work: Callable[[], None]) -> Callable[[], None]:
      def run() -> None:
        try:
          work()
        except BaseException as error:
          self.failure = error
          logging.error("serve: %s", errors.one_line(str(error)))
          self.stop(error)
          ended()

      return run

    def decode() -> None:
      try:
        warming.warm_up(self)
        self._compiled = compilations.count()
        self.ready.set()
        self._decode()
      finally:
        self._written.put(None)  # Nothing more comes, whatever the reason.

    for name, work in (("decode", decode), ("list", self._list)):
      thread = threading.Thread(target=guarded(work), name=name, daemon=True)
      self._threads.append(thread)
      thread.start()

  def stop(self, error: BaseException | None = None) -> None:
    """Ends the threads once nobody is served any more.

    Args:
      error: what whoever still waits is told.
    """
    self.waiting.clear(error or refusals.closing())
    if error is not None:
      for user in list(self._inside.values()):
        user.request.fail(error)
    with self.waiting.changed:
      self._stopping = True
      self.waiting.changed.notify_all()

  def join(self, seconds: float) -> bool:
    """Waits for the threads; returns whether both have ended."""
    until = time.monotonic() + seconds
    for thread in self._threads:
      thread.join(max(0.0, until - time.monotonic()))
    return not any(thread.is_alive() for thread in self._threads)

  def submit(self, ask: requests.Ask) -> waiting.Request:
    """Takes a request; its `answer` will have the lists.

    Raises:
      RefusedError: a field is wrong or too long, or too many wait.
    """
    if self._stopping:
      raise refusals.closing()
    deadline = time.monotonic() + ask.deadline_ms / 1e3
    edition, catalogue = self.recommender.offered
    found = lookup.find(ask, catalogue, deadline)
    shown = lookup.shown(ask, catalogue)
    self.recommender.check(shown)
    request = waiting.Request(ask, found, shown, edition, deadline)
    users = [self._user(request, place) for place in range(len(found))]
    if not users:
      request.answer.set_result([])
      return request
    self.waiting.add(users)
    return request

  def change(self, act: Callable[[], None], trie: bool) -> None:
    """Does something between two steps, and returns once it is done.

    Args:
      act: the less it takes the better: everybody waits.
      trie: other titles may be written afterwards, so nobody may be in the
        middle of one: those in the slots are written first.
    """
    change = waiting.Change(act, trie, threading.Event(), [])
    with self.waiting.changed:
      if self._stopping:
        raise refusals.closing()
      self._change = change
      self.waiting.changed.notify_all()
    while not change.done.wait(1.0):
      if self.failure is not None:
        raise refusals.closing()
    if change.problem:
      raise change.problem[0]

  def _user(self, request: waiting.Request, place: int) -> waiting.User:
    with self._lock:
      self._names += 1
      name = self._names
    items = request.found[place : place + 1].padded(self.recommender.history)
    with self.devices:  # A prior asks a network.
      prompt = self.recommender.prompt(
        name, request.found.titles[place], items[0]
      )
    longest = self.slots_running.buckets[-1]
    if prompt is not None and len(prompt.tokens) > longest:
      field = f"histories[{place}]"
      raise refusals.too_large(
        field,
        f"{field}: a prompt of {len(prompt.tokens)} tokens found, at most"
        f" {longest} expected (config.serve.prompt_buckets)",
      )
    return waiting.User(request, place, prompt, name)

  def _decode(self) -> None:
    """Runs the slots until the end."""
    while True:
      with self.waiting.changed:
        while not (
          len(self.waiting) or self._inside or self._change or self._stopping
        ):
          self.waiting.changed.wait()
        if self._stopping and not (len(self.waiting) or self._inside):
          break
      self._wait_for_company()
      self._make_change()
      self._admit()
      with self.devices:
        found = self.slots_running.advance()
      for each in found:
        user = self._inside.pop(each.name)
        if each.problem:
          user.request.fail(errors.NonFiniteError(user.place, each.problem))
        else:
          texts = self.recommender.texts(each.tokens, each.scores)
          self._pass_on(waiting.Done(user, texts))
      self._drop_expired()

  def _wait_for_company(self) -> None:
    """Lets whoever comes a moment later be read together with the first.

    Where nobody came beside the one before, nobody is waited for.
    """
    if self._inside or not len(self.waiting):
      return
    expected, self._most_at_once = self._most_at_once > 1, 0
    if not expected:
      return
    until = time.monotonic() + self.config.max_wait_ms / 1e3
    with self.waiting.changed:
      while not self._inside and 0 < len(self.waiting) < self.slots:
        left = until - time.monotonic()
        if left <= 0:
          return
        self.waiting.changed.wait(left)

  def _admit(self) -> None:
    if self._change is not None:
      return  # Until those who are being written are done.
    users = self.waiting.take(self.slots_running.free)
    for user in users:
      if user.prompt is None:
        self._pass_on(waiting.Done(user, None))
    inside = [user for user in users if user.prompt is not None]
    self._inside |= {user.name: user for user in inside}
    now = len(self._inside) + len(self.waiting)
    self._most_at_once = max(self._most_at_once, now)
    if inside:
      with self.devices:
        self.slots_running.admit(
          [user.prompt for user in inside if user.prompt]
        )

  def _drop_expired(self) -> None:
    now = time.monotonic()
    for name, user in list(self._inside.items()):
      if user.request.expire(now):
        self.slots_running.drop(name)
        del self._inside[name]

  def _make_change(self) -> None:
    change = self._change
    if change is None or (change.trie and self._inside):
      return
    try:
      with self.devices:
        change.act()
        if change.trie:
          trie = self.recommender.trie
          assert trie is not None
          self.slots_running.set_trie(trie)
    except BaseException as error:
      change.problem.append(error)
    self._change = None
    change.done.set()

  def _pass_on(self, done: waiting.Done) -> None:
    with self._lock:
      self._listing += 1
    self._written.put(done)

  def _list(self) -> None:
    """Makes lists of what is written until the end."""
    while True:
      first = self._written.get()
      if first is None:
        return
      ended, batch = False, [first]
      with contextlib.suppress(queue.Empty):
        while len(batch) < self.slots:
          other = self._written.get_nowait()
          if other is None:
            ended = True
            break
          batch.append(other)
      for group in self._alike(batch):
        try:
          self._lists_of(group)
        except BaseException as error:
          for done in group:
            done.user.request.fail(error)
          if not isinstance(error, (errors.UserError, errors.NonFiniteError)):
            logging.exception("serve: a list failed")
      with self._lock:
        self._listing -= len(batch)
      self.waiting.done(len(batch))
      if ended:
        return

  def _lists_of(self, group: Sequence[waiting.Done]) -> None:
    """Makes and hands out the lists of users who share their options."""
    now = time.monotonic()
    group = [done for done in group if not done.user.request.expire(now)]
    if not group:
      return
    first = group[0].user.request
    made, width = self._sizes(first.ask)
    size = 1 if len(group) == 1 else self.slots

    def as_now(
      edition: int, catalogue: catalogue_lib.Catalogue
    ) -> tuple[histories_lib.Histories, filters.Filter]:
      own = [lookup.again(done.user, edition, catalogue) for done in group]
      shown = first.shown
      if first.edition != edition:
        shown = lookup.shown(first.ask, catalogue)
      return histories_lib.joined((own * size)[:size]), shown

    with self.devices:
      texts = [
        done.texts or self.recommender.write(done.user.history)
        for done in group
      ]
      lists = self.recommender.lists(
        as_now,
        (texts * size)[:size],
        first.ask.k,
        exclude_history=first.ask.exclude_history,
        made=made,
        width=width,
      )
    for done, own in zip(group, lists, strict=False):
      request = done.user.request
      request.take(done.user.place, own)

  def _sizes(self, ask: requests.Ask) -> tuple[int, int]:
    """Returns the list length and history width of a request's programs."""
    own = self.recommender
    longest = max(map(len, ask.histories))
    lengths = warming.list_lengths(self.config, own)
    widths = warming.history_widths(self.config, own)
    return (
      next(length for length in lengths if ask.k <= length),
      next(width for width in widths if longest <= width),
    )

  def _alike(self, batch: Sequence[waiting.Done]) -> list[list[waiting.Done]]:
    """Returns users whose lists are made in one call, side by side."""
    groups: dict[Any, list[waiting.Done]] = {}
    for done in batch:
      ask = done.user.request.ask
      filtered = ask.allow is not None or ask.deny is not None
      # What else differs is padding, or which rows are hidden.
      key = (
        self._sizes(ask),
        ask.k,  # A confidence is of so many items.
        ask.exclude_history,
        id(done.user.request) if filtered else None,
        done.texts is None,
      )
      groups.setdefault(key, []).append(done)
    return list(groups.values())
