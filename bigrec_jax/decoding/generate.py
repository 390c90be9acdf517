"""Prompts in, hypotheses out, in the order of the prompts.

What all prompts begin with is read once for all of them; what is their own
goes through slots, longest prompts first (lanes.py).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging
from jax.sharding import Mesh

from bigrec_jax import errors, progress as reporting
from bigrec_jax.config import GenerateConfig
from bigrec_jax.decoding import constraints, lanes, program, stepping
from bigrec_jax.devices import executor, sharding
from bigrec_jax.models import LanguageModel, kv_cache

# The shared beginning is cut to whole blocks: its length is a static shape,
# and few lengths mean few programs.
PREFIX_BLOCK = 16


@dataclasses.dataclass(frozen=True)
class Hypotheses:
  """What was generated, in the order of the prompts.

  Attributes:
    tokens: [N][<= W] token lists, best first, each with the EOS that ended
      it, if one did. A row has fewer than W only under a trie with fewer
      titles than that.
    scores: [N, W] float32, sum of log-probabilities over the length norm;
      -inf where there is no hypothesis.
  """

  tokens: list[list[list[int]]]
  scores: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Prefix:
  """What all prompts begin with, read once for any number of calls.

  Attributes:
    ids: its tokens.
    cache: their keys and values; None where there are none.
  """

  ids: list[int]
  cache: kv_cache.PromptCache | None

  def begins(self, prompt: Sequence[int]) -> bool:
    """Says whether a prompt begins with it and goes on."""
    size = len(self.ids)
    return len(prompt) > size and list(prompt[:size]) == self.ids


def read_prefix(
  model: LanguageModel,
  params: Any,
  lora: Any | None,
  ids: list[int],
  mesh: Mesh,
) -> Prefix:
  """Reads what prompts begin with; the arguments are those of `generate`."""
  variables = _variables(params, lora)
  return Prefix(ids, program.read_prefix(model, variables, ids, mesh))


def generate(
  model: LanguageModel,
  params: Any,
  lora: Any | None,
  prompts: Sequence[Sequence[int]],
  config: GenerateConfig,
  eos_ids: tuple[int, ...],
  mesh: Mesh,
  *,
  seed: int,
  norm_lengths: np.ndarray | None,
  trie: constraints.Trie | None,
  progress: reporting.Reports,
  prefix: Prefix | None = None,
) -> Hypotheses:
  """Writes `config.num_beams` hypotheses for every prompt.

  Args:
    model: The network, built for `mesh`.
    params: Its base weights.
    lora: Its adapter, or None.
    prompts: Token ids; none is cut.
    config: Section `generate`.
    eos_ids: The tokens that end a hypothesis.
    mesh: Rows are split over its axes data and fsdp.
    seed: Of sampling; a row's text depends on it and the row alone.
    norm_lengths: [N] prompt lengths that `length_norm_includes_prompt`
      counts; None counts each prompt's own tokens, without padding.
    trie: The titles that may be written, or None for any text.
    progress: `update(n)` after n more prompts.
    prefix: What all prompts begin with; None finds and reads it. Its length is
      a part of the programs' shapes, so calls that pass the same one share
      their programs.

  Raises:
    UserError: a prompt is empty; a title does not fit in `max_new_tokens`;
      the batch does not divide over the mesh.
  """
  _check(model, prompts, config, mesh, trie)
  settings = program.settings_of(config, eos_ids, trie)
  if len(prompts) <= sharding.batch_size_unit(mesh):
    settings = program.in_one_room(settings)
  scores = np.full((len(prompts), config.num_beams), -np.inf, np.float32)
  tokens: list[list[list[int]]] = [[] for _ in prompts]
  if not prompts:
    return Hypotheses(tokens, scores)
  if config.length_norm_includes_prompt and norm_lengths is None:
    norm_lengths = np.array([len(p) for p in prompts], np.int64)
  if not config.length_norm_includes_prompt:
    norm_lengths = None
  if prefix is None:
    prefix = read_prefix(model, params, lora, shared_beginning(prompts), mesh)
  work = lanes.Job(
    model=model,
    settings=settings,
    variables=_variables(params, lora),
    seed=sharding.put_replicated(mesh, np.uint32(seed % 2**32)),
    prefix=prefix.cache,
    trie=sharding.put_replicated(mesh, trie),
    mesh=mesh,
    prompts=[prompt[len(prefix.ids) :] for prompt in prompts],
    buckets=config.prompt_buckets,
    length_penalty=config.length_penalty,
    norm_lengths=norm_lengths,
  )

  def collect(rows: np.ndarray, found: stepping.Found) -> None:
    for row, beams, values, lengths in zip(rows, *found, strict=True):
      scores[row] = values
      tokens[row] = [
        beam[:length].tolist()
        for beam, length in zip(beams, lengths, strict=True)
        if length
      ]
    progress.update(len(rows))

  lanes.run(work, config.batch_size, executor.Executor.of(mesh), collect)
  return Hypotheses(tokens, scores)


def _variables(params: Any, lora: Any | None) -> dict[str, Any]:
  """Returns the collections that the network is applied to."""
  return {"params": params} | ({} if lora is None else {"lora": lora})


def _check(
  model: LanguageModel,
  prompts: Sequence[Sequence[int]],
  config: GenerateConfig,
  mesh: Mesh,
  trie: constraints.Trie | None,
) -> None:
  """Raises UserError for what would fail, or go wrong unseen, later."""
  sharding.check_batch(mesh, config.batch_size, "config.generate.batch_size")
  if trie is not None and trie.depth > config.max_new_tokens:
    raise errors.UserError(
      f"config.generate.max_new_tokens: {config.max_new_tokens} found, at"
      f" least {trie.depth} expected: the longest title has that many tokens"
    )
  for row, prompt in enumerate(prompts):
    if not len(prompt):
      raise errors.UserError(f"prompt {row}: no token found, some expected")
  longest = max(map(len, prompts), default=0) + config.max_new_tokens
  positions = model.config.max_position_embeddings
  if longest > positions:
    # Rotary positions go on; Hugging Face generates here with a warning too.
    logging.warning(
      "the longest prompt with generate.max_new_tokens is %d tokens, more than"
      " the base model's max_position_embeddings %d: expect worse texts",
      longest,
      positions,
    )


def shared_beginning(prompts: Sequence[Sequence[int]]) -> list[int]:
  """Returns the tokens with which all prompts begin, in whole blocks.

  Every prompt keeps at least one token of its own.
  """
  # All others lie between these two.
  first, last = min(map(list, prompts)), max(map(list, prompts))
  limit = min(len(prompt) for prompt in prompts) - 1
  size = 0
  while size < limit and first[size] == last[size]:
    size += 1
  return list(first[: size - size % PREFIX_BLOCK])
