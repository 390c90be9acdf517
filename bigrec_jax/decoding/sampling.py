"""Sampling and greedy search: hypotheses that never look at each other.

The warpers are those of Hugging Face `generate` in its order: temperature,
top-k, top-p. The random key of a token is made of seed, row, sample and step
alone, so a user's text does not depend on who is decoded beside.
"""

from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from bigrec_jax.decoding import selection, stepping


class Warpers(NamedTuple):
  """How a distribution is bent before a token is drawn.

  Attributes:
    temperature: Divides the logits; positive.
    top_k: Keep the k largest; 0 keeps all.
    top_p: Keep the smallest set of largest probabilities that sums to top_p
      or more; 1 keeps all.
  """

  temperature: float
  top_k: int
  top_p: float


class SampleState(flax.struct.PyTreeNode):
  """Hypotheses that grow side by side.

  Attributes:
    step: [B] int32, tokens chosen so far; stands still in rows that are done.
    tokens: [B, W, T] int32, 0 past the end.
    scores: [B, W] float32, sums of log-probabilities under the model itself,
      before any warping.
    lengths: [B, W] int32, tokens with EOS.
    ended: [B, W] bool, by EOS.
    nodes: [B, W] int32, where they are in the trie; 0 without one.
    running: [B, W] bool.
    broken: [B] bool, whether a logit was NaN or infinite; such a row is done.
  """

  step: jax.Array
  tokens: jax.Array
  scores: jax.Array
  lengths: jax.Array
  ended: jax.Array
  nodes: jax.Array
  running: jax.Array
  broken: jax.Array


def warp(logits: jax.Array, warpers: Warpers) -> tuple[jax.Array, jax.Array]:
  """Keeps the tokens that may be drawn.

  Tokens that tie with the k-th largest logit are dropped beyond k, lowest
  index first; Hugging Face keeps them.

  Args:
    logits: [..., C] float32; -inf for what may not be drawn.
    warpers: Temperature, top-k, top-p.

  Returns:
    Warped logits [..., k], descending, -inf where top-p drops them, and their
    slots [..., k] int32.
  """
  size = logits.shape[-1]
  kept = min(warpers.top_k, size) if warpers.top_k else size
  values, slots = selection.top_k(logits / warpers.temperature, kept)
  if warpers.top_p < 1.0:
    probabilities = jax.nn.softmax(values, axis=-1)
    # Mass of a token and all that are less likely, as Hugging Face sums it.
    tail = jnp.flip(
      jnp.cumsum(jnp.flip(probabilities, axis=-1), axis=-1), axis=-1
    )
    dropped = (tail <= 1.0 - warpers.top_p).at[..., 0].set(False)
    values = jnp.where(dropped, -jnp.inf, values)
  return values, slots


def row_keys(seed: jax.Array, numbers: jax.Array) -> jax.Array:
  """Returns the data of each row's random key, [B, ...] uint32.

  Args:
    seed: [] uint32 or int32.
    numbers: [B] int32, the rows' places among all prompts.
  """
  by_row = jax.vmap(jax.random.fold_in, (None, 0))
  return jax.random.key_data(by_row(jax.random.key(seed), numbers))


def sample_keys(keys: jax.Array, num_samples: int) -> jax.Array:
  """Returns keys [B, W] of each row's samples, from `row_keys`."""
  samples = jnp.arange(num_samples, dtype=jnp.int32)
  by_sample = jax.vmap(jax.random.fold_in, (None, 0))
  return jax.vmap(by_sample, (0, None))(jax.random.wrap_key_data(keys), samples)


def _draw(
  found: selection.Candidates,
  warpers: Warpers | None,
  keys: jax.Array | None,
  step: jax.Array,
) -> jax.Array:
  """Returns the slot of each hypothesis' next token, [B, W] int32."""
  if warpers is None or keys is None:
    # Not argmax: it takes 18 ms where this takes 1 ms ([128, 32000], CPU).
    return selection.top_k(found.logits, 1)[1][..., 0]
  values, slots = warp(found.logits, warpers)

  def noise(key: jax.Array, step: jax.Array) -> jax.Array:
    return jax.random.gumbel(
      jax.random.fold_in(key, step), values.shape[-1:], jnp.float32
    )

  by_sample = jax.vmap(noise, (0, None))
  noisy = values + jax.vmap(by_sample)(keys, step)  # [B, W, k]
  choice = selection.top_k(noisy, 1)[1]
  return jnp.take_along_axis(slots, choice, axis=-1)[..., 0]


