"""Popularity and CF injection: favoured items come nearer.

  fused = (1 + w)^-gamma * dn,   dn = (d - min d) / (max d - min d)

with w the min-max of the train popularity (BIGRec Eq. 2 and 3,
data/movie/adjust_pda.py) or of each row of CF scores (Eq. 4,
data/*/adjust_ci.py); both together are ((1 + w_pop)(1 + w_cf))^-gamma, or, with
a gamma for each, (1 + w_pop)^-gamma_pop (1 + w_cf)^-gamma_cf. Ranks only need
the order, and dividing all distances of a row by max - min changes no order:
that division is left out.

The host holds weights in float64 for exact decisions; the device compares
logarithms relative to a target, which keep their precision near a tie.

Letters: B users of a block, n of them real, I items, C items of a shard.
"""

import dataclasses
from collections.abc import Container, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from bigrec_jax import errors
from bigrec_jax.rankers import counting
from bigrec_jax.rankers.distance import distance, streamed

# Roundings that log1p, a difference and a product may cost, with room for
# hardware whose logarithm is a few units off.
_ROUNDINGS = 16
G = TypeVar("G")
R = TypeVar("R")
_Factor = np.ndarray | np.float64


class Gammas(NamedTuple):
  """How strongly each part is injected; of a part that isn't, any number.

  Attributes:
    popularity: real, or an array that broadcasts.
    cf: likewise.
  """

  popularity: np.ndarray | float
  cf: np.ndarray | float

  @classmethod
  def of(cls, gamma: float | np.ndarray | Mapping[str, float]) -> "Gammas":
    """Returns one gamma for both parts, or each part's own by its name."""
    if isinstance(gamma, Mapping):
      return cls(*(float(gamma.get(part, 0.0)) for part in cls._fields))
    return cls(gamma, gamma)

  def at(self, places: np.ndarray) -> "Gammas":
    """Returns those at some places; one gamma for both stays one."""
    popularity = np.asarray(self.popularity)[places]
    same = self.popularity is self.cf
    return Gammas(
      popularity, popularity if same else np.asarray(self.cf)[places]
    )


class Gain(NamedTuple):
  """What is needed of each item; None where that injection isn't asked.

  Attributes:
    popularity: log(1 + w) [I'] as a float32 pair whose sum is the float64.
    cf: scores [B, I'] float32.
  """

  popularity: tuple[jax.Array, jax.Array] | None
  cf: jax.Array | None


def shards(gain: Gain, mesh: Mesh) -> Any:
  """Returns how each array lies on the mesh: a `Gain` of PartitionSpecs."""
  rows = PartitionSpec(mesh.axis_names)
  popularity: Any = None if gain.popularity is None else (rows, rows)
  cf: Any = None
  if gain.cf is not None:
    cf = PartitionSpec(None, mesh.axis_names)
  return Gain(popularity, cf)


class Reference(NamedTuple):
  """What is needed of each user's target; parts as in `Gain`.

  Attributes:
    popularity: its pair [B].
    cf: its score and 1 / ((max - min)(1 + w)), both [B].
  """

  popularity: tuple[jax.Array, jax.Array] | None
  cf: tuple[jax.Array, jax.Array] | None


def _pair(gain: G | None, reference: R | None) -> tuple[G, R] | None:
  """Returns a part of items and of users; None where it isn't injected."""
  if gain is None:
    return None
  if reference is None:
    raise ValueError("a part is known of the items alone")
  return gain, reference


def log_gain(gain: Gain, reference: Reference) -> tuple[jax.Array, jax.Array]:
  """Returns log((1 + w_i) / (1 + w_target)) [B, C] and its error bound."""
  total, size = popularity_gain(gain, reference)
  part, part_size = cf_gain(gain, reference)
  return total + part, size + part_size


def popularity_gain(
  gain: Gain, reference: Reference
) -> tuple[jax.Array, jax.Array]:
  """Returns popularity's part of `log_gain` and its error bound."""
  pair = _pair(gain.popularity, reference.popularity)
  if pair is None:
    nothing = jnp.zeros((1, 1), jnp.float32)
    return nothing, nothing
  (high, low), (own_high, own_low) = pair
  part = (high[None] - own_high[:, None]) + (low[None] - own_low[:, None])
  return part, jnp.float32(_ROUNDINGS * distance.UNIT) * jnp.abs(part)


