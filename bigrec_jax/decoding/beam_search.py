"""Beam search as pure functions on an explicit state.

The hypotheses and scores are those of Hugging Face `generate` (transformers
5.23): each step keeps the best K = max(2, 1 + number of EOS
ids) * W continuations of a row; those that end with EOS and rank among the
first W become finished hypotheses, scored by sum of log-probabilities divided
by length ** length_penalty; the best W that do not end run on. A row is done
when its best running score cannot beat its worst finished one
(`early_stopping=False`), or when W hypotheses are finished (`True`).

Hugging Face stops a batch as one, but rows that are done change no more, so
the outcome is the same.
"""

from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from bigrec_jax.decoding import selection, stepping


class BeamState(flax.struct.PyTreeNode):
  """Everything the search knows between two steps.

  T is the most tokens a hypothesis may have, W the number of beams. Tokens
  past a hypothesis' end are 0.

  Attributes:
    step: [B] int32, tokens chosen so far; stands still in rows that are done.
    tokens: [B, W, T] int32, the running hypotheses, best first.
    scores: [B, W] float32, their sums of log-probabilities; -inf for beams
      that hold nothing.
    nodes: [B, W] int32, where they are in the trie; 0 without one.
    finished_tokens: [B, W, T] int32, the finished hypotheses, best first.
    finished_scores: [B, W] float32, divided by the length norm; -inf for
      places not taken yet.
    finished_lengths: [B, W] int32, tokens with EOS; 0 for places not taken.
    improvable: [B] bool, whether a running beam may still beat a finished one.
    broken: [B] bool, whether a logit was NaN or infinite; such a row is done.
  """

  step: jax.Array
  tokens: jax.Array
  scores: jax.Array
  nodes: jax.Array
  finished_tokens: jax.Array
  finished_scores: jax.Array
  finished_lengths: jax.Array
  improvable: jax.Array
  broken: jax.Array


