"""Prompts in, hypotheses out, in the order of the prompts.

What all prompts begin with is read once for all of them; what is their own
goes through slots, longest prompts first (lanes.py).
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from absl import logging
from jax.sharding import Mesh

from bigrec_jax import errors, progress as reporting
from bigrec_jax.config import GenerateConfig
from bigrec_jax.decoding import constraints, lanes, program, stepping
from bigrec_jax.devices import executor, sharding
from bigrec_jax.models import (
  LanguageModel,
  kv_cache,
  own_weights,
  soft_tokens,
)

# What networks give for tokens they have no row for, and for weights that are
# NaN; the rest of the line says which of the user's files to look at.
_NON_FINITE = (
  "non-finite logits found, finite ones expected; look at the adapter's and"
  " the base's weights, at lora.alpha, at model.dtype, and whether the"
  " tokenizer is the base's own"
)
_IMPOSSIBLE = (
  "no hypothesis found, one at least expected: all that may be written has a"
  " probability of 0; look at the adapter's and the base's weights"
)
# Tokens of a prompt's hypotheses, best first, and their scores [W].
Finished = Callable[[int, list[list[int]], np.ndarray], None]

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
  variables = _variables(model, params, lora)
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
  finished: Finished | None = None,
  rest: Sequence[int] | None = None,
  log_masses: lanes.Masses | None = None,
  soft: soft_tokens.Prompts | None = None,
) -> Hypotheses:
  """Writes `config.num_beams` hypotheses for every prompt.

  Args:
    model: The network, built for `mesh`.
    params: Its base weights.
    lora: Its adapter, maybe with a task's own weights, or None.
    prompts: Token ids of all users; none is cut.
    config: Section `generate`.
    eos_ids: The tokens that end a hypothesis.
    mesh: Rows are split over its axes data and fsdp.
    seed: Of sampling; a row's text depends on it and the row alone.
    norm_lengths: [N] prompt lengths that `length_norm_includes_prompt`
      counts; None counts each prompt's own tokens, without padding.
    trie: The titles that may be written, or None for any text.
    progress: `update(n)` after n more prompts.
    prefix: What all prompts begin with; None finds and reads it. Calls that
      pass the same one share their programs, whose shapes have its length.
    finished: Told of each prompt as it is done, in any order, one at a time.
    rest: Of which prompts to write, when the others were done before; programs,
      slots and random keys are those of all. None = all.
    log_masses: The priors of prompts by their numbers, for `trie.prior`.
    soft: Soft tokens of the prompts; None = none has any.

  Raises:
    UserError: a prompt is empty; a title does not fit in `max_new_tokens`;
      the batch does not divide over the mesh.
    NonFiniteError: a logit is NaN or infinite, or all hypotheses of a prompt
      have a probability of 0.
  """
  _check(model, prompts, config, mesh, trie)
  settings = program.settings_of(config, eos_ids, trie)
  if len(prompts) <= sharding.batch_size_unit(mesh):
    settings = program.in_one_room(settings)
  scores = np.full((len(prompts), config.num_beams), -np.inf, np.float32)
  found = Hypotheses([[] for _ in prompts], scores)
  numbers = np.array(range(len(prompts)) if rest is None else rest, int)
  if not len(numbers):
    return found
  begun = shared_beginning(prompts, soft)
  prefix = prefix or read_prefix(model, params, lora, begun, mesh)
  work = lanes.Job(
    model=model,
    settings=settings,
    variables=_variables(model, params, lora),
    seed=sharding.put_replicated(mesh, np.uint32(seed % 2**32)),
    prefix=prefix.cache,
    trie=sharding.put_replicated(mesh, trie),
    mesh=mesh,
    prompts=[prompts[number][len(prefix.ids) :] for number in numbers],
    numbers=numbers,
    lengths=np.array([len(p) for p in prompts], int) - len(prefix.ids),
    buckets=config.prompt_buckets,
    length_penalty=config.length_penalty,
    norm_lengths=_norm_lengths(config, norm_lengths, prompts, numbers),
    log_masses=log_masses,
    soft=None if soft is None else soft.placed(mesh),
    shift=len(prefix.ids),
  )
  collector = _Collector(numbers, found, finished, progress)
  lanes.run(work, config.batch_size, executor.Executor.of(mesh), collector)
  return found


def _norm_lengths(
  config: GenerateConfig,
  given: np.ndarray | None,
  prompts: Sequence[Sequence[int]],
  numbers: np.ndarray,
) -> np.ndarray | None:
  """Returns what the length norm counts of some prompts' own tokens."""
  if not config.length_norm_includes_prompt:
    return None
  if given is None:
    given = np.array([len(p) for p in prompts], np.int64)
  return given[numbers]