def cf_gain(gain: Gain, reference: Reference) -> tuple[jax.Array, jax.Array]:
  """Returns CF's part of `log_gain` and its error bound."""
  pair = _pair(gain.cf, reference.cf)
  if pair is None:
    nothing = jnp.zeros((1, 1), jnp.float32)
    return nothing, nothing
  scores, (score, scale) = pair
  # 1 + this is (1 + w_i) / (1 + w_target), which is at least 1/2.
  ratio = (scores - score[:, None]) * scale[:, None]
  part = jnp.log1p(jnp.maximum(ratio, jnp.float32(-0.75)))
  return part, jnp.float32(_ROUNDINGS * distance.UNIT) * jnp.abs(part)


def log_weight(
  gain: Gain, cf_range: tuple[jax.Array, jax.Array] | None, gammas: Gammas
) -> tuple[jax.Array, jax.Array]:
  """Returns log((1 + w_pop)^gamma_pop (1 + w_cf)^gamma_cf) [B, C], a scale.

  Args:
    gain: of the items.
    cf_range: each row's least CF score and its span, [B] float32.
    gammas: float32 scalars of at least 0.

  Returns:
    (logarithm, what a few units of rounding are to be multiplied by).
  """
  total = size = jnp.zeros((1, 1), jnp.float32)
  if gain.popularity is not None:
    part = gammas.popularity * gain.popularity[0][None]
    total, size = total + part, size + gammas.popularity + part
  if cf := _pair(gain.cf, cf_range):
    scores, (low, span) = cf
    # Padding rows of the block have no span.
    span = jnp.where(span > 0, span, jnp.float32(1))
    weight = (scores - low[:, None]) / span[:, None]
    part = gammas.cf * jnp.log1p(jnp.clip(weight, 0.0, 1.0))
    total, size = total + part, size + gammas.cf + part
  return total, size


def no_less(gain: Gain, reference: Reference) -> jax.Array:
  """Returns which [B, C] items surely have no less weight than the target."""
  result = jnp.ones((1, 1), bool)
  if popularity := _pair(gain.popularity, reference.popularity):
    (high, low), (own_high, own_low) = popularity
    high, own_high = high[None], own_high[:, None]
    tied = (high == own_high) & (low[None] >= own_low[:, None])
    result = result & ((high > own_high) | tied)
  if cf := _pair(gain.cf, reference.cf):
    scores, (score, _) = cf
    result = result & (scores >= score[:, None])
  return result


class Popularity:
  """Min-max weights of the train popularity, on the host and the devices."""

  def __init__(
    self, counts: np.ndarray, table: distance.ItemTable | streamed.Streamed
  ):
    """Computes the weights.

    Args:
      counts: [I] interactions of each item.
      table: the catalogue.

    Raises:
      UserError: a count is negative, NaN or infinite, or all are equal.
    """
    counts = np.asarray(counts, np.float64)
    if not np.isfinite(counts).all() or counts.min() < 0:
      row = int(np.flatnonzero(~np.isfinite(counts) | (counts < 0))[0])
      raise errors.UserError(
        f"popularity: item {row} has {counts[row]}, a finite count of at least"
        " 0 expected"
      )
    span = counts.max() - counts.min()
    if span == 0:
      raise errors.UserError(
        f"popularity: all {len(counts)} items have {counts[0]:g}, at least two"
        " different counts expected; leave popularity out of"
        " config.ground.injections"
      )
    self.weight = (counts - counts.min()) / span  # [I] float64
    logs = np.log1p(self.weight)
    high = logs.astype(np.float32)
    self.pair = high, (logs - high).astype(np.float32)
    self.device_pair = counting.put_items(self.pair, table.layout, table.mesh)


@dataclasses.dataclass(frozen=True, eq=False)
class CfBlock:
  """CF scores of one block of users.

  Attributes:
    scores: [n, I] float32.
    low: [n] float64, each row's least score.
    span: [n] float64, its greatest less its least; 1 where they are equal.
    device: [B, I'] float32, sharded over the item axis.
  """

  scores: np.ndarray
  low: np.ndarray
  span: np.ndarray
  device: jax.Array


def score_range(
  scores: np.ndarray, first_row: int, name: str
) -> tuple[np.ndarray, np.ndarray]:
  """Returns each row's least and greatest score, [n] float32.

  Args:
    scores: [n, I] float32.
    first_row: of the block within its file, for messages.
    name: the file, for messages.

  Raises:
    UserError: a row holds NaN or infinity.
  """
  low, high = scores.min(axis=1), scores.max(axis=1)  # NaN comes through.
  bad = np.flatnonzero(~(np.isfinite(low) & np.isfinite(high)))
  if bad.size:
    raise errors.UserError(
      f"{name}: row {first_row + bad[0]} holds NaN or infinity, finite scores"
      " expected"
    )
  return low, high


