"""The loop over tokens that beam search and sampling share.

A step attends to every slot of the cache of written tokens, used or not, and
most titles are far shorter than `max_new_tokens`. So the loop runs in
segments: a small cache first, and a larger one only for batches that are not
done when it is full.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import jax

from bigrec_jax.decoding import selection

# A model step: (tokens [B, W], step, carry) -> (logits [B, W, V], carry).
StepFn = Callable[[jax.Array, jax.Array, Any], tuple[jax.Array, Any]]
# (logits [B, W, V], trie nodes [B, W]) -> candidates.
ExpandFn = Callable[[jax.Array, jax.Array], selection.Candidates]


# Each is a loop of its own in the program, and compiled as such.
_MOST_SEGMENTS = 3


class _State(Protocol):
  step: jax.Array  # [] int32, tokens chosen so far.
  tokens: jax.Array  # [B, W, T] int32, the running hypotheses.


StateT = TypeVar("StateT", bound=_State)
# (state, logits [B, W, V], carry) -> (state, carry), one token further.
ChooseFn = Callable[[StateT, jax.Array, Any], tuple[StateT, Any]]


def segments(max_new_tokens: int, first: int) -> tuple[int, ...]:
  """Returns how many written tokens the cache holds in each segment.

  Each holds twice as many as the one before. The last token chosen is never
  fed back, so the last size is one less than `max_new_tokens`.

  Args:
    max_new_tokens: T.
    first: The size of the first segment, unless the last is hardly larger.
  """
  most = max(max_new_tokens - 1, 1)
  sizes = []
  while 2 * most >= 3 * first and len(sizes) < _MOST_SEGMENTS - 1:
    sizes.append(first)
    first *= 2
  return (*sizes, most)


def run(
  state: StateT,
  carry: Any,
  *,
  step_fn: StepFn,
  choose: ChooseFn,
  grow: Callable[[Any, int], Any],
  unfinished: Callable[[StateT], jax.Array],
  sizes: Sequence[int],
) -> StateT:
  """Feeds the chosen tokens back until nobody is unfinished.

  Args:
    state: After the first token.
    carry: What the model keeps between steps, for `sizes[0]` tokens.
    step_fn: The model.
    choose: The search: takes logits, chooses, and makes the carry follow.
    grow: Makes a carry hold more tokens.
    unfinished: [] bool, whether another token is wanted.
    sizes: Tokens that the carry holds in each segment, ascending; the last is
      enough for all.
  """

  def body(loop: tuple[StateT, Any]) -> tuple[StateT, Any]:
    state, carry = loop
    newest = jax.lax.dynamic_index_in_dim(
      state.tokens, state.step - 1, axis=2, keepdims=False
    )
    logits, carry = step_fn(newest, state.step - 1, carry)
    return choose(state, logits, carry)

  for place, size in enumerate(sizes):
    if place:
      carry = grow(carry, size)

    def more(loop: tuple[StateT, Any], size: int = size) -> jax.Array:
      # A step writes token number `step - 1`.
      return (loop[0].step <= size) & unfinished(loop[0])

    state, carry = jax.lax.while_loop(more, body, (state, carry))
  return state
