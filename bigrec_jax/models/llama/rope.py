"""Rotary positions: the angles of each, and how long texts stretch them.

Formulas are those of transformers' modeling_rope_utils.py; what config.json
says of them is read in rope_config.py.

Axes: B batch, T length, H head size.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bigrec_jax import errors


@dataclasses.dataclass(frozen=True)
class RopeScaling:
  """How rotary frequencies are stretched beyond the trained context.

  Attributes:
    rope_type: `linear` (all frequencies over `factor`), `llama3` (low ones
      only, with a smooth passage), `yarn` (likewise, and attention is scaled),
      or, depending on the length of the text, `dynamic` (another base beyond
      the model's positions) and `longrope` (a factor for each frequency).
    factor: the stretch; 0 = it follows from the two contexts.
    low_freq_factor: `llama3`: wavelengths above the original context over
      this are stretched in full.
    high_freq_factor: `llama3`: wavelengths below the original context over
      this are left alone.
    original_max_position_embeddings: the trained context.
    attention_factor: scales cosine and sine; None = follows from the factor.
    beta_fast: `yarn`: turns in the trained context above which a frequency is
      left alone.
    beta_slow: `yarn`: turns below which it is stretched in full.
    mscale: `yarn`: with `mscale_all_dim`, another attention factor.
    mscale_all_dim: `yarn`.
    truncate: `yarn`: whether the passage begins and ends at whole numbers.
    short_factor: `longrope`: divisors of the frequencies, [H/2].
    long_factor: `longrope`: those of texts beyond the trained context.
  """

  rope_type: str
  factor: float = 0.0
  low_freq_factor: float = 0.0
  high_freq_factor: float = 0.0
  original_max_position_embeddings: int = 0
  attention_factor: float | None = None
  beta_fast: float = 32.0
  beta_slow: float = 1.0
  mscale: float = 0.0
  mscale_all_dim: float = 0.0
  truncate: bool = True
  short_factor: tuple[float, ...] = ()
  long_factor: tuple[float, ...] = ()


def frequencies(
  head_dim: int,
  theta: float,
  scaling: RopeScaling | None,
  max_positions: int,
) -> np.ndarray:
  """Returns the angle per position of each pair, [H/2] float32.

  Of texts within the trained context, where it depends on the length.

  Args:
    head_dim: H.
    theta: base of the frequencies.
    scaling: of them, or None.
    max_positions: `max_position_embeddings`.
  """
  plain = np.float32(1) / _turns(head_dim, theta)
  if scaling is None or scaling.rope_type == "dynamic":
    return plain
  if scaling.rope_type == "longrope":
    divisors = np.array(scaling.short_factor, np.float32)
    return np.float32(1) / (divisors * _turns(head_dim, theta))
  if scaling.rope_type == "yarn":
    return _yarn(head_dim, theta, scaling, max_positions)
  stretched = plain / np.float32(scaling.factor)
  if scaling.rope_type == "linear":
    return stretched
  # As in Meta's Llama 3.1 release: wavelengths beyond the trained context are
  # stretched, short ones left alone, and between the two it fades in.
  wavelength = 2 * np.pi / plain
  turns = scaling.original_max_position_embeddings / wavelength
  low, high = scaling.low_freq_factor, scaling.high_freq_factor
  keep = np.clip((turns - low) / (high - low), 0, 1)
  return ((1 - keep) * stretched + keep * plain).astype(np.float32)


def _turns(head_dim: int, theta: float) -> np.ndarray:
  exponent = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
  return np.float32(theta) ** exponent  # [H/2]


def _yarn(
  head_dim: int, theta: float, scaling: RopeScaling, max_positions: int
) -> np.ndarray:
  """Frequencies of Peng et al. 2023, [H/2] float32.

  Those that turn more than `beta_fast` times in the trained context stay,
  those that turn less than `beta_slow` times are stretched, and in between
  the stretch grows linearly with the number of the pair.
  """

  def pair_of(rotations: float) -> float:
    ratio = scaling.original_max_position_embeddings / (rotations * 2 * math.pi)
    return head_dim * math.log(ratio) / (2 * math.log(theta))

  low, high = pair_of(scaling.beta_fast), pair_of(scaling.beta_slow)
  if scaling.truncate:
    low, high = math.floor(low), math.ceil(high)
  low, high = max(low, 0), min(high, head_dim - 1)
  if low == high:
    high += 0.001
  pairs = np.arange(head_dim // 2, dtype=np.float32)
  ramp = (pairs - np.float32(low)) / np.float32(high - low)
  ramp = np.clip(ramp, np.float32(0), np.float32(1))
  turns = _turns(head_dim, theta)
  factor = np.float32(_factor(scaling, max_positions))
  return 1 / (factor * turns) * ramp + 1 / turns * (1 - ramp)


def _factor(scaling: RopeScaling, max_positions: int) -> float:
  context = scaling.original_max_position_embeddings
  return scaling.factor or max_positions / context


def attention_scale(scaling: RopeScaling | None, max_positions: int) -> float:
  """Returns what cosine and sine are multiplied by; 1 but for two types."""
  if scaling is None or scaling.rope_type not in ("yarn", "longrope"):
    return 1.0
  if scaling.attention_factor is not None:
    return scaling.attention_factor
  factor = _factor(scaling, max_positions)
  if factor <= 1:
    return 1.0
  if scaling.rope_type == "longrope":
    context = scaling.original_max_position_embeddings
    return math.sqrt(1 + math.log(factor) / math.log(context))

  def grown(by: float) -> float:
    return 0.1 * by * math.log(factor) + 1.0

  if scaling.mscale and scaling.mscale_all_dim:
    return grown(scaling.mscale) / grown(scaling.mscale_all_dim)
  return grown(1.0)


def depends_on_length(scaling: RopeScaling | None) -> bool:
  """Whether a token's angles depend on how long its text is."""
  return scaling is not None and scaling.rope_type in ("dynamic", "longrope")


def check_shared(
  length: int, scaling: RopeScaling | None, max_positions: int
) -> None:
  """Raises UserError where keys that texts share would depend on the text.

  Args:
    length: tokens that a text with the shared beginning may have.
    scaling: of the frequencies.
    max_positions: `max_position_embeddings`.
  """
  if scaling is None or not depends_on_length(scaling):
    return
  limit = _limit(scaling, max_positions)
  if length > limit:
    raise errors.UserError(
      f"config.json: rope_type {scaling.rope_type!r} found, and texts of up to"
      f" {length} tokens that share their beginning: at most {limit} tokens"
      " expected, since beyond them its angles depend on the text's length"
      " (use shorter prompts, or another rope_type)"
    )


def _limit(scaling: RopeScaling, max_positions: int) -> int:
  """Returns the length up to which the angles are those of short texts."""
  if scaling.rope_type == "longrope":
    return scaling.original_max_position_embeddings
  return max_positions


def tables(
  positions: jax.Array,
  lengths: jax.Array | None,
  head_dim: int,
  theta: float,
  scaling: RopeScaling | None,
  max_positions: int,
) -> tuple[jax.Array, jax.Array]:
  """Returns cosine and sine of the angles, [B, T, H/2] float32.

  Float32 because bfloat16 cannot tell position 257 from 258.

  Args:
    positions: [B, T] int32.
    lengths: [B, T] int32, tokens of the text that each token is of; read
      where `depends_on_length`. transformers takes the longest text of the
      batch, so this is what it computes for each text alone.
    head_dim: H.
    theta: base of the frequencies.
    scaling: of them, or None.
    max_positions: `max_position_embeddings`.
  """
  own = frequencies(head_dim, theta, scaling, max_positions)
  rates: Any = np.reshape(own, (1,) * positions.ndim + (-1,))
  if scaling is not None and depends_on_length(scaling):
    if lengths is None:
      raise ValueError(f"{scaling.rope_type} without lengths")
    stretch = _dynamic if scaling.rope_type == "dynamic" else _long
    grown = stretch(lengths, head_dim, theta, scaling, max_positions)
    limit = np.int32(_limit(scaling, max_positions))
    rates = jnp.where(lengths[..., None] > limit, grown, rates)
  angles = positions.astype(jnp.float32)[..., None] * rates
  scale = np.float32(attention_scale(scaling, max_positions))
  if scale == 1:
    return jnp.cos(angles), jnp.sin(angles)
  return jnp.cos(angles) * scale, jnp.sin(angles) * scale


def _dynamic(
  lengths: jax.Array,
  head_dim: int,
  theta: float,
  scaling: RopeScaling,
  max_positions: int,
) -> jax.Array:
  """Returns the frequencies [B, T, H/2] of long texts."""
  factor = np.float32(scaling.factor)
  share = lengths.astype(jnp.float32) / np.float32(max_positions)
  growth = jnp.maximum(factor * share - (factor - 1), np.float32(1))
  base = np.float32(theta) * growth ** np.float32(head_dim / (head_dim - 2))
  exponent = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
  exponent = np.reshape(exponent, (1,) * lengths.ndim + (-1,))
  return np.float32(1) / base[..., None] ** exponent


def _long(
  lengths: jax.Array,
  head_dim: int,
  theta: float,
  scaling: RopeScaling,
  max_positions: int,
) -> np.ndarray:
  """Returns those that all long texts have, [1, 1, H/2]."""
  long = dataclasses.replace(scaling, short_factor=scaling.long_factor)
  own = frequencies(head_dim, theta, long, max_positions)
  return np.reshape(own, (1,) * lengths.ndim + (-1,))


def text_lengths(positions: jax.Array, segment_ids: jax.Array) -> jax.Array:
  """Returns the length of the text that each token is of, [B, T] int32.

  Args:
    positions: [B, T] int32.
    segment_ids: [B, T] int32.
  """
  same = segment_ids[:, :, None] == segment_ids[:, None, :]  # [B, T, T]
  last = jnp.where(same, positions[:, None, :], np.int32(0))
  return jnp.max(last, axis=-1) + np.int32(1)
