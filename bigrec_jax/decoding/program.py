"""The compiled program of a batch: prefill and search in one."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bigrec_jax import sharding
from bigrec_jax.config import GenerateConfig
from bigrec_jax.decoding import (
  beam_search,
  constraints,
  sampling,
  selection,
  stepping,
)
from bigrec_jax.models import kv_cache
from bigrec_jax.models.llama import Llama, taken_apart

# Tokens; enough for nearly all titles (SPECS.md: 5 to 40).
_FIRST_SEGMENT = 32


class Settings(NamedTuple):
  """What a compiled program is made for, beside its shapes."""

  num_beams: int
  max_new_tokens: int
  eos_ids: tuple[int, ...]
  early_stopping: bool
  sample: bool
  warpers: sampling.Warpers | None
  sizes: tuple[int, ...]  # Of the cache of written tokens, by segment.


class Batch(NamedTuple):
  """The inputs of one call, rows split over the mesh.

  Attributes:
    tokens: [B, S] int32, right padded, without the shared beginning.
    lengths: [B] int32, tokens of each row in `tokens`.
    rows: [B] int32, places among all prompts; 0 for padding rows.
    active: [B] bool, False for rows that only fill the batch.
    norms: length norms, [B, T] each.
  """

  tokens: jax.Array
  lengths: jax.Array
  rows: jax.Array
  active: jax.Array
  norms: beam_search.LengthNorms


def settings_of(
  config: GenerateConfig,
  eos_ids: tuple[int, ...],
  trie: constraints.Trie | None,
) -> Settings:
  """Reduces the configuration to what changes the compiled program."""
  warpers = None
  if config.sample:
    warpers = sampling.Warpers(config.temperature, config.top_k, config.top_p)
  # No title is longer than the trie is deep.
  most = config.max_new_tokens if trie is None else trie.depth
  return Settings(
    num_beams=config.num_beams,
    max_new_tokens=most,
    eos_ids=tuple(eos_ids),
    early_stopping=config.early_stopping,
    # One beam is greedy search, as in Hugging Face generate.
    sample=config.sample or config.num_beams == 1,
    warpers=warpers,
    sizes=stepping.segments(most, _FIRST_SEGMENT),
  )


def read_prefix(
  model: Llama, variables: Any, ids: list[int], mesh: Mesh
) -> kv_cache.PromptCache | None:
  """Returns keys and values of what all prompts begin with."""
  if not ids:
    return None
  tokens = sharding.put_replicated(mesh, np.asarray([ids], np.int32))
  return _prefill_one(model, variables, tokens)


@functools.partial(jax.jit, static_argnames=("model",))
def _prefill_one(
  model: Llama, variables: Any, tokens: jax.Array
) -> kv_cache.PromptCache:
  """Reads one unpadded row [1, P]."""
  lengths = jnp.full((1,), tokens.shape[1], jnp.int32)
  _, cache = model.apply(variables, tokens, lengths, method="prefill")
  return cache.as_prefix()


@functools.partial(jax.jit, static_argnames=("model", "settings"))
def decode(
  model: Llama,
  settings: Settings,
  variables: Any,
  batch: Batch,
  seed: jax.Array,
  prefix: kv_cache.PromptCache | None,
  trie: constraints.Trie | None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Prefill and search as one program.

  Args:
    model: the network.
    settings: from `settings_of`.
    variables: collections `params` and, with an adapter, `lora`.
    batch: the prompts.
    seed: [] uint32, of sampling.
    prefix: what all prompts begin with, already read, or None.
    trie: the titles that may be written, or None.

  Returns:
    tokens [B, W, T], scores [B, W] and lengths [B, W], on every device.
  """
  first_logits, prompt = _prefill(model, variables, batch, prefix)
  if model.scan_layers:
    model, variables = taken_apart(model, variables)
    prompt = prompt if model.scan_layers else prompt.per_layer()

  def step_fn(tokens, step, suffix):
    hidden, suffix = model.apply(
      variables, tokens, step, prompt, suffix, method="decode"
    )
    return model.apply(variables, hidden, method="logits"), suffix

  def all_tokens(logits, nodes):
    del nodes
    return selection.all_tokens(logits)

  suffix = kv_cache.init_suffix(prompt, settings.num_beams, settings.sizes[0])
  common = dict(
    step_fn=step_fn,
    grow=lambda suffix, size: suffix.with_room(size),
    sizes=settings.sizes,
    expand=all_tokens if trie is None else trie.expand,
    active=batch.active,
    max_new_tokens=settings.max_new_tokens,
    eos_ids=settings.eos_ids,
  )
  if settings.sample:
    keys = sampling.row_keys(seed, batch.rows, settings.num_beams)
    # Nothing is reordered, so each sample remains its own ancestor.
    state = sampling.sample(
      first_logits, suffix, keys=keys, warpers=settings.warpers, **common
    )
    found = sampling.finalise(state, batch.norms)
  else:
    state = beam_search.search(
      first_logits,
      suffix,
      reorder=lambda cache, parents: cache.reorder(parents),
      norms=batch.norms,
      num_beams=settings.num_beams,
      early_stopping=settings.early_stopping,
      **common,
    )
    found = (
      state.finished_tokens,
      state.finished_scores,
      state.finished_lengths,
    )
  if model.mesh is None:
    return found
  return jax.lax.with_sharding_constraint(
    found, sharding.replicated(model.mesh)
  )


def _prefill(
  model: Llama,
  variables: Any,
  batch: Batch,
  prefix: kv_cache.PromptCache | None,
) -> tuple[jax.Array, kv_cache.PromptCache]:
  """Returns the logits [B, V] after each prompt, and the prompts' cache."""
  hidden, prompt = model.apply(
    variables, batch.tokens, batch.lengths, prefix, method="prefill"
  )
  last = (batch.lengths - 1)[:, None, None]
  hidden = jnp.take_along_axis(hidden, last, axis=1)[:, 0]  # [B, D]
  return model.apply(variables, hidden, method="logits"), prompt
