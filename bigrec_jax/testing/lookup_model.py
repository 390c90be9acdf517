"""A language model small enough to search by hand: a table of logits.

Its logits depend on the whole history through a running hash, so a search
that mixes up its beams' carries cannot go unnoticed.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bigrec_jax.decoding import stepping

STATES = 997
Hypothesis = tuple[tuple[int, ...], float]  # Tokens and score.


class LookupModel:
  """Logits from a table, by a running hash of all tokens.

  Attributes:
    table: [STATES, V] float32.
  """

  def __init__(
    self,
    vocab_size: int,
    seed: int,
    scale: float = 3.0,
    eos_bias: Mapping[int, float] | None = None,
  ):
    """Draws the table.

    Args:
      vocab_size: V.
      seed: of the table.
      scale: standard deviation of the logits.
      eos_bias: what is added to the logits of some tokens.
    """
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(STATES, vocab_size)) * scale
    for eos, bias in (eos_bias or {}).items():
      table[:, eos] += bias
    self.table = table.astype(np.float32)

  def start(self, prompt: Sequence[int]) -> int:
    """Returns the state after a prompt."""
    state = 1
    for token in prompt:
      state = (state * 31 + token + 1) % STATES
    return state

  def first(self, starts: Sequence[int]) -> tuple[jax.Array, jax.Array]:
    """Returns logits [B, V] after the prompts, and the carry [B, 1]."""
    states = jnp.asarray(starts, jnp.int32)
    return jnp.asarray(self.table)[states], states[:, None]

  def step(
    self, tokens: jax.Array, step: jax.Array, carry: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Returns logits [B, W, V] after tokens [B, W], and the carry [B, W]."""
    del step
    carry = jnp.broadcast_to(carry, tokens.shape)
    carry = (carry * 31 + tokens + 1) % STATES
    return jnp.asarray(self.table)[carry], carry

  @staticmethod
  def reorder(carry: jax.Array, parents: jax.Array) -> jax.Array:
    """Returns the carry of each beam's parent, [B, W]."""
    return jnp.take_along_axis(
      jnp.broadcast_to(carry, parents.shape), parents, axis=1
    )

  @functools.cache  # noqa: B019
  def log_probs(self, state: int) -> np.ndarray:
    """Returns log-probabilities [V] float64 after a state."""
    logits = self.table[state].astype(np.float64)
    return logits - np.log(np.sum(np.exp(logits)))

  def walk(self, start: int, tokens: Sequence[int]) -> float:
    """Returns the sum of log-probabilities of a sequence."""
    total, state = 0.0, start
    for token in tokens:
      total += self.log_probs(state)[token]
      state = (state * 31 + token + 1) % STATES
    return total


def search(
  method: Any,
  model: LookupModel,
  starts: Sequence[int],
  active: jax.Array,
  rows: stepping.RowFacts,
  expand: stepping.ExpandFn,
  room: int = 60,
) -> Any:
  """Runs a whole search, in two parts, and returns its final state.

  Args:
    method: the search.
    model: the table.
    starts: states after the prompts.
    active: [B] bool.
    rows: what the search is told of its rows.
    expand: which tokens may follow.
    room: as many tokens as any hypothesis has.
  """
  logits, carry = model.first(starts)
  carry = jnp.broadcast_to(carry, (carry.shape[0], method.num_beams))
  state = method.start(logits, active, rows, expand)
  for part in (3, room):
    state, carry = stepping.run(
      method,
      state,
      carry,
      rows,
      step_fn=model.step,
      reorder=model.reorder,
      expand=expand,
      room=part,
      wanted=jnp.int32(len(starts)),
    )
  return state


def naive_beam_search(
  model: LookupModel,
  start: int,
  *,
  num_beams: int,
  max_new_tokens: int,
  eos_ids: Sequence[int],
  early_stopping: bool,
  norm: Callable[[int, bool], float],
) -> list[Hypothesis]:
  """Returns the hypotheses of one row, by lists and sorts only.

  Args:
    model: the table.
    start: the state after the prompt.
    num_beams: W.
    max_new_tokens: T.
    eos_ids: the tokens that end a hypothesis.
    early_stopping: as in Hugging Face generate.
    norm: (number of tokens, whether EOS ended it) to the length norm.
  """
  running: list[tuple[float, tuple[int, ...], int]]
  finished: list[tuple[float, tuple[int, ...]]]
  keep = max(2, 1 + len(eos_ids)) * num_beams
  running = [(0.0, (), start)]
  finished = []
  for step in range(max_new_tokens):
    candidates = []
    for score, tokens, state in running:
      for token, log_prob in enumerate(model.log_probs(state)):
        child = (state * 31 + token + 1) % STATES
        candidates.append((score + log_prob, (*tokens, token), child))
    candidates.sort(key=lambda c: -c[0])
    candidates = candidates[:keep]
    last = step == max_new_tokens - 1
    for score, tokens, _ in candidates[:num_beams]:
      ended = tokens[-1] in eos_ids
      if ended or last:
        finished.append((score / norm(step + 1, ended), tokens))
    finished.sort(key=lambda f: -f[0])
    finished = finished[:num_beams]
    running = [c for c in candidates if c[1][-1] not in eos_ids][:num_beams]
    if len(finished) == num_beams:
      if early_stopping:
        break
      if running[0][0] / norm(step + 1, False) <= finished[-1][0]:
        break
  return [(tokens, score) for score, tokens in finished]


def naive_greedy(
  model: LookupModel, start: int, max_new_tokens: int, eos_ids: Sequence[int]
) -> tuple[list[int], float]:
  """Returns the tokens of greedy search and their log-probability."""
  tokens: list[int] = []
  total, state = 0.0, start
  while len(tokens) < max_new_tokens:
    log_probs = model.log_probs(state)
    token = int(np.argmax(log_probs))
    tokens.append(token)
    total += log_probs[token]
    state = (state * 31 + token + 1) % STATES
    if token in eos_ids:
      break
  return tokens, total


def all_titles_by_score(
  model: LookupModel,
  start: int,
  sequences: Sequence[Sequence[int]],
  power: float = 1.0,
) -> list[tuple[float, tuple[int, ...]]]:
  """Returns every title with its score, best first."""
  scored = [
    (model.walk(start, ids) / math.pow(len(ids), power), tuple(ids))
    for ids in {tuple(ids) for ids in sequences}
  ]
  return sorted(scored, key=lambda pair: -pair[0])


def hypotheses(
  tokens: jax.Array, scores: jax.Array, lengths: jax.Array
) -> list[Hypothesis]:
  """Returns the device arrays of one row as [(tokens, score), ...]."""
  return [
    (tuple(np.asarray(tokens[w][: lengths[w]]).tolist()), float(scores[w]))
    for w in range(len(scores))
    if lengths[w]
  ]


def jit_method(function: Callable, **static: Any) -> Callable:
  """Returns a function compiled with some arguments fixed."""
  return jax.jit(functools.partial(function, **static))