class Sampling(NamedTuple):
  """W hypotheses a row that never look at each other; a `stepping.Search`.

  Attributes:
    num_beams: W, hypotheses of a row.
    max_new_tokens: T.
    eos_ids: The tokens that end a hypothesis.
    warpers: None takes the likeliest token: greedy search.
  """

  num_beams: int
  max_new_tokens: int
  eos_ids: tuple[int, ...]
  warpers: Warpers | None

  @property
  def width(self) -> int:
    """Q, tokens of a pass."""
    return self.num_beams

  def start(
    self,
    first_logits: jax.Array,
    active: jax.Array,
    rows: stepping.RowFacts,
    expand: stepping.ExpandFn,
  ) -> SampleState:
    """Draws the first token of every hypothesis.

    Args:
      first_logits: [B, V] float32 after the prompts.
      active: [B] bool, False for rows that only fill the group.
      rows: Their keys.
      expand: Which tokens may follow.
    """
    shape = (active.shape[0], self.num_beams)
    zeros = jnp.zeros(shape, jnp.int32)
    state = SampleState(
      step=zeros[:, 0],
      tokens=jnp.zeros((*shape, self.max_new_tokens), jnp.int32),
      scores=zeros.astype(jnp.float32),
      lengths=zeros,
      ended=zeros > 0,
      nodes=zeros,
      running=jnp.broadcast_to(active[:, None], shape),
      broken=jnp.zeros_like(active),
    )
    width = first_logits.shape[-1]
    logits = jnp.broadcast_to(first_logits[:, None], (*shape, width))
    return self.advance(state, logits, rows, expand)[0]

  def advance(
    self,
    state: SampleState,
    logits: jax.Array,
    rows: stepping.RowFacts,
    expand: stepping.ExpandFn,
  ) -> tuple[SampleState, None]:
    """Chooses one more token for every hypothesis that has not ended.

    Args:
      state: The hypotheses so far.
      logits: [B, W, V] float32 after them.
      rows: Their keys.
      expand: Which tokens may follow.
    """
    # Without top-k a draw is from all there are.
    needed = 1 if self.warpers is None else self.warpers.top_k or None
    found = expand(logits, state.nodes, needed)
    keys = None
    if self.warpers is not None and rows.keys is not None:
      keys = sample_keys(rows.keys, self.num_beams)
    slots = _draw(found, self.warpers, keys, state.step)[..., None]
    chosen = jnp.take_along_axis(found.logits, slots, axis=-1)[..., 0]
    tokens = selection.pick(found.tokens, slots)[..., 0]
    tokens = jnp.where(state.running, tokens, 0)
    ended = selection.is_eos(tokens, self.eos_ids) & state.running
    if found.nodes is None:
      nodes = state.nodes
    else:
      nodes = selection.pick(found.nodes, slots)[..., 0]
    gain = jnp.where(state.running, chosen - found.log_normaliser, 0.0)
    going_on = ~self.done(state)  # [B]
    step = state.step + going_on.astype(jnp.int32)
    room = (step < self.max_new_tokens)[:, None]
    new_state = SampleState(
      step=step,
      tokens=stepping.write(state.tokens, state.step, tokens),
      scores=state.scores + gain,
      lengths=state.lengths + state.running.astype(jnp.int32),
      ended=state.ended | ended,
      nodes=nodes,
      running=state.running & ~ended & room,
      broken=state.broken | selection.is_broken(found, state.running),
    )
    return new_state, None

  def done(self, state: SampleState) -> jax.Array:
    """Says which rows will not change any more, [B] bool."""
    return ~jnp.any(state.running, axis=1) | state.broken

  def found(
    self, state: SampleState, rows: stepping.RowFacts
  ) -> stepping.Found:
    """Divides scores by the length norm and orders hypotheses, best first."""
    last = jnp.maximum(state.lengths - 1, 0)  # [B, W]
    norm = jnp.where(
      state.ended,
      jnp.take_along_axis(rows.norms.ended, last, axis=1),
      jnp.take_along_axis(rows.norms.running, last, axis=1),
    )
    scores = jnp.where(state.lengths > 0, state.scores / norm, -jnp.inf)
    scores, order = jax.lax.top_k(scores, scores.shape[1])
    tokens = jnp.take_along_axis(state.tokens, order[:, :, None], axis=1)
    lengths = jnp.take_along_axis(state.lengths, order, axis=1)
    return tokens, scores, lengths
