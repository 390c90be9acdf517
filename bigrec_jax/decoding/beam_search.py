"""Beam search as pure functions on an explicit state.

The hypotheses and scores are those of Hugging Face `generate` (transformers
5.23, SPECS.md 1.6): each step keeps the best K = max(2, 1 + number of EOS
ids) * W continuations of a row; those that end with EOS and rank among the
first W become finished hypotheses, scored by sum of log-probabilities divided
by length ** length_penalty; the best W that do not end run on. A row is done
when its best running score cannot beat its worst finished one
(`early_stopping=False`), or when W hypotheses are finished (`True`).

Rows never look at each other. Hugging Face stops a batch as one, but rows
that are done change no more, so the outcome is the same.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from bigrec_jax.decoding import selection, stepping

# Follows the beams: (carry, parents [B, W]) -> carry.
ReorderFn = Callable[[Any, jax.Array], Any]


class BeamState(flax.struct.PyTreeNode):
  """Everything the search knows between two steps.

  T is the most tokens a hypothesis may have, W the number of beams. Tokens
  past a hypothesis' end are 0.

  Attributes:
    step: [] int32, tokens chosen so far.
    tokens: [B, W, T] int32, the running hypotheses, best first.
    scores: [B, W] float32, their sums of log-probabilities; -inf for beams
      that hold nothing.
    nodes: [B, W] int32, where they are in the trie; 0 without one.
    finished_tokens: [B, W, T] int32, the finished hypotheses, best first.
    finished_scores: [B, W] float32, divided by the length norm; -inf for
      places not taken yet.
    finished_lengths: [B, W] int32, tokens with EOS; 0 for places not taken.
    improvable: [B] bool, whether a running beam may still beat a finished one.
  """

  step: jax.Array
  tokens: jax.Array
  scores: jax.Array
  nodes: jax.Array
  finished_tokens: jax.Array
  finished_scores: jax.Array
  finished_lengths: jax.Array
  improvable: jax.Array


class LengthNorms(flax.struct.PyTreeNode):
  """Divisors of a hypothesis' score by the step of its last token.

  Attributes:
    ended: [B, T] float32, for one whose last token is EOS.
    running: [B, T] float32, for one without EOS; the stopping bound uses it
      too.
  """

  ended: jax.Array
  running: jax.Array


def length_norms(
  batch: int,
  max_new_tokens: int,
  length_penalty: float,
  prompt_lengths: np.ndarray | None,
) -> LengthNorms:
  """Tabulates length ** length_penalty on the host, in float64.

  Args:
    batch: Rows.
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


def init(active: jax.Array, num_beams: int, max_new_tokens: int) -> BeamState:
  """Starts a search of empty hypotheses.

  Args:
    active: [B] bool; False for rows that only fill the batch: they are done
      before they begin and return nothing.
    num_beams: W.
    max_new_tokens: T.
  """
  batch = active.shape[0]
  tokens = jnp.zeros((batch, num_beams, max_new_tokens), jnp.int32)
  nothing = jnp.full((batch, num_beams), -jnp.inf, jnp.float32)
  zeros = jnp.zeros((batch, num_beams), jnp.int32)
  return BeamState(
    step=jnp.int32(0),
    tokens=tokens,
    scores=nothing.at[:, 0].set(0.0),
    nodes=zeros,
    finished_tokens=tokens,
    finished_scores=nothing,
    finished_lengths=zeros,
    improvable=active,
  )


def done(state: BeamState, early_stopping: bool) -> jax.Array:
  """Says which rows will not change any more, [B] bool."""
  stopped = ~state.improvable
  if early_stopping:
    stopped |= jnp.all(state.finished_lengths > 0, axis=-1)
  return stopped


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


def _take_beams(values: jax.Array, beams: jax.Array) -> jax.Array:
  """Gathers axis 1 of [B, N, ...] by [B, M]."""
  index = beams.reshape(beams.shape + (1,) * (values.ndim - 2))
  return jnp.take_along_axis(values, index, axis=1)


