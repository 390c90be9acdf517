"""Attention: causal within segments, and over cached parts.

Axes: B batch, T queries, S keys, N query heads, K key heads, G = N / K query
heads per key head, H head size, Q any flattening of queries.

Scores, masks and softmax are float32: in bfloat16 the sum of a few hundred
exponentials loses the small ones.
"""

import functools
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from bigrec_jax.devices import sharding

# Finite, so that a row without any visible key stays free of NaN.
MASKED = np.float32(-1e30)
# Tokens; the kernel works on whole blocks, and faster on large ones.
_SPLASH_BLOCK, _LARGE_SPLASH = 128, 512
# Plain attention: queries at a time, and how many blocks are unrolled at most.
_QUERY_BLOCK, _MOST_BLOCKS = 128, 8


def choose(wanted: str, platform: str, dtype: jnp.dtype, head_dim: int) -> str:
  """Returns the attention implementation for a device kind.

  Args:
    wanted: `config.model.attention`; `auto` chooses.
    platform: of the devices: cpu, gpu or tpu.
    dtype: of the activations.
    head_dim: H.

  Returns:
    `xla`, `cudnn` (GPU flash attention; 16-bit only, head size up to 128 in
    steps of 8) or `splash` (TPU flash attention).
  """
  if wanted != "auto":
    return wanted
  sixteen_bit = jnp.dtype(dtype).itemsize == 2
  if platform in ("gpu", "cuda", "rocm") and sixteen_bit:
    if head_dim % 8 == 0 and head_dim <= 128:
      return "cudnn"
  if platform == "tpu" and head_dim % 64 == 0:
    return "splash"
  return "xla"