def cf_block(
  scores: np.ndarray,
  first_row: int,
  name: str,
  rows: int,
  table: distance.ItemTable | streamed.Streamed,
) -> CfBlock:
  """Checks CF scores of a block of users and puts them on the mesh.

  A row of one value says nothing of its user, so it favours no item (w = 0).

  Args:
    scores: [n, I] float32.
    first_row: of the block within its file, for messages.
    name: the file, for messages.
    rows: B >= n, what shapes are padded to.
    table: the catalogue.

  Raises:
    UserError: a row holds NaN or infinity.
  """
  low, high = score_range(scores, first_row, name)
  span = high.astype(np.float64) - low
  span[span == 0] = 1.0
  device = counting.put_columns(scores, rows, table.layout, table.mesh)
  return CfBlock(scores, low.astype(np.float64), span, device)


@dataclasses.dataclass(frozen=True, eq=False)
class Injection:
  """The weights of one block of users under one injection.

  Attributes:
    popularity: None where it isn't injected.
    cf: None where it isn't injected.
  """

  popularity: Popularity | None
  cf: CfBlock | None

  def only(self, parts: Container[str]) -> "Injection":
    """Returns the weights of some of the parts: popularity, cf."""
    return Injection(
      self.popularity if "popularity" in parts else None,
      self.cf if "cf" in parts else None,
    )

  @property
  def gain(self) -> Gain:
    """The device side."""
    return Gain(
      None if self.popularity is None else self.popularity.device_pair,
      None if self.cf is None else self.cf.device,
    )

  def factor(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Returns (1 + w_pop)(1 + w_cf) in float64; shapes broadcast.

    Args:
      users: rows of the block.
      items: catalogue rows.
    """
    popularity, cf = self._factors(users, items)
    shape = np.broadcast_shapes(users.shape, items.shape)
    return np.broadcast_to(popularity * cf, shape)

  def _factors(
    self, users: np.ndarray, items: np.ndarray
  ) -> tuple[_Factor, _Factor]:
    """Returns (1 + w_pop, 1 + w_cf) in float64; 1 where not injected."""
    popularity: _Factor = np.float64(1.0)
    cf: _Factor = np.float64(1.0)
    if self.popularity is not None:
      popularity = 1.0 + self.popularity.weight[items]
    if self.cf is not None:
      score = self.cf.scores[users, items].astype(np.float64)
      cf = 1.0 + (score - self.cf.low[users]) / self.cf.span[users]
    return popularity, cf

  def shrinkage(
    self, users: np.ndarray, items: np.ndarray, gammas: Gammas
  ) -> np.ndarray:
    """Returns (1 + w_pop)^-gamma_pop (1 + w_cf)^-gamma_cf in float64.

    Where both are one gamma it is `factor` to the power of -gamma, bit for
    bit what the published scripts compute.

    Args:
      users: rows of the block; shapes broadcast, those of gammas too.
      items: catalogue rows.
      gammas: any reals.
    """
    popularity, cf = self._factors(users, items)
    if gammas.popularity is gammas.cf:
      return (popularity * cf) ** -gammas.cf
    return np.where(
      np.equal(gammas.popularity, gammas.cf),
      (popularity * cf) ** -gammas.cf,
      popularity**-gammas.popularity * cf**-gammas.cf,
    )

  def log_weight(
    self, users: np.ndarray, items: np.ndarray, gammas: Gammas
  ) -> np.ndarray:
    """Returns -log of `shrinkage`; where even float64 ends, it goes on."""
    popularity, cf = self._factors(users, items)
    return np.where(
      np.equal(gammas.popularity, gammas.cf),
      gammas.cf * np.log(popularity * cf),
      gammas.popularity * np.log(popularity) + gammas.cf * np.log(cf),
    )

  def reference(self, users: np.ndarray, items: np.ndarray) -> Reference:
    """Returns the device's view of one target per user.

    Args:
      users: [B] rows of the block.
      items: [B] catalogue rows.
    """
    popularity = cf = None
    if self.popularity is not None:
      high, low = self.popularity.pair
      popularity = high[items], low[items]
    if self.cf is not None:
      score = self.cf.scores[users, items]
      low, span = self.cf.low[users], self.cf.span[users]
      scale = 1.0 / (span + score.astype(np.float64) - low)
      cf = score, scale.astype(np.float32)
    return Reference(popularity, cf)
