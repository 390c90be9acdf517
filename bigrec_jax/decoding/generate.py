"""Prompts in, hypotheses out: batching, buckets and the compiled programs.

Prompts are sorted by length and cut into batches of one size; a batch is
padded to the smallest bucket that holds it, so the number of compiled
programs is the number of buckets in use. A program is prefill and search
together. What all prompts begin with is read once for all of them.
"""

import collections
import dataclasses
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh, NamedSharding

from bigrec_jax import errors, sharding
from bigrec_jax.config import GenerateConfig
from bigrec_jax.decoding import beam_search, constraints, program
from bigrec_jax.models.llama import Llama
from bigrec_jax.reporting import progress as reporting

_BUCKET_STEP = 128  # Beyond the last configured bucket.
# The shared beginning is cut to whole blocks: its length is a static shape,
# and few lengths mean few programs.
PREFIX_BLOCK = 16
_MOST_AT_ONCE = 2  # Each holds the caches of its batch.


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


def generate(
  model: Llama,
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

  Raises:
    UserError: a prompt is empty; a title does not fit in `max_new_tokens`;
      the batch does not divide over the mesh.
  """
  _check(model, prompts, config, mesh, trie)
  settings = program.settings_of(config, eos_ids, trie)
  scores = np.full((len(prompts), config.num_beams), -np.inf, np.float32)
  tokens: list[list[list[int]]] = [[] for _ in prompts]
  if not prompts:
    return Hypotheses(tokens, scores)
  if config.length_norm_includes_prompt and norm_lengths is None:
    norm_lengths = np.array([len(p) for p in prompts], np.int64)
  if not config.length_norm_includes_prompt:
    norm_lengths = None
  variables = {"params": params}
  if lora is not None:
    variables["lora"] = lora
  prefix_ids = shared_beginning(prompts)
  prefix = program.read_prefix(model, variables, prefix_ids, mesh)
  trie = sharding.put_replicated(mesh, trie)
  seed_value = sharding.put_replicated(mesh, np.uint32(seed))

  def decode(batch: program.Batch) -> Any:
    return program.decode(
      model, settings, variables, batch, seed_value, prefix, trie
    )

  def collect(rows: np.ndarray, found: Any) -> None:
    found_tokens, found_scores, lengths = jax.device_get(found)
    for place, row in enumerate(rows):
      scores[row] = found_scores[place]
      tokens[row] = [
        found_tokens[place, beam, :length].tolist()
        for beam, length in enumerate(lengths[place])
        if length
      ]
    progress.update(len(rows))

  batches = _batches(
    prompts, len(prefix_ids), norm_lengths, config, settings, mesh
  )
  _decode_all(batches, decode, collect, _at_once(mesh))
  return Hypotheses(tokens, scores)


def _decode_all(
  batches: Iterable[tuple[np.ndarray, program.Batch]],
  decode: Callable[[program.Batch], Any],
  collect: Callable[[np.ndarray, Any], None],
  at_once: int,
) -> None:
  """Decodes `at_once` batches at the same time and collects them in order."""
  compiling = threading.Lock()  # Two threads would compile a program twice.

  def run(batch: program.Batch) -> Any:
    with compiling:
      found = decode(batch)
    # A thread alone goes on to hand the device its next batch.
    return found if at_once == 1 else jax.block_until_ready(found)

  with futures.ThreadPoolExecutor(at_once) as pool:
    waiting = collections.deque()
    for rows, batch in batches:
      waiting.append((rows, pool.submit(run, batch)))
      # One more than run at once, so that devices never wait for the host.
      if len(waiting) > at_once:
        rows, found = waiting.popleft()
        collect(rows, found.result())
    for rows, found in waiting:
      collect(rows, found.result())


def _at_once(mesh: Mesh) -> int:
  """Returns how many batches are decoded at the same time.

  A step of the search is a chain of small products, which leave a CPU's second
  core idle a third of the time; another batch fills it. Programs from
  different threads run in any order, so this is for one device only: several
  would wait for each other's collectives.
  """
  alone = mesh.size == 1 and mesh.devices.flat[0].platform == "cpu"
  return min(_MOST_AT_ONCE, os.cpu_count() or 1) if alone else 1


def _check(
  model: Llama,
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
  first, last = min(prompts), max(prompts)  # All others lie between them.
  limit = min(len(prompt) for prompt in prompts) - 1
  size = 0
  while size < limit and first[size] == last[size]:
    size += 1
  return list(first[: size - size % PREFIX_BLOCK])


def bucket_of(length: int, buckets: Sequence[int]) -> int:
  """Returns the smallest bucket that holds `length` tokens.

  Beyond the last bucket it is the next multiple of 128: a prompt is never
  cut.
  """
  for bucket in sorted(buckets):
    if length <= bucket:
      return bucket
  return -(-length // _BUCKET_STEP) * _BUCKET_STEP


def _batches(
  prompts: Sequence[Sequence[int]],
  cut: int,
  norm_lengths: np.ndarray | None,
  config: GenerateConfig,
  settings: program.Settings,
  mesh: Mesh,
) -> Iterator[tuple[np.ndarray, program.Batch]]:
  """Yields the row numbers of each batch and its arrays on the mesh.

  The longest prompts come first: memory runs out at once or never.
  """
  lengths = np.array([len(prompt) - cut for prompt in prompts], np.int32)
  order = np.argsort(-lengths, kind="stable")
  size = _batch_size(len(prompts), config.batch_size, mesh)
  split = sharding.batch_sharding(mesh)
  for start in range(0, len(order), size):
    rows = order[start : start + size]
    width = bucket_of(int(lengths[rows].max()), config.prompt_buckets)
    tokens = np.zeros((size, width), np.int32)
    for place, row in enumerate(rows):
      tokens[place, : lengths[row]] = prompts[row][cut:]
    padding = size - len(rows)
    norms = beam_search.length_norms(
      size,
      settings.max_new_tokens,
      config.length_penalty,
      None
      if norm_lengths is None
      else np.pad(norm_lengths[rows], (0, padding), constant_values=1),
    )
    batch = program.Batch(
      tokens=tokens,
      lengths=np.pad(lengths[rows], (0, padding), constant_values=1),
      rows=np.pad(rows.astype(np.int32), (0, padding)),
      active=np.arange(size) < len(rows),
      norms=norms,
    )
    yield rows, jax.tree.map(lambda x: _put(x, split), batch)


def _batch_size(count: int, wanted: int, mesh: Mesh) -> int:
  """Returns the rows of a batch: fewer than wanted if there are so few."""
  size = sharding.batch_size_unit(mesh)
  while size < min(count, wanted):
    size *= 2
  return min(size, wanted)


def _put(value: np.ndarray, split: NamedSharding) -> jax.Array:
  """Puts rows that every process knows whole on the devices that own them."""
  return jax.make_array_from_callback(
    value.shape, split, lambda index: value[index]
  )