class _Collector:
  """Takes what the lanes finish; a `lanes.Collect`."""

  def __init__(
    self,
    numbers: np.ndarray,
    into: Hypotheses,
    finished: Finished | None,
    progress: reporting.Reports,
  ):
    self._numbers, self._into = numbers, into
    self._finished, self._progress = finished, progress

  def __call__(
    self, rows: np.ndarray, found: stepping.Found, broken: np.ndarray
  ) -> None:
    """Keeps the hypotheses of users who are done.

    Raises:
      NonFiniteError: one has none, after all others were kept.
    """
    problems = []
    for place, *parts in zip(rows, *found, broken, strict=True):
      row = int(self._numbers[place])
      if problem := self._take(row, *parts):
        problems.append(errors.NonFiniteError(row, problem))
    if len(rows) > len(problems):
      self._progress.update(len(rows) - len(problems))
    if problems:
      raise problems[0]

  def _take(
    self,
    row: int,
    beams: np.ndarray,
    scores: np.ndarray,
    lengths: np.ndarray,
    broken: bool,
  ) -> str:
    """Keeps the beams [W, T] of a user; returns what is wrong, or ""."""
    if problem := problem_of(scores, lengths, broken):
      return problem
    tokens = [
      beam[:length].tolist()
      for beam, length in zip(beams, lengths, strict=True)
      if length
    ]
    self._into.tokens[row], self._into.scores[row] = tokens, scores
    if self._finished is not None:
      self._finished(row, tokens, scores)
    return ""


def problem_of(scores: np.ndarray, lengths: np.ndarray, broken: bool) -> str:
  """Returns what is wrong with a user's hypotheses, or "".

  Args:
    scores: [W].
    lengths: [W] tokens of each, 0 where there is none.
    broken: whether a logit was NaN or infinite.
  """
  if broken or not np.isfinite(scores[lengths > 0]).all():
    return _NON_FINITE
  return "" if lengths.any() else _IMPOSSIBLE


def _variables(
  model: LanguageModel, params: Any, lora: Any | None
) -> dict[str, Any]:
  """Returns the collections that the network is applied to."""
  variables = {"params": model.prepare(params)}
  if lora is None:
    return variables
  return variables | own_weights.collections(own_weights.prepare(model, lora))


def _check(
  model: LanguageModel,
  prompts: Sequence[Sequence[int]],
  config: GenerateConfig,
  mesh: Mesh,
  trie: constraints.Trie | None,
) -> None:
  """Raises UserError for what would fail, or go wrong unseen, later."""
  sharding.check_batch(mesh, config.batch_size, "config.generate.batch_size")
  check_titles(config, trie)
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


def check_titles(config: GenerateConfig, trie: constraints.Trie | None) -> None:
  """Raises UserError where a title of the trie can't be written whole."""
  title = 0 if trie is None else int(sharding.to_host(trie.longest))
  if title > config.max_new_tokens:
    raise errors.UserError(
      f"config.generate.max_new_tokens: {config.max_new_tokens} found, at"
      f" least {title} expected: the longest title has that many tokens"
    )


def shared_beginning(
  prompts: Sequence[Sequence[int]], soft: soft_tokens.Prompts | None = None
) -> list[int]:
  """Returns the tokens with which all prompts begin, in whole blocks.

  Every prompt keeps at least one token of its own, and all its soft tokens:
  those of two prompts are alike as tokens only.
  """
  # All others lie between these two.
  first, last = min(map(list, prompts)), max(map(list, prompts))
  limit = min(len(prompt) for prompt in prompts) - 1
  if soft is not None and soft.first is not None:
    limit = min(limit, soft.first)
  size = 0
  while size < limit and first[size] == last[size]:
    size += 1
  return list(first[: size - size % PREFIX_BLOCK])
