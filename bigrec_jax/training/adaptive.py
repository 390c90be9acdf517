"""MSL's adaptive temperature: from how far targets stand out, step by step.

Wang et al., SIGIR 2025 (arXiv 2504.04178), Adaptive Temperature Strategy, as
WANGBohaO-jpg/MSL has it (train_trie_token_adatau.py, 514e42ee). With n legal
tokens where titles part, mean logit p of the labels, mean m and variance v of
all legal ones, and C = log(eta n),

  t = (p - m + sqrt(max((p - m)^2 - 2 C v, 0))) / (2 C), within [1.5, 5],

of which the temperature is the moving average; statistics are of one token of
each answer, that behind the node with the most children. With LLaMA-3's
tokenizer, as published, this is the first one; other tokenizers write the
quote that every answer begins with as a token of its own, and the formula has
no meaning where n eta is not above 1. Forced tokens don't count here, and the
loss is times the temperature.

There the step's own statistics go into its temperature, of one micro-batch a
step. Here they go into the next step's: the loss of a step does not depend on
how it is cut into micro-batches.

Letters: R rows, T positions, D width, M tokens where titles part, S of these
places that are looked at side by side.
"""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from bigrec_jax.decoding import constraints
from bigrec_jax.training import legal_tokens, objective as objective_lib

_TEMPERATURE = "temperature"
_ETA, _NEWEST = 0.25, 0.05  # Of the published runs, as are the bounds.
_LEAST, _MOST = 1.5, 5.0
_STARTS = 8
# Sums over the places where titles part, in the order of `_sums`.
_STATISTICS = ("parting", "parting_label", "legal", "legal_sum", "legal_square")


@dataclasses.dataclass(frozen=True, eq=False)
class AdaptiveLegalTokens(legal_tokens.LegalTokens):
  """`LegalTokens` whose temperature follows the logits; an `Adaptive`.

  `temperature` is that of the first step, and of every evaluation: losses of
  two epochs are compared, so they are of one scale.
  """

  @property
  def extras(self) -> tuple[str, ...]:
    """The share of unknown labels, and what the next temperature is of."""
    return (*super().extras, *_STATISTICS)

  @functools.cached_property
  def parting(self) -> tuple[int, int]:
    """The node with the most children, the first of them, and how many."""
    counts = np.diff(np.asarray(self.trie.first_child))
    node = int(np.argmax(counts))
    return node, int(counts[node])

  def start(self) -> dict[str, float]:
    """Returns what the first step is told."""
    return {_TEMPERATURE: self.temperature}

  def follow(
    self, told: Mapping[str, jax.Array], sums: Mapping[str, jax.Array]
  ) -> dict[str, jax.Array]:
    """Returns what the next step is told.

    Args:
      told: what this step was.
      sums: of its extras.
    """
    places, label, legal, all_legal, square = (sums[n] for n in _STATISTICS)
    now, choices = told[_TEMPERATURE], self.parting[1]
    if choices * _ETA <= 1:
      return {_TEMPERATURE: now}
    difference = label / places - all_legal / legal
    # Of a sample, as torch's var.
    variance = (square - all_legal * all_legal / legal) / (legal - 1.0)
    spread = jnp.log(jnp.float32(_ETA * choices))
    root = jnp.sqrt(
      jnp.maximum(difference * difference - 2.0 * spread * variance, 0.0)
    )
    wanted = jnp.clip((difference + root) / (2.0 * spread), _LEAST, _MOST)
    follows = (1.0 - _NEWEST) * now + _NEWEST * wanted
    return {_TEMPERATURE: jnp.where(jnp.isfinite(wanted), follows, now)}

  def _terms(
    self, batch: objective_lib.Batch, places: legal_tokens.Places
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns temperature, factor of the loss, and what counts."""
    if _TEMPERATURE in batch:
      temperature = batch[_TEMPERATURE]
    else:
      temperature = jnp.float32(self.temperature)
    return temperature, temperature, places.known & places.several

  def _statistics(
    self,
    hidden: jax.Array,
    head: jax.Array,
    labels: jax.Array,
    places: legal_tokens.Places,
    trie: constraints.Trie,
  ) -> dict[str, jax.Array]:
    node = self.parting[0]
    here = places.known & (places.nodes == node)
    hidden, head = jax.lax.stop_gradient((hidden, head))
    found = _sums(hidden, head, labels, here, trie, node)
    return dict(zip(_STATISTICS, found, strict=True))


def _sums(
  hidden: jax.Array,
  head: jax.Array,
  labels: jax.Array,
  here: jax.Array,
  trie: constraints.Trie,
  node: int,
) -> tuple[jax.Array, ...]:
  """Returns sums over the answers that pass a node, float32 scalars.

  Args:
    hidden: [R, T, D] final states.
    head: [D, V].
    labels: int32 [R, T].
    here: bool [R, T], where the token behind the node is chosen.
    trie: of the titles.
    node: of the trie.

  Returns:
    Number of answers, sum of their labels' logits, number of legal logits,
    their sum and that of their squares.
  """
  slots = jnp.arange(trie.max_children, dtype=jnp.int32)
  slots += trie.first_child[node]
  exists = slots < trie.first_child[node + 1]  # [M]
  tokens = trie.tokens[jnp.minimum(slots, trie.nowhere)]
  columns = head[:, jnp.where(exists, tokens, 0)].astype(hidden.dtype)  # [D, M]
  order = jnp.argsort(~here, axis=1, stable=True)
  width = -(-here.shape[1] // _STARTS) * _STARTS
  order = jnp.pad(order, ((0, 0), (0, width - here.shape[1])))
  count = jnp.sum(here, axis=1, dtype=jnp.int32)[:, None]  # [R, 1]

  def look(turn, sums):
    place = turn * _STARTS + jnp.arange(_STARTS, dtype=jnp.int32)[None]
    at = jax.lax.dynamic_slice_in_dim(order, turn * _STARTS, _STARTS, axis=1)
    states = jnp.take_along_axis(hidden, at[:, :, None], axis=1)  # [R, S, D]
    label = jnp.take_along_axis(labels, at, axis=1)  # [R, S]
    logits = jnp.einsum(
      "rsd,dm->rsm", states, columns, preferred_element_type=jnp.float32
    )
    is_one = (place < count)[:, :, None]
    counts = is_one & exists[None, None]
    is_label = counts & (tokens[None, None] == label[:, :, None])
    legal = jnp.where(counts, logits, 0.0)
    return tuple(
      total + jnp.sum(part, dtype=jnp.float32)
      for total, part in zip(
        sums,
        (
          is_one,
          jnp.where(is_label, logits, 0.0),
          counts,
          legal,
          legal * legal,
        ),
        strict=True,
      )
    )

  turns = (jnp.max(count) + _STARTS - 1) // _STARTS
  zeros = (jnp.zeros((), jnp.float32),) * len(_STATISTICS)
  return jax.lax.fori_loop(0, turns, look, zeros)