def block_of(length: int, implementation: str) -> int:
  """Returns how many queries `xla` or `splash` takes at a time.

  A block is multiplied with all keys up to its end, so this is also what says
  how much of the causal half is computed for nothing.

  Args:
    length: T.
    implementation: `xla`, or `splash` where its kernel runs.
  """
  if implementation == "splash" and length % _SPLASH_BLOCK == 0:
    return _LARGE_SPLASH if length % _LARGE_SPLASH == 0 else _SPLASH_BLOCK
  return max(_QUERY_BLOCK, -(-length // _MOST_BLOCKS))


def self_attention(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  segment_ids: jax.Array,
  implementation: str,
  mesh: Mesh | None = None,
  prefix: tuple[jax.Array, jax.Array] | None = None,
) -> jax.Array:
  """Attends causally within equal segment ids, and to all of a prefix.

  Padding (segment 0) sees only padding before it, so every row has a visible
  key and every result is finite.

  Args:
    q: [B, T, N, H].
    k: [B, T, K, H].
    v: [B, T, K, H].
    segment_ids: [B, T] int32.
    implementation: `xla`, `cudnn` or `splash`.
    mesh: where splash runs; None = one device.
    prefix: keys [K, H, P] and values [K, P, H] that all rows share. The flash
      kernels know no prefix: with one, `xla` is what runs.

  Returns:
    [B, T, N, H].
  """
  if prefix is not None:
    return _blocks(q, k, v, segment_ids, prefix)
  if implementation == "splash" and q.shape[1] % _SPLASH_BLOCK == 0:
    return _splash(q, k, v, segment_ids, mesh)
  same = segment_ids[:, :, None] == segment_ids[:, None, :]  # [B, T, S]
  if implementation == "cudnn":
    return jax.nn.dot_product_attention(
      q, k, v, mask=same[:, None], is_causal=True, implementation="cudnn"
    )
  return _blocks(q, k, v, segment_ids)


def _blocks(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  segment_ids: jax.Array,
  prefix: tuple[jax.Array, jax.Array] | None = None,
) -> jax.Array:
  """Attends a block of queries at a time, to the keys up to its end.

  That leaves out most of the keys that causality hides, and the scores of a
  block stay in a CPU's cache: forward and backward take 2.4 times less than
  over whole rows of 512 (docs/performance.md). Arguments as self_attention.
  """
  length, heads, size = q.shape[1:]
  keys = k.shape[2]
  group = heads // keys
  # Heads first, and keys with positions last: the products are then plain
  # matrix products, which XLA's CPU dot runs up to 4 times faster than the
  # same contraction over [B, T, N, H].
  query = by_key_head(q, keys)
  key = jnp.transpose(k, (0, 2, 3, 1))  # [B, K, H, S]
  value = jnp.swapaxes(v, 1, 2)  # [B, K, S, H]
  shared = 0 if prefix is None else prefix[1].shape[-2]  # P
  if prefix is not None:
    # Copied to every row: one product and one softmax over P + S keys.
    copies = [jnp.broadcast_to(x, (len(q), *x.shape)) for x in prefix]
    key = jnp.concatenate([copies[0], key], axis=3)
    value = jnp.concatenate([copies[1], value], axis=2)
  block = block_of(length, "xla")
  mixed = []
  for start in range(0, length, block):
    end = min(start + block, length)
    same = segment_ids[:, start:end, None] == segment_ids[:, None, :end]
    same = jnp.pad(same, [(0, 0), (0, 0), (shared, 0)], constant_values=True)
    causal = np.tri(end - start, shared + end, shared + start, np.bool_)
    bias = jnp.where(same & causal[None], np.float32(0), MASKED)
    scores = jnp.einsum(
      "bkqh,bkhs->bkqs",
      query[:, :, start * group : end * group],
      key[..., : shared + end],
      preferred_element_type=jnp.float32,
    )
    scores = scores * np.float32(size**-0.5)
    scores = scores + jnp.repeat(bias, group, axis=1)[:, None]
    top = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
    weights = jnp.exp(scores - top)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    # Divided after the product: H numbers a query rather than S.
    part = jnp.einsum(
      "bkqs,bksh->bkqh",
      weights.astype(v.dtype),
      value[:, :, : shared + end],
      preferred_element_type=jnp.float32,
    )
    mixed.append((part / total).astype(q.dtype))
  return by_position(jnp.concatenate(mixed, axis=2), length)


def by_key_head(x: jax.Array, keys: int) -> jax.Array:
  """[B, T, K*G, H] -> [B, K, T*G, H]: all queries of one key head."""
  rows, length, heads, size = x.shape
  x = jnp.reshape(x, (rows, length, keys, heads // keys, size))
  x = jnp.moveaxis(x, 2, 1)
  return jnp.reshape(x, (rows, keys, length * (heads // keys), size))


def by_position(x: jax.Array, length: int) -> jax.Array:
  """[B, K, T*G, H] -> [B, T, K*G, H], the inverse of by_key_head."""
  rows, keys, queries, size = x.shape
  x = jnp.reshape(x, (rows, keys, length, queries // length, size))
  x = jnp.moveaxis(x, 1, 2)
  return jnp.reshape(x, (rows, length, keys * (queries // length), size))


@flax.struct.dataclass
class Part:
  """Some of the keys that a query sees.

  Attributes:
    k: [B, K, H, S], or [K, H, S] where all rows share the keys.
    v: [B, K, S, H] or [K, S, H].
    mask: bool, broadcastable to [B, 1, Q, S]; None = everything is visible.
  """

  k: jax.Array
  v: jax.Array
  mask: jax.Array | None = None


def attend_parts(
  q: jax.Array,
  parts: Sequence[Part],
  own: tuple[jax.Array, jax.Array] | None = None,
) -> jax.Array:
  """One softmax over keys that lie in several arrays, none of them copied.

  Args:
    q: [B, K, Q, H]: all queries of a user that share a key head.
    parts: keys and values.
    own: key and value that each query alone sees, [B, K, Q, H] each (the
      token itself when decoding), or None.

  Returns:
    [B, K, Q, H].
  """
  scale = np.float32(q.shape[-1] ** -0.5)
  scores = []
  for part in parts:
    keys = "bkhs" if part.k.ndim == 4 else "khs"
    score = jnp.einsum(
      f"bkqh,{keys}->bkqs", q, part.k, preferred_element_type=jnp.float32
    )
    score = score * scale
    if part.mask is not None:
      score = jnp.where(part.mask, score, MASKED)
    scores.append(score)  # [B, K, Q, S]
  if own is not None:
    product = q.astype(jnp.float32) * own[0].astype(jnp.float32)
    scores.append(jnp.sum(product, axis=-1, keepdims=True) * scale)
  peak = functools.reduce(
    jnp.maximum, [jnp.max(s, axis=-1, keepdims=True) for s in scores]
  )
  weights = [jnp.exp(score - peak) for score in scores]
  total = sum(jnp.sum(w, axis=-1, keepdims=True) for w in weights)
  mixed = jnp.zeros(q.shape, jnp.float32)
  for part, weight in zip(parts, weights, strict=False):
    values = "bksh" if part.v.ndim == 4 else "ksh"
    mixed = mixed + jnp.einsum(
      f"bkqs,{values}->bkqh",
      weight.astype(part.v.dtype),
      part.v,
      preferred_element_type=jnp.float32,
    )
  if own is not None:
    mixed = mixed + weights[-1] * own[1].astype(jnp.float32)
  return (mixed / total).astype(q.dtype)


def _splash(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  segment_ids: jax.Array,
  mesh: Mesh | None,
) -> jax.Array:
  """TPU flash attention; a Pallas kernel, so the mesh is mapped by hand."""
  # Imported here: it costs 0.2 s of every start and only a TPU needs it.
  from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel as splash_kernel,
    splash_attention_mask as splash_mask,
  )

  interpret = mesh is None or mesh.devices.flat[0].platform != "tpu"

  def local(q, k, v, segment_ids):
    length, heads = q.shape[1], q.shape[2]
    block = block_of(length, "splash")
    mask = splash_mask.MultiHeadMask(
      [splash_mask.CausalMask((length, length))] * heads
    )
    sizes = splash_kernel.BlockSizes(
      **dict.fromkeys(
        ("block_q", "block_kv", "block_kv_compute", "block_q_dkv")
        + ("block_kv_dkv", "block_kv_dkv_compute", "block_q_dq", "block_kv_dq"),
        block,
      )
    )
    kernel = splash_kernel.make_splash_mha(
      mask,
      block_sizes=sizes,
      head_shards=1,
      q_seq_shards=1,
      interpret=interpret,
    )
    scaled = q * jnp.asarray(q.shape[-1] ** -0.5, q.dtype)
    ids = splash_kernel.SegmentIds(q=segment_ids, kv=segment_ids)
    move = lambda x: jnp.swapaxes(x, 1, 2)  # noqa: E731  [B, N, T, H]
    mixed = jax.vmap(kernel)(move(scaled), move(k), move(v), ids)
    return jnp.swapaxes(mixed, 1, 2).astype(q.dtype)

  if mesh is None or mesh.size == 1:
    return local(q, k, v, segment_ids)
  names = ("batch", "length", "kv_heads", "head_dim")
  spec = sharding.activation_spec(mesh, names, k.shape)
  return jax.shard_map(
    local,
    mesh=mesh,
    in_specs=(spec, spec, spec, PartitionSpec(spec[0], None)),
    out_specs=spec,
    check_vma=False,
  )(q, k, v, segment_ids)
