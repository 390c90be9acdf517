"""Losses of next-item prediction and the DRO term.

Letters: N predictions, D width, I items, K negatives. Those with negatives
return the loss of each prediction, [N]; those over the whole catalogue take
what each prediction weighs and return the sum (why: `log_sums`).
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bigrec_jax.cf import log_sums
from bigrec_jax.cf.networks import Head
from bigrec_jax.devices import noise as noise_lib

# Draws before a negative that is no negative is let through: with a history
# of h items the chance is (h / I) ** 4.
_TRIES = 4
# Exponent of the propensity in the DROS repository.
_PROPENSITY_POWER = 0.05


@dataclasses.dataclass(frozen=True)
class LossSpec:
  """What is minimised; hashable.

  Attributes:
    name: bce | bpr | sampled_softmax | softmax.
    num_negatives: K, of the first three.
    dro: whether the DRO term is added.
    dro_beta: its temperature.
  """

  name: str
  num_negatives: int
  dro: bool
  dro_beta: float


class Proposal(NamedTuple):
  """What negatives are drawn from, as an alias table (Walker 1977).

  Attributes:
    accept: [I] float32, chance that place i gives item i.
    alias: [I] int32, the item that it gives otherwise.
    log_probability: [I] float32.
  """

  accept: np.ndarray
  alias: np.ndarray
  log_probability: np.ndarray


def make_proposal(counts: np.ndarray, power: float) -> Proposal:
  """Returns the proposal q_i ~ (c_i + 1) ** power; 0 = uniform.

  Args:
    counts: [I], how often each item is a target in train.
    power: e.g. 0.75.
  """
  weight = (counts.astype(np.float64) + 1.0) ** power
  probability = weight / weight.sum()
  scaled = probability * len(counts)
  accept, alias = np.ones(len(counts)), np.arange(len(counts), dtype=np.int32)
  small = [int(i) for i in np.flatnonzero(scaled < 1.0)]
  large = [int(i) for i in np.flatnonzero(scaled >= 1.0)]
  while small and large:
    poor, rich = small.pop(), large[-1]
    accept[poor], alias[poor] = scaled[poor], rich
    scaled[rich] -= 1.0 - scaled[poor]
    if scaled[rich] < 1.0:
      small.append(large.pop())
  log_probability = np.log(probability).astype(np.float32)
  return Proposal(accept.astype(np.float32), alias, log_probability)


class Predictions(NamedTuple):
  """What a step predicts.

  Attributes:
    states: [N, D].
    targets: [N] int32.
    forbidden: [N, F] int32 items that are no negatives of a prediction; -1 =
      nothing.
    weights: [N] float32, 1 / number of predictions, and 0 for padding.
  """

  states: jax.Array
  targets: jax.Array
  forbidden: jax.Array
  weights: jax.Array


def bce(positive: jax.Array, negative: jax.Array) -> jax.Array:
  """Returns binary cross-entropy with K negatives, [N].

  (-log s(y+) - mean_k log s(-y_k)) / 2: with K = 1 the DROS repository's mean
  over 2N; S3-Rec's is twice that, which Adam doesn't see.

  Args:
    positive: [N].
    negative: [N, K].
  """
  return 0.5 * (
    jax.nn.softplus(-positive) + jax.nn.softplus(negative).mean(axis=-1)
  )


def bpr(positive: jax.Array, negative: jax.Array) -> jax.Array:
  """Returns -mean_k log s(y+ - y_k) (Rendle et al. 2009), [N]."""
  return jax.nn.softplus(negative - positive[:, None]).mean(axis=-1)


def sampled_softmax(
  positive: jax.Array,
  negative: jax.Array,
  log_proposal: jax.Array,
  hit: jax.Array,
) -> jax.Array:
  """Returns cross-entropy over the target and K drawn items, [N].

  log(exp y+ + 1/K sum_k exp(y_k) / q_k) - y+, where draws that hit the target
  count nothing. The logQ correction 1/(K q_k) makes the sum an unbiased
  estimate of the full softmax's denominator; the target itself is always in
  it, so it takes no correction.

  Args:
    positive: [N].
    negative: [N, K].
    log_proposal: [N, K] or [1, K]: log q_k of each draw.
    hit: [N, K] bool: the draw is the target.
  """
  count = jnp.log(jnp.asarray(negative.shape[-1], jnp.float32))
  corrected = jnp.where(hit, -jnp.inf, negative - log_proposal - count)
  total = jnp.concatenate([positive[:, None], corrected], axis=-1)
  return jax.nn.logsumexp(total, axis=-1) - positive


def draw(
  noise: jax.Array, proposal: Proposal, forbidden: jax.Array, count: int
) -> jax.Array:
  """Draws `count` negatives for each prediction.

  Args:
    noise: seed of this step.
    proposal: what is drawn from.
    forbidden: [N, F] int32, never drawn (as far as four tries go).
    count: K.

  Returns:
    [N, K] int32.
  """
  tries = _sample(noise, proposal, (_TRIES, forbidden.shape[0], count))
  chosen = tries[-1]
  for candidate in tries[-2::-1]:
    bad = (candidate[:, :, None] == forbidden[:, None, :]).any(axis=-1)
    chosen = jnp.where(bad, chosen, candidate)
  return chosen


def _sample(
  noise: jax.Array, proposal: Proposal, shape: tuple[int, ...]
) -> jax.Array:
  """Returns items drawn by the alias method, int32 [shape]."""
  num_items = proposal.accept.shape[0]
  place = noise_lib.integers(noise_lib.fold(noise, 1), shape, num_items)
  draw = noise_lib.uniform(noise_lib.fold(noise, 2), shape)
  keep = draw < proposal.accept[place]
  return jnp.where(keep, place, proposal.alias[place])


def _at(head: Head, states: jax.Array, items: jax.Array) -> jax.Array:
  """Returns the scores of chosen items: [N, D] with [N, K] -> [N, K]."""
  return jnp.einsum("nd,nkd->nk", states, head.kernel[items]) + head.bias[items]


def _score(
  score: jax.Array, own: jax.Array, coefficients: jax.Array | None
) -> jax.Array:
  """Returns the exponent of cross-entropy: see `log_sums.Exponent`."""
  del own, coefficients
  return score


def softmax(
  head: Head,
  states: jax.Array,
  targets: jax.Array,
  weights: jax.Array,
  num_items: int,
  mesh: Mesh,
) -> jax.Array:
  """Returns the weighted sum of full cross-entropy over the catalogue.

  Args:
    head: scores the items.
    states: [N, D].
    targets: [N] int32.
    weights: [N] float32.
    num_items: I; rows of the head from there on are no items.
    mesh: where it runs.
  """
  total = log_sums.log_sum(
    _score, num_items, mesh, head, states, targets, weights, None
  )
  return total - (weights * _at(head, states, targets[:, None])[:, 0]).sum()


def propensity(counts: np.ndarray) -> jax.Array:
  """Returns ps_i = ((c_i + 1) / sum_j (c_j + 1)) ** 0.05, [I]."""
  seen = jnp.asarray(counts).astype(jnp.float32) + 1.0
  return (seen / seen.sum()) ** _PROPENSITY_POWER


def _squared_error(
  score: jax.Array, own: jax.Array, coefficients: jax.Array
) -> jax.Array:
  """Returns the exponent of the DRO term: see `log_sums.Exponent`."""
  return coefficients[None, None] * (score - own.astype(score.dtype)) ** 2


def dro(
  head: Head,
  states: jax.Array,
  targets: jax.Array,
  weights: jax.Array,
  propensities: jax.Array,
  beta: float,
  mesh: Mesh,
) -> jax.Array:
  """Returns the weighted sum of the DROS term.

  Of each prediction (Yang et al. 2023, the repository's form)

    log( sum_i exp(ps_i y_i^2 / beta) - exp(ps_t y_t^2 / beta)
         + exp(ps_t (y_t - 1)^2 / beta) )

  taken as one log-sum-exp in which the target's own exponent differs: large
  scores neither overflow nor cancel.

  Args:
    head: scores the items.
    states: [N, D].
    targets: [N] int32.
    weights: [N] float32.
    propensities: [I] float32, ps: `propensity`.
    beta: temperature.
    mesh: where it runs.
  """
  num_items = propensities.shape[0]
  padding = head.kernel.shape[0] - num_items
  coefficients = jnp.pad(propensities / beta, (0, padding))
  return log_sums.log_sum(
    _squared_error,
    num_items,
    mesh,
    head,
    states,
    targets,
    weights,
    coefficients,
  )


def loss(
  spec: LossSpec,
  head: Head,
  made: Predictions,
  proposal: Proposal,
  propensities: jax.Array,
  dro_alpha: jax.Array,
  noise: jax.Array,
  mesh: Mesh,
) -> jax.Array:
  """Returns the weighted sum of the losses of a step, scalar float32.

  Args:
    spec: what is minimised.
    head: scores the items.
    made: what is predicted.
    proposal: what negatives are drawn from.
    propensities: [I] float32, see `dro`.
    dro_alpha: scalar, weight of the DRO term.
    noise: seed of this step's negatives.
    mesh: where it runs.
  """
  num_items = propensities.shape[0]
  states, targets, weights = made.states, made.targets, made.weights
  if spec.name == "softmax":
    total = softmax(head, states, targets, weights, num_items, mesh)
  elif spec.name == "sampled_softmax":
    total = (weights * _sampled(spec, head, made, proposal, noise)).sum()
  else:
    drawn = draw(noise, proposal, made.forbidden, spec.num_negatives)
    scores = _at(
      head, states, jnp.concatenate([targets[:, None], drawn], axis=1)
    )
    pair = {"bce": bce, "bpr": bpr}[spec.name]
    total = (weights * pair(scores[:, 0], scores[:, 1:])).sum()
  if spec.dro:
    total += dro_alpha * dro(
      head, states, targets, weights, propensities, spec.dro_beta, mesh
    )
  return total


def _sampled(
  spec: LossSpec,
  head: Head,
  made: Predictions,
  proposal: Proposal,
  noise: jax.Array,
) -> jax.Array:
  """Sampled softmax with one set of K draws for the whole step."""
  drawn = _sample(noise, proposal, (spec.num_negatives,))
  log_proposal = proposal.log_probability[drawn]
  negative = made.states @ head.kernel[drawn].T + head.bias[drawn][None]
  positive = _at(head, made.states, made.targets[:, None])[:, 0]
  hit = drawn[None, :] == made.targets[:, None]
  return sampled_softmax(positive, negative, log_proposal[None], hit)
