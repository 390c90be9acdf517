"""What beam search and sampling share: rows, length norms, the loop.

Every row has its own step, since users are decoded side by side that began
at different times (`slots.py`). RowFacts never look at each other.

A step attends to every slot of the cache of written tokens, used or not, and
most titles are far shorter than `max_new_tokens`. So the loop stops when the
cache is full for some row, and goes on with a larger one.
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from bigrec_jax.decoding import selection

# A model step: (tokens [B, W], tokens fed back before [B], carry)
# -> (logits [B, W, V], carry).
StepFn = Callable[[jax.Array, jax.Array, Any], tuple[jax.Array, Any]]
# (logits [B, W, V], trie nodes [B, W], how many of the best candidates of a
# beam are needed at least; None = all) -> candidates.
ExpandFn = Callable[[jax.Array, jax.Array, int | None], selection.Candidates]
# Follows the beams: (carry, parents [B, W]) -> carry.
ReorderFn = Callable[[Any, jax.Array], Any]
# tokens [B, W, T], scores [B, W], lengths [B, W]; best first.
Found = tuple[jax.Array, jax.Array, jax.Array]

# Each is a program of its own, and compiled as such.
_MOST_SIZES = 3


class LengthNorms(flax.struct.PyTreeNode):
  """Divisors of a hypothesis' score by the step of its last token.

  Attributes:
    ended: [B, T] float32, for one whose last token is EOS.
    running: [B, T] float32, for one without EOS; the stopping bound uses it
      too.
  """

  ended: jax.Array | np.ndarray
  running: jax.Array | np.ndarray


class RowFacts(flax.struct.PyTreeNode):
  """What a search is told of its rows.

  Attributes:
    norms: length norms, [B, T] each.
    keys: [B, ...] uint32, data of each row's random key; None for beams.
    log_masses: [B, K] float32, what each row's prior gives the titles of a
      range of the trie (constraints/prior.py); None without a prior.
  """

  norms: LengthNorms
  keys: jax.Array | None
  log_masses: jax.Array | None = None


class _State(Protocol):
  step: jax.Array  # [B] int32, tokens chosen so far.
  broken: jax.Array  # [B] bool, whether a logit was NaN or infinite.
  tokens: jax.Array  # [B, W, T] int32, the running hypotheses.


StateT = TypeVar("StateT", bound=_State)
LoopT = TypeVar("LoopT")


class Search(Protocol[StateT]):
  """A way to choose tokens; hashable, since programs are compiled for it."""

  @property
  def num_beams(self) -> int:
    """W."""
    ...

  @property
  def width(self) -> int:
    """Q, tokens of a pass of the network."""
    ...

  def start(
    self,
    first_logits: jax.Array,
    active: jax.Array,
    rows: RowFacts,
    expand: Any,
  ) -> StateT:
    """Chooses first tokens from logits [B, V]; rows not active are done."""

  def advance(
    self, state: StateT, logits: jax.Array, rows: RowFacts, expand: ExpandFn
  ) -> tuple[StateT, jax.Array | None]:
    """Chooses one more token; returns parents [B, W] too if beams moved."""

  def done(self, state: StateT) -> jax.Array:
    """Says which rows will not change any more, [B] bool."""

  def found(self, state: StateT, rows: RowFacts) -> Found:
    """Returns the hypotheses of rows that are done."""


def length_norms(
  batch: int,
  max_new_tokens: int,
  length_penalty: float,
  prompt_lengths: np.ndarray | None,
) -> LengthNorms:
  """Tabulates length ** length_penalty on the host, in float64.

  Args:
    batch: RowFacts.
    max_new_tokens: T.
    length_penalty: The exponent; 0 leaves sums as they are.
    prompt_lengths: None counts generated tokens with EOS, as today. [B] int
      counts these prompt tokens too, and EOS not: the rule before
      transformers 4.36 (PR 27351), which the paper ran with (quirk 8); the
      width of the left-padded batch is what its runs counted.
  """
  steps = np.arange(max_new_tokens, dtype=np.float64)[None]
  if prompt_lengths is None:
    ended = running = np.repeat(steps + 1.0, batch, axis=0)
  else:
    prompts = np.asarray(prompt_lengths, np.float64).reshape(batch, 1)
    ended, running = prompts + steps, prompts + steps + 1.0
  return LengthNorms(
    ended=(ended**length_penalty).astype(np.float32),
    running=(running**length_penalty).astype(np.float32),
  )


def sizes(max_new_tokens: int, first: int) -> tuple[int, ...]:
  """Returns how many written tokens of a beam the cache may hold.

  Each size is twice the one before. The last token chosen is never fed back,
  so the last size is one less than `max_new_tokens`.

  Args:
    max_new_tokens: T.
    first: The first size, unless the last is hardly larger.
  """
  most = max(max_new_tokens - 1, 1)
  found: list[int] = []
  while 2 * most >= 3 * first and len(found) < _MOST_SIZES - 1:
    found.append(first)
    first *= 2
  return (*found, most)


def write(tokens: jax.Array, step: jax.Array, new: jax.Array) -> jax.Array:
  """Returns tokens [B, W, T] with `new` [B, W] at each row's step [B].

  Nothing is written where the step is T.
  """
  places = jnp.arange(tokens.shape[2], dtype=jnp.int32)
  here = places[None, None] == step[:, None, None]  # [B, 1, T]
  return jnp.where(here, new[:, :, None], tokens)


def at_step(table: jax.Array | np.ndarray, step: jax.Array) -> jax.Array:
  """Returns table [B, T] at each row's step [B], the last if beyond it."""
  place = jnp.minimum(step, table.shape[1] - 1)[:, None]
  return jnp.take_along_axis(table, place, axis=1)  # [B, 1]


