"""The compiled programs that run the network: `read` and `advance`.

`read` takes a few new users from their prompts to their first tokens;
`advance` runs the loop over tokens for the users of all slots (slots.py)
until enough of them are done.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bigrec_jax.config import GenerateConfig
from bigrec_jax.decoding import (
  beam_search,
  constraints,
  lookahead,
  sampling,
  selection,
  slots as slots_lib,
  stepping,
)
from bigrec_jax.devices import sharding
from bigrec_jax.models import LanguageModel, kv_cache, soft_tokens

# Tokens; enough for nearly all titles (5 to 40 tokens).
_FIRST_SIZE = 32


Search = beam_search.BeamSearch | lookahead.Lookahead | sampling.Sampling


class Settings(NamedTuple):
  """What a compiled program is made for, beside its shapes."""

  search: Search
  sizes: tuple[int, ...]  # Of the cache of written tokens.


class Batch(NamedTuple):
  """New users, rows split over the mesh.

  Attributes:
    tokens: [R, S] int32, right padded, without the shared beginning.
    lengths: [R] int32, tokens of each row in `tokens`.
    numbers: [R] int32, places among all prompts; 0 for padding rows.
    active: [R] bool, False for rows that only fill the group.
    norms: length norms, [R, T] each.
    log_masses: see `stepping.RowFacts`.
    soft: places whose embedding is an item's; None = no row has any.
  """

  tokens: jax.Array
  lengths: jax.Array
  numbers: jax.Array
  active: jax.Array
  norms: stepping.LengthNorms
  log_masses: jax.Array | None = None
  soft: soft_tokens.Soft | None = None


class Outcome(NamedTuple):
  """What the host learns between two calls; whole on every device.

  Attributes:
    done: [B] bool.
    step: [B] int32, tokens chosen so far, or 1 + passes with lookahead.
    found: tokens [B, W, T], scores [B, W], lengths [B, W] of those done.
    broken: [B] bool, of those done whose logits were NaN or infinite.
  """

  done: jax.Array
  step: jax.Array
  found: stepping.Found
  broken: jax.Array


def settings_of(
  config: GenerateConfig,
  eos_ids: tuple[int, ...],
  trie: constraints.Trie | None,
) -> Settings:
  """Reduces the configuration to what changes the compiled program."""
  # No title is longer than the trie is deep.
  most = config.max_new_tokens if trie is None else trie.depth
  common = (config.num_beams, most, tuple(eos_ids))
  first = _FIRST_SIZE
  # One beam is greedy search, as in Hugging Face generate.
  if config.sample or config.num_beams == 1:
    warpers = None
    if config.sample:
      warpers = sampling.Warpers(config.temperature, config.top_k, config.top_p)
    search: Search = sampling.Sampling(*common, warpers)
  else:
    search = beam_search.BeamSearch(*common, config.early_stopping)
    if trie is not None and config.lookahead:
      width = config.lookahead * config.num_beams
      search = lookahead.Lookahead(search, width)
      first = max(_FIRST_SIZE // config.lookahead, 8)  # Passes, no tokens.
  return Settings(search, stepping.sizes(most, first))


def in_one_room(settings: Settings) -> Settings:
  """Returns settings whose cache of written tokens has room for all at once.

  That of a few users is small at any size, and with a single one no text that
  is longer than those before it has to wait for a program.
  """
  if isinstance(settings.search, lookahead.Lookahead):
    # All passes that may be are many times those that nearly all titles take.
    return settings._replace(sizes=settings.sizes[-2:])
  return settings._replace(sizes=settings.sizes[-1:])


def read_prefix(
  model: LanguageModel, variables: Any, ids: list[int], mesh: Mesh
) -> kv_cache.PromptCache | None:
  """Returns keys and values of what all prompts begin with."""
  if not ids:
    return None
  tokens = sharding.put_replicated(mesh, np.asarray([ids], np.int32))
  return _prefill_one(model, variables, tokens)


@functools.partial(jax.jit, static_argnames=("model",))
def _prefill_one(
  model: LanguageModel, variables: Any, tokens: jax.Array
) -> kv_cache.PromptCache:
  """Reads one unpadded row [1, P]."""
  lengths = jnp.full((1,), tokens.shape[1], jnp.int32)
  network, variables = model.executable(variables)
  _, cache = network.apply(variables, tokens, lengths, method="prefill")
  return cache.as_prefix()


@functools.partial(jax.jit, static_argnames=("model", "settings"))
def read(
  model: LanguageModel,
  settings: Settings,
  variables: Any,
  batch: Batch,
  seed: jax.Array,
  prefix: kv_cache.PromptCache | None,
  trie: constraints.Trie | None,
) -> slots_lib.Users:
  """Takes R new users to their first tokens.

  Args:
    model: the network.
    settings: from `settings_of`.
    variables: collections `params` and, with an adapter, `lora`.
    batch: the prompts.
    seed: [] uint32, of sampling.
    prefix: what all prompts begin with, already read, or None.
    trie: the titles that may be written, or None.
  """
  network, variables = model.executable(variables)
  inputs = batch.tokens
  if batch.soft is not None:
    inputs = soft_tokens.embed(network, variables, inputs, batch.soft)
  hidden, prompt = network.apply(
    variables, inputs, batch.lengths, prefix, method="prefill"
  )
  last = (batch.lengths - 1)[:, None, None]
  hidden = jnp.take_along_axis(hidden, last, axis=1)[:, 0]  # [R, D]
  logits = network.apply(variables, hidden, method="logits")
  search, keys = settings.search, None
  if isinstance(search, sampling.Sampling):
    keys = sampling.row_keys(seed, batch.numbers)
  rows = stepping.RowFacts(batch.norms, keys, batch.log_masses)
  state = search.start(logits, batch.active, rows, _expand(trie, rows))
  users = slots_lib.Users(state, rows, prompt.replace(prefix=None))
  return slots_lib.split(users, model.mesh)


@functools.partial(
  jax.jit, static_argnames=("model", "settings"), donate_argnames="slots"
)
def advance(
  model: LanguageModel,
  settings: Settings,
  variables: Any,
  slots: slots_lib.Slots,
  wanted: jax.Array,
  prefix: kv_cache.PromptCache | None,
  trie: constraints.Trie | None,
  most: jax.Array | None = None,
) -> tuple[slots_lib.Slots, Outcome]:
  """Writes tokens until enough users are done, or the cache has no room.

  Args:
    model: the network.
    settings: from `settings_of`.
    variables: collections `params` and, with an adapter, `lora`.
    slots: lost to the caller.
    wanted: [] int32: how many slots have to be free, B at most.
    prefix: what all prompts begin with, or None.
    trie: the titles that may be written, or None.
    most: [] int32, passes of the network at most; None = any number.
  """
  users = slots.users
  search: Any = settings.search  # Each kind has a state of its own.
  shared = None if prefix is None else prefix.prefix
  prompt = users.prompt.replace(prefix=shared)
  network, variables = model.executable(variables)

  def step_fn(tokens, step, suffix, chains=None):
    hidden, suffix = network.apply(
      variables, tokens, step, prompt, suffix, chains, method="decode"
    )
    return network.apply(variables, hidden, method="logits"), suffix

  common: dict[str, Any] = dict(
    step_fn=step_fn,
    reorder=lambda cache, parents: cache.reorder(parents),
    expand=_expand(trie, users.rows),
    room=slots.suffix.room,
    wanted=wanted,
    most=most,
  )
  loop = (users.state, slots.suffix, users.rows)
  if isinstance(search, lookahead.Lookahead) and trie is not None:
    state, suffix = search.run(*loop, trie=trie, **common)
  else:
    state, suffix = stepping.run(search, *loop, **common)
  outcome = Outcome(
    search.done(state),
    state.step,
    search.found(state, users.rows),
    state.broken,
  )
  if model.mesh is not None:
    outcome = jax.lax.with_sharding_constraint(
      outcome, sharding.replicated(model.mesh)
    )
  slots = slots_lib.Slots(users.replace(state=state), suffix)
  return slots_lib.split(slots, model.mesh), outcome


def _expand(
  trie: constraints.Trie | None, rows: stepping.RowFacts
) -> stepping.ExpandFn:
  if trie is None:
    return selection.all_tokens
  if trie.prior is None or rows.log_masses is None:
    return trie.expand
  adjust = trie.prior.of_users(rows.log_masses)
  return functools.partial(trie.expand, adjust=adjust)
