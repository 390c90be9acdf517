"""Exact lookahead: forced tokens are scored in the pass that leads to them.

Most nodes of a trie of titles have one child. Where a beam's next tokens are
forced, one pass reads the whole chain, and beam search, step for step the
same, takes the scores from what was stored. A pass is needed only when some
beam of a user has nothing stored, so that a title takes as many passes as it
has branches, about, in place of as many as it has tokens.

A pass reads Q tokens of a user. Each beam without stored scores has its
newest token among them; the rest of the places go to the chains, the next
token of every chain before the one after it, so that all get as far. A chain
that finds no place goes on in the next pass.

Axes: B users, W beams, C levels of a chain, Q tokens of a pass, K candidates.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from bigrec_jax.decoding import beam_search, constraints, selection, stepping
from bigrec_jax.models import kv_cache

# (tokens [B, Q], tokens fed back before [B], carry, chains)
# -> (logits [B, Q, V], carry).
ChainStepFn = Callable[
  [jax.Array, jax.Array, Any, kv_cache.Chains], tuple[jax.Array, Any]
]
_MOST_LEVELS = 16


class Stored(flax.struct.PyTreeNode):
  """Scores of what may follow each beam, for steps to come.

  A beam's pass had `ends` forced tokens, each the only candidate of its step,
  and after the last of them the candidates of a whole node.

  Attributes:
    at: [B, W] int32, how many steps were taken since; beyond `ends` nothing
      is stored.
    ends: [B, W] int32.
    logits: [B, W, C] float32, of the forced tokens.
    log_normalisers: [B, W, C] float32, at each level up to `ends`.
    last_logits: [B, W, K] float32, of the candidates at `ends`.
    last_nodes: [B, W, K] int32, theirs.
  """

  at: jax.Array
  ends: jax.Array
  logits: jax.Array
  log_normalisers: jax.Array
  last_logits: jax.Array
  last_nodes: jax.Array

  @property
  def empty(self) -> jax.Array:
    """[B, W] bool: nothing is stored."""
    return self.at > self.ends


class AheadState(flax.struct.PyTreeNode):
  """Beam search and what is stored for it.

  Attributes:
    passes: [B] int32, since the user's prompt was read.
    beams: The search.
    stored: Of its running hypotheses.
  """

  passes: jax.Array
  beams: beam_search.BeamState
  stored: Stored

  @property
  def step(self) -> jax.Array:
    """[B] int32: places in the cache that the next pass will have filled."""
    return self.passes + 1

  @property
  def broken(self) -> jax.Array:
    """[B] bool, whether a logit was NaN or infinite."""
    return self.beams.broken


class _Plan(NamedTuple):
  """What a pass reads.

  Attributes:
    tokens: [B, Q] int32, 0 in empty places.
    nodes: [B, Q] int32 after each token; that of nobody in empty places.
    chains: Whose they are.
    places: [B, C, W] int32, where level c of beam w is.
    taken: [B, C, W] bool, whether it is anywhere.
  """

  tokens: jax.Array
  nodes: jax.Array
  chains: kv_cache.Chains
  places: jax.Array
  taken: jax.Array


class Lookahead(NamedTuple):
  """Beam search under a trie, several tokens of a beam in one pass.

  Attributes:
    beams: The search whose hypotheses, scores and order it has.
    width: Q, at least W.
  """

  beams: beam_search.BeamSearch
  width: int

  @property
  def num_beams(self) -> int:
    """W."""
    return self.beams.num_beams

  @property
  def max_new_tokens(self) -> int:
    """T."""
    return self.beams.max_new_tokens

  @property
  def levels(self) -> int:
    """C, the most tokens of a beam in a pass."""
    return min(self.width, self.max_new_tokens, _MOST_LEVELS)

  def start(
    self,
    first_logits: jax.Array,
    active: jax.Array,
    rows: stepping.RowFacts,
    expand: stepping.ExpandFn,
  ) -> AheadState:
    """Chooses first tokens; arguments as those of `BeamSearch.start`."""
    beams = self.beams.start(first_logits, active, rows, expand)
    zeros = jnp.zeros_like(beams.nodes)  # [B, W]

    def room(size: int, dtype: Any) -> jax.Array:
      return jnp.zeros((*zeros.shape, size), dtype)

    kept, levels = self.beams.num_kept, self.levels
    stored = Stored(
      at=zeros + 1,
      ends=zeros,
      logits=room(levels, jnp.float32),
      log_normalisers=room(levels, jnp.float32),
      last_logits=room(kept, jnp.float32),
      last_nodes=room(kept, jnp.int32),
    )
    return AheadState(jnp.zeros_like(beams.step), beams, stored)

  def done(self, state: AheadState) -> jax.Array:
    """Says which rows will not change any more, [B] bool."""
    return self.beams.done(state.beams)

  def found(self, state: AheadState, rows: stepping.RowFacts) -> stepping.Found:
    """Returns the finished hypotheses."""
    return self.beams.found(state.beams, rows)

  def run(
    self,
    state: AheadState,
    carry: Any,
    rows: stepping.RowFacts,
    *,
    step_fn: ChainStepFn,
    reorder: stepping.ReorderFn,
    expand: stepping.ExpandFn,
    trie: constraints.Trie,
    room: int,
    wanted: jax.Array,
    most: jax.Array | None = None,
  ) -> tuple[AheadState, Any]:
    """Does what `stepping.run` does; `room` and `most` count passes.

    `expand` gives the children of any nodes of `trie`.
    """

    def body(loop: tuple[AheadState, Any]) -> tuple[AheadState, Any]:
      state, carry = loop
      plan = self._plan(state, trie)
      before = state.beams.step - 1
      logits, carry = step_fn(plan.tokens, before, carry, plan.chains)
      found = expand(logits, plan.nodes, self.beams.num_kept)
      going_on = ~self.done(state)
      state = state.replace(
        passes=state.passes + going_on.astype(jnp.int32),
        stored=_store(state.stored, plan, found),
      )
      state, parents = self._take_steps(state, rows, trie)
      return state, reorder(carry, parents)

    def more(loop: tuple[AheadState, Any]) -> jax.Array:
      return stepping.goes_on(self, loop[0], room, wanted)

    return stepping.loop_at_most(more, body, (state, carry), most)

  def _needs_pass(self, state: AheadState) -> jax.Array:
    """Says which beams are to be read, [B, W] bool."""
    holding = state.beams.scores > -jnp.inf
    return state.stored.empty & holding & ~self.done(state)[:, None]

  def _plan(self, state: AheadState, trie: constraints.Trie) -> _Plan:
    """Gives the places of a pass to beams and their chains."""
    beams = state.beams
    last = (beams.step - 1)[:, None, None]  # [B, 1, 1]
    newest = jnp.take_along_axis(beams.tokens, last, axis=2, mode="clip")
    node, token = beams.nodes, newest[:, :, 0]
    wanted = self._needs_pass(state)
    chain = []
    for _ in range(self.levels):
      chain.append((node, token, wanted))
      node, forced = trie.only_child(node)
      token = trie.tokens[node]
      # A title's last token is never fed back.
      wanted &= forced & ~trie.is_leaf(node)
    nodes, tokens, wanteds = (
      jnp.stack(x, axis=1) for x in zip(*chain, strict=True)
    )
    batch, levels, width = nodes.shape
    flat = wanteds.reshape(batch, -1)  # All beams of a level, then the next.
    places = jnp.cumsum(flat, axis=1, dtype=jnp.int32) - 1
    taken = flat & (places < self.width)
    # Not a scatter: rows may lie on different devices.
    slots = jnp.arange(self.width, dtype=jnp.int32)[None, :, None]
    here = taken[:, None, :] & (places[:, None, :] == slots)  # [B, Q, C * W]
    filled = jnp.any(here, axis=2)
    source = jnp.argmax(here, axis=2).astype(jnp.int32)  # [B, Q]

    def gather(x: jax.Array, otherwise: int) -> jax.Array:
      x = jnp.take_along_axis(x.reshape(batch, -1), source, axis=1)
      return jnp.where(filled, x, otherwise)

    shape = (batch, levels, width)
    return _Plan(
      gather(tokens, 0),
      gather(nodes, trie.nowhere),
      kv_cache.Chains(
        jnp.where(filled, source % width, width),
        jnp.where(filled, source // width, 0),
      ),
      jnp.minimum(places, self.width - 1).reshape(shape),
      taken.reshape(shape),
    )

  def _take_steps(
    self, state: AheadState, rows: stepping.RowFacts, trie: constraints.Trie
  ) -> tuple[AheadState, jax.Array]:
    """Lets every user take the steps whose scores are all stored.

    Returns:
      The state, and the beams [B, W] that its hypotheses continue.
    """

    def ready(state: AheadState) -> jax.Array:
      waits = jnp.any(self._needs_pass(state), axis=1)
      return ~self.done(state) & ~waits  # [B]

    def body(
      loop: tuple[AheadState, jax.Array],
    ) -> tuple[AheadState, jax.Array]:
      state, origins = loop
      found = _candidates(state, trie)
      beams, parents = self.beams.choose(state.beams, found, rows.norms)
      stored = jax.tree.map(
        lambda x: beam_search.take_beams(x, parents), state.stored
      )
      stored = stored.replace(at=stored.at + 1)
      new = state.replace(beams=beams, stored=stored)
      origins_now = jnp.take_along_axis(origins, parents, axis=1)
      able = ready(state)

      def of_able(new: jax.Array, old: jax.Array) -> jax.Array:
        shape = (-1,) + (1,) * (new.ndim - 1)
        return jnp.where(able.reshape(shape), new, old)

      return jax.tree.map(of_able, (new, origins_now), (state, origins))

    own = jnp.arange(self.num_beams, dtype=jnp.int32)[None]
    origins = jnp.broadcast_to(own, state.beams.nodes.shape)
    return jax.lax.while_loop(
      lambda loop: jnp.any(ready(loop[0])), body, (state, origins)
    )


def _store(stored: Stored, plan: _Plan, found: selection.Candidates) -> Stored:
  """Puts what a pass found, [B, Q, K], where its beams look for it."""
  batch, levels, width = plan.places.shape
  assert (nodes := found.nodes) is not None  # A trie's.
  read = plan.taken[:, 0]  # [B, W]
  ends = jnp.sum(plan.taken, axis=1, dtype=jnp.int32) - 1
  places = plan.places.reshape(batch, -1)

  def by_level(x: jax.Array) -> jax.Array:  # [B, Q] -> [B, W, C]
    x = jnp.take_along_axis(x, places, axis=1).reshape(batch, levels, width)
    return jnp.swapaxes(x, 1, 2)

  level = jnp.maximum(ends, 0)[:, None, :]
  last = jnp.take_along_axis(plan.places, level, axis=1)[:, 0]  # [B, W]

  def at_end(x: jax.Array) -> jax.Array:  # [B, Q, K] -> [B, W, K]
    return beam_search.take_beams(x, last)

  new = Stored(
    at=jnp.zeros_like(ends),
    ends=ends,
    logits=by_level(found.logits[:, :, 0]),
    log_normalisers=by_level(found.log_normaliser),
    last_logits=at_end(found.logits),
    last_nodes=at_end(nodes),
  )

  def of_read(new: jax.Array, old: jax.Array) -> jax.Array:
    return jnp.where(read.reshape(read.shape + (1,) * (new.ndim - 2)), new, old)

  return jax.tree.map(of_read, new, stored)


def _candidates(
  state: AheadState, trie: constraints.Trie
) -> selection.Candidates:
  """Returns what may follow each beam, from what is stored: [B, W, K]."""
  stored = state.stored
  at = jnp.minimum(stored.at, stored.logits.shape[2] - 1)[:, :, None]
  forced = (stored.at < stored.ends)[:, :, None]
  first = jnp.arange(stored.last_logits.shape[2])[None, None] == 0
  child = trie.only_child(state.beams.nodes)[0][:, :, None]
  child = jnp.where(first, child, trie.nowhere)
  logit = jnp.take_along_axis(stored.logits, at, axis=2)
  logit = jnp.where(first, logit, -jnp.inf)
  normaliser = jnp.take_along_axis(stored.log_normalisers, at, axis=2)
  nodes = jnp.where(forced, child, stored.last_nodes)
  return selection.Candidates(
    logits=jnp.where(forced, logit, stored.last_logits),
    log_normaliser=normaliser[:, :, 0],
    tokens=trie.tokens[nodes],
    nodes=nodes,
  )