def goes_on(search: Any, state: Any, room: int, wanted: jax.Array) -> jax.Array:
  """Says whether too few rows are done and the cache has room, [] bool."""
  done = search.done(state)
  # A step feeds back token number `step - 1`.
  full = jnp.any(~done & (state.step > room))
  return (jnp.sum(done, dtype=jnp.int32) < wanted) & ~full


def run(
  search: Search[StateT],
  state: StateT,
  carry: Any,
  rows: RowFacts,
  *,
  step_fn: StepFn,
  reorder: ReorderFn,
  expand: ExpandFn,
  room: int,
  wanted: jax.Array,
  most: jax.Array | None = None,
) -> tuple[StateT, Any]:
  """Feeds the chosen tokens back until enough rows are done, or no room.

  Args:
    search: How tokens are chosen.
    state: From `start` or an earlier run.
    carry: What the model keeps between steps, for `room` tokens of a row.
    rows: What the search is told of its rows.
    step_fn: The model.
    reorder: Makes the carry follow the beams.
    expand: Which tokens may follow; `selection.all_tokens` or a trie's.
    room: Tokens of a row that can be fed back in all.
    wanted: [] int32, at most B: how many rows have to be done.
    most: [] int32, steps at most; None = any number.
  """

  def more(loop: tuple[StateT, Any]) -> jax.Array:
    return goes_on(search, loop[0], room, wanted)

  def body(loop: tuple[StateT, Any]) -> tuple[StateT, Any]:
    state, carry = loop
    last = (state.step - 1)[:, None, None]  # [B, 1, 1]
    newest = jnp.take_along_axis(state.tokens, last, axis=2, mode="clip")
    logits, carry = step_fn(newest[:, :, 0], state.step - 1, carry)
    state, parents = search.advance(state, logits, rows, expand)
    return state, carry if parents is None else reorder(carry, parents)

  return loop_at_most(more, body, (state, carry), most)


def loop_at_most(
  more: Callable[[LoopT], jax.Array],
  body: Callable[[LoopT], LoopT],
  start: LoopT,
  most: jax.Array | None,
) -> LoopT:
  """Does what `jax.lax.while_loop` does, `most` times at most; None = any."""
  if most is None:
    return jax.lax.while_loop(more, body, start)
  end, _ = jax.lax.while_loop(
    lambda loop: more(loop[0]) & (loop[1] < most),
    lambda loop: (body(loop[0]), loop[1] + 1),
    (start, jnp.int32(0)),
  )
  return end