def _finish(
  state: BeamState,
  hypotheses: jax.Array,
  scores: jax.Array,
  ended: jax.Array,
  norms: LengthNorms,
  early_stopping: bool,
) -> BeamState:
  """Merges the K continuations that just ended into the finished ones.

  Args:
    state: Before the step.
    hypotheses: [B, K, T] with the new token.
    scores: [B, K] sums of log-probabilities, descending.
    ended: [B, K] bool, by EOS.
    norms: Length norms.
    early_stopping: Whether a row with W finished takes no more.
  """
  num_beams = state.scores.shape[1]
  step, last = state.step, state.tokens.shape[2] - 1
  # At the last step whatever there is counts as finished.
  stops = ended | (step == last)
  # EOS below rank W is dropped, as a worse beam would not have reached it.
  ranks = jnp.arange(scores.shape[1], dtype=jnp.int32)[None]  # [1, K]
  stops &= (ranks < num_beams) & (scores > -jnp.inf)
  stops &= ~done(state, early_stopping)[:, None]
  norm = jnp.where(
    ended, norms.ended[:, step][:, None], norms.running[:, step][:, None]
  )
  new_scores = jnp.where(stops, scores / norm, -jnp.inf)
  new_lengths = jnp.where(stops, step + 1, 0)
  all_scores = jnp.concatenate([state.finished_scores, new_scores], axis=1)
  best_scores, best = jax.lax.top_k(all_scores, num_beams)
  all_tokens = jnp.concatenate([state.finished_tokens, hypotheses], axis=1)
  all_lengths = jnp.concatenate([state.finished_lengths, new_lengths], axis=1)
  return state.replace(
    finished_tokens=_take_beams(all_tokens, best),
    finished_scores=best_scores,
    finished_lengths=_take_beams(all_lengths, best),
  )


def advance(
  state: BeamState,
  found: selection.Candidates,
  norms: LengthNorms,
  eos_ids: tuple[int, ...],
  early_stopping: bool,
) -> tuple[BeamState, jax.Array]:
  """Chooses one more token for every beam.

  Args:
    state: The search so far.
    found: Candidates of the running beams; of one beam only in the first
      step, where all beams are the same.
    norms: Length norms.
    eos_ids: The tokens that end a hypothesis.
    early_stopping: See the module.

  Returns:
    The new state, and the parents [B, W] int32: which beam each running
    hypothesis continues.
  """
  num_beams = state.scores.shape[1]
  num_kept = max(2, 1 + len(eos_ids)) * num_beams
  scores, parents, tokens, nodes = _best_continuations(state, found, num_kept)
  hypotheses = _take_beams(state.tokens, parents)  # [B, K, T]
  hypotheses = hypotheses.at[:, :, state.step].set(tokens)
  ended = selection.is_eos(tokens, eos_ids)
  finished = _finish(state, hypotheses, scores, ended, norms, early_stopping)
  running_scores, kept = jax.lax.top_k(
    jnp.where(ended, -jnp.inf, scores), num_beams
  )
  # All finished places taken: only a better running beam keeps a row alive.
  bound = running_scores[:, 0] / norms.running[:, state.step]
  full = jnp.all(finished.finished_lengths > 0, axis=1)
  worst = jnp.min(finished.finished_scores, axis=1)
  hopeful = bound > jnp.where(full, worst, -jnp.inf)
  new_state = finished.replace(
    step=state.step + 1,
    tokens=_take_beams(hypotheses, kept),
    scores=running_scores,
    nodes=_take_beams(nodes, kept),
    improvable=state.improvable & hopeful,
  )
  return new_state, _take_beams(parents, kept)


def search(
  first_logits: jax.Array,
  carry: Any,
  *,
  step_fn: stepping.StepFn,
  reorder: ReorderFn,
  grow: Callable[[Any, int], Any],
  sizes: Sequence[int],
  expand: stepping.ExpandFn,
  active: jax.Array,
  norms: LengthNorms,
  num_beams: int,
  max_new_tokens: int,
  eos_ids: tuple[int, ...],
  early_stopping: bool,
) -> BeamState:
  """Runs a whole search, which stops when all rows are done.

  Args:
    first_logits: [B, V] float32 after the prompt.
    carry: What the model keeps between steps, for `sizes[0]` tokens.
    step_fn: The model.
    reorder: Makes the carry follow the beams after each step.
    grow: Makes the carry hold more tokens.
    sizes: From `stepping.segments`.
    expand: Which tokens may follow; `selection.all_tokens` or a trie's.
    active: [B] bool, False for rows that only fill the batch.
    norms: From `length_norms`.
    num_beams: W.
    max_new_tokens: T.
    eos_ids: The tokens that end a hypothesis.
    early_stopping: See the module.

  Returns:
    The final state: read its `finished_*`. A row has fewer than W hypotheses
    only where the trie does not hold W titles.
  """
  state = init(active, num_beams, max_new_tokens)
  found = expand(first_logits[:, None], state.nodes[:, :1])
  state, _ = advance(state, found, norms, eos_ids, early_stopping)

  def unfinished(state: BeamState) -> jax.Array:
    more = state.step < max_new_tokens
    return more & ~jnp.all(done(state, early_stopping))

  def choose(
    state: BeamState, logits: jax.Array, carry: Any
  ) -> tuple[BeamState, Any]:
    found = expand(logits, state.nodes)
    state, parents = advance(state, found, norms, eos_ids, early_stopping)
    return state, reorder(carry, parents)

  return stepping.run(
    state,
    carry,
    step_fn=step_fn,
    choose=choose,
    grow=grow,
    unfinished=unfinished,
    sizes=sizes,
  )