def _best_continuations(
  state: BeamState, found: selection.Candidates, num_kept: int
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """Returns scores, parents, tokens and nodes of the best K, each [B, K]."""
  batch, beams, width = found.logits.shape
  per_beam = min(num_kept, width)
  # Within a beam the order of logits is the order of scores, so the softmax
  # is only taken of what is kept: no second [B, W, V] array.
  logits, slots = selection.top_k(found.logits, per_beam)  # [B, W, k]
  tokens = selection.pick(found.tokens, slots)
  offset = state.scores[:, :beams] - found.log_normaliser  # [B, W]
  scores = (logits + offset[:, :, None]).reshape(batch, beams * per_beam)
  if found.nodes is None:
    nodes = jnp.zeros_like(tokens)
  else:
    nodes = selection.pick(found.nodes, slots)
  missing = max(num_kept - beams * per_beam, 0)
  pad = ((0, 0), (0, missing))
  scores = jnp.pad(scores, pad, constant_values=-jnp.inf)
  scores, flat = jax.lax.top_k(scores, num_kept)  # [B, K]
  flat_tokens = jnp.pad(tokens.reshape(batch, -1), pad)
  flat_nodes = jnp.pad(nodes.reshape(batch, -1), pad)
  return (
    scores,
    jnp.minimum(flat // per_beam, beams - 1),
    jnp.take_along_axis(flat_tokens, flat, axis=1),
    jnp.take_along_axis(flat_nodes, flat, axis=1),
  )


def take_beams(values: jax.Array, beams: jax.Array) -> jax.Array:
  """Gathers axis 1 of [B, N, ...] by [B, M]."""
  index = beams.reshape(beams.shape + (1,) * (values.ndim - 2))
  return jnp.take_along_axis(values, index, axis=1)


def _finish(
  search: "BeamSearch",
  state: BeamState,
  hypotheses: jax.Array,
  scores: jax.Array,
  ended: jax.Array,
  norms: stepping.LengthNorms,
) -> BeamState:
  """Merges the K continuations that just ended into the finished ones.

  Args:
    search: Its settings.
    state: Before the step.
    hypotheses: [B, K, T] with the new token.
    scores: [B, K] sums of log-probabilities, descending.
    ended: [B, K] bool, by EOS.
    norms: Length norms.
  """
  num_beams = search.num_beams
  step = state.step
  # At the last step whatever there is counts as finished.
  stops = ended | (step == search.max_new_tokens - 1)[:, None]
  # EOS below rank W is dropped, as a worse beam would not have reached it.
  ranks = jnp.arange(scores.shape[1], dtype=jnp.int32)[None]  # [1, K]
  stops &= (ranks < num_beams) & (scores > -jnp.inf)
  stops &= ~search.done(state)[:, None]
  norm = jnp.where(
    ended,
    stepping.at_step(norms.ended, step),
    stepping.at_step(norms.running, step),
  )
  new_scores = jnp.where(stops, scores / norm, -jnp.inf)
  new_lengths = jnp.where(stops, step[:, None] + 1, 0)
  all_scores = jnp.concatenate([state.finished_scores, new_scores], axis=1)
  best_scores, best = jax.lax.top_k(all_scores, num_beams)
  all_tokens = jnp.concatenate([state.finished_tokens, hypotheses], axis=1)
  all_lengths = jnp.concatenate([state.finished_lengths, new_lengths], axis=1)
  return state.replace(
    finished_tokens=take_beams(all_tokens, best),
    finished_scores=best_scores,
    finished_lengths=take_beams(all_lengths, best),
  )


class BeamSearch(NamedTuple):
  """The search and its settings; a `stepping.Search`.

  Attributes:
    num_beams: W.
    max_new_tokens: T.
    eos_ids: The tokens that end a hypothesis.
    early_stopping: See the module.
  """

  num_beams: int
  max_new_tokens: int
  eos_ids: tuple[int, ...]
  early_stopping: bool

  @property
  def width(self) -> int:
    """Q, tokens of a pass."""
    return self.num_beams

  @property
  def num_kept(self) -> int:
    """K, the continuations of a row that a step looks at."""
    return max(2, 1 + len(self.eos_ids)) * self.num_beams

  def start(
    self,
    first_logits: jax.Array,
    active: jax.Array,
    rows: stepping.RowFacts,
    expand: stepping.ExpandFn,
  ) -> BeamState:
    """Chooses the first token of every beam.

    Args:
      first_logits: [B, V] float32 after the prompts.
      active: [B] bool; False for rows that only fill the group: they are done
        before they begin and return nothing.
      rows: Length norms.
      expand: Which tokens may follow.
    """
    shape = (active.shape[0], self.num_beams)
    tokens = jnp.zeros((*shape, self.max_new_tokens), jnp.int32)
    nothing = jnp.full(shape, -jnp.inf, jnp.float32)
    zeros = jnp.zeros(shape, jnp.int32)
    state = BeamState(
      step=zeros[:, 0],
      tokens=tokens,
      scores=nothing.at[:, 0].set(0.0),
      nodes=zeros,
      finished_tokens=tokens,
      finished_scores=nothing,
      finished_lengths=zeros,
      improvable=active,
      broken=jnp.zeros_like(active),
    )
    # One beam: all are the same.
    found = expand(first_logits[:, None], zeros[:, :1], self.num_kept)
    return self.choose(state, found, rows.norms)[0]

  def advance(
    self,
    state: BeamState,
    logits: jax.Array,
    rows: stepping.RowFacts,
    expand: stepping.ExpandFn,
  ) -> tuple[BeamState, jax.Array]:
    """Chooses one more token for every beam.

    Args:
      state: The search so far.
      logits: [B, W, V] float32 after the running hypotheses.
      rows: Length norms.
      expand: Which tokens may follow.

    Returns:
      The new state, and the parents [B, W] int32: which beam each running
      hypothesis continues.
    """
    found = expand(logits, state.nodes, self.num_kept)
    return self.choose(state, found, rows.norms)

  def done(self, state: BeamState) -> jax.Array:
    """Says which rows will not change any more, [B] bool."""
    stopped = ~state.improvable | (state.step >= self.max_new_tokens)
    stopped |= state.broken
    if self.early_stopping:
      stopped |= jnp.all(state.finished_lengths > 0, axis=-1)
    return stopped

  def found(self, state: BeamState, rows: stepping.RowFacts) -> stepping.Found:
    """Returns the finished hypotheses.

    A row has fewer than W only where the trie does not hold W titles.
    """
    del rows
    return (
      state.finished_tokens,
      state.finished_scores,
      state.finished_lengths,
    )

  def choose(
    self,
    state: BeamState,
    found: selection.Candidates,
    norms: stepping.LengthNorms,
  ) -> tuple[BeamState, jax.Array]:
    """Returns the state with one more token, and parents [B, W]."""
    scores, parents, tokens, nodes = _best_continuations(
      state, found, self.num_kept
    )
    hypotheses = take_beams(state.tokens, parents)  # [B, K, T]
    hypotheses = stepping.write(hypotheses, state.step, tokens)
    ended = selection.is_eos(tokens, self.eos_ids)
    finished = _finish(self, state, hypotheses, scores, ended, norms)
    running_scores, kept = jax.lax.top_k(
      jnp.where(ended, -jnp.inf, scores), self.num_beams
    )
    # All finished places taken: only a better running beam keeps a row alive.
    bound = running_scores[:, :1] / stepping.at_step(norms.running, state.step)
    full = jnp.all(finished.finished_lengths > 0, axis=1)
    worst = jnp.min(finished.finished_scores, axis=1)
    hopeful = bound[:, 0] > jnp.where(full, worst, -jnp.inf)
    going_on = ~self.done(state)
    # Beams that hold nothing are continued, too, and nobody reads them.
    holding = state.scores[:, : found.log_normaliser.shape[1]] > -jnp.inf
    broken = selection.is_broken(found, holding)
    new_state = finished.replace(
      step=state.step + going_on.astype(jnp.int32),
      tokens=take_beams(hypotheses, kept),
      scores=running_scores,
      nodes=take_beams(nodes, kept),
      improvable=state.improvable & hopeful,
      broken=state.broken | (going_on & broken),
    )
    return new_state, take_beams(parents, kept)
