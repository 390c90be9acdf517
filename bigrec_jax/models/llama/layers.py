"""One LLaMA layer as Linen modules: rotary positions, attention, MLP.

Axes: B batch, T length, D width, N query heads, K key heads, G = N / K,
H head size, F MLP width, R rank, W beams, Q tokens of a decoding pass,
S prompt, P prefix.
"""

from typing import Any, Generic, TypeVar

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bigrec_jax.config import LoraConfig
from bigrec_jax.devices import sharding
from bigrec_jax.models import attention, kv_cache
from bigrec_jax.models.llama import rope
from bigrec_jax.models.llama.config import LlamaConfig
from bigrec_jax.models.modules import Linear, RMSNorm

Keys = TypeVar("Keys")  # An array of one layer, or those of all layers.


@flax.struct.dataclass
class Context:
  """What all layers of one forward pass share.

  Attributes:
    cos: [B, T, H/2] float32 (decoding: T is Q).
    sin: [B, T, H/2] float32.
    segment_ids: [B, T] int32, or None when decoding.
    prompt_mask: after prompts: [B, 1, 1, S] bool; else None.
    owners: texts that continue prompts: [B] int32, the prompt of each row
      (kv_cache.rows_of); else None.
    suffix_mask: decoding: [B, 1, Q*G, T*Q] bool; else None.
    own_mask: decoding chains: [B, 1, Q*G, Q] bool; None = each token sees
      itself alone among those of its pass.
    keep_keys: return each layer's keys and values; static.
  """

  cos: jax.Array
  sin: jax.Array
  segment_ids: jax.Array | None = None
  prompt_mask: jax.Array | None = None
  suffix_mask: jax.Array | None = None
  owners: jax.Array | None = None
  own_mask: jax.Array | None = None
  keep_keys: bool = flax.struct.field(pytree_node=False, default=False)


@flax.struct.dataclass
class Past(Generic[Keys]):
  """Cached keys and values (kv_cache.py) of one layer or all, or None each.

  Attributes:
    prefix: ([K, H, P], [K, P, H]).
    prompt: ([B, K, H, S], [B, K, S, H]).
    suffix: ([B, K, H, T, Q], [B, K, T, Q, H]).
  """

  prefix: tuple[Keys, Keys] | None = None
  prompt: tuple[Keys, Keys] | None = None
  suffix: tuple[Keys, Keys] | None = None

  def of_layer(self: "Past[kv_cache.Layers]", index: int) -> "Past[jax.Array]":
    """Picks one layer of caches that hold all of them, stacked or tuples."""

    def pick(
      pair: tuple[kv_cache.Layers, kv_cache.Layers] | None,
    ) -> tuple[jax.Array, jax.Array] | None:
      return None if pair is None else (pair[0][index], pair[1][index])

    return Past(pick(self.prefix), pick(self.prompt), pick(self.suffix))


def rotary_tables(
  positions: jax.Array, config: LlamaConfig, lengths: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
  """Returns cos and sin of the rotary angles, [..., H/2] float32.

  Args:
    positions: [...] int32.
    config: for the head size, theta and scaling.
    lengths: [...] int32, of each token's text; see `rope.tables`.
  """
  cos_sin = rope.tables(
    positions,
    lengths,
    config.head_dim,
    config.rope_theta,
    config.rope_scaling,
    config.max_position_embeddings,
  )
  # XLA's CPU backend computes the sines anew for every head of every layer,
  # fused into what turns by them, unless they come out of one array.
  both = jax.lax.optimization_barrier(jnp.concatenate(cos_sin, axis=-1))
  cos, sin = jnp.split(both, 2, axis=-1)
  return cos, sin


@jax.custom_vjp
def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
  """Turns pair (i, i + H/2) of every head by its angle, as Hugging Face.

  Its gradient is turned back by the same angle: autodiff would take the
  concatenation apart into padded sums. None goes to the angles.

  Args:
    x: [B, T, heads, H].
    cos: [B, T, H/2] float32.
    sin: [B, T, H/2] float32.
  """
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  cos, sin = cos[:, :, None], sin[:, :, None]
  turned = [first * cos - second * sin, second * cos + first * sin]
  return jnp.concatenate(turned, axis=-1).astype(x.dtype)


def _rotate_forward(x, cos, sin):
  return rotate(x, cos, sin), (cos, sin)


def _rotate_backward(angles, cotangent):
  cos, sin = angles
  return rotate(cotangent, cos, -sin), None, None


rotate.defvjp(_rotate_forward, _rotate_backward)


class Attention(nn.Module):
  """Grouped-query attention with rotary positions.

  Attributes:
    config: sizes.
    lora: the adapter or None.
    dtype: of the parameters.
    implementation: `xla`, `cudnn` or `splash`, for uncached passes.
    mesh: for activation constraints, or None.
  """

  config: LlamaConfig
  lora: LoraConfig | None
  dtype: jnp.dtype
  implementation: str
  mesh: Mesh | None

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    past: Past[jax.Array],
    context: Context,
    seed: jax.Array | None,
  ) -> tuple[jax.Array, Any]:
    """Mixes [B, T, D] over what each token may see.

    Args:
      x: normalised states.
      past: cached keys and values of the layer.
      context: what all layers share.
      seed: of dropout, see `Linear`.

    Returns:
      [B, T, D], and the keys [B, K, H, T] and values [B, K, T, H] of these
      tokens if `context.keep_keys`, else None.
    """
    config = self.config
    heads, keys, size = (
      config.num_attention_heads,
      config.num_key_value_heads,
      config.head_dim,
    )

    def project(name, count, axis):
      layer = Linear(
        count * size, config.qkv_bias, self.dtype, self.lora, name=name
      )
      y = layer(x, seed)
      y = jnp.reshape(y, (*x.shape[:2], count, size))
      names = ("batch", "length", axis, "head_dim")
      return sharding.constrain(y, self.mesh, names)

    q = rotate(project("q_proj", heads, "heads"), context.cos, context.sin)
    k = rotate(project("k_proj", keys, "kv_heads"), context.cos, context.sin)
    v = project("v_proj", keys, "kv_heads")
    if past.prompt is not None and past.suffix is not None:
      parts = _cached_parts(past.prefix, past.prompt, past.suffix, context)
      mixed = _decode_attention(q, k, v, parts, context.own_mask)
    elif past.prompt is not None:
      mixed = _continued_attention(q, k, v, past, context, self.mesh)
    elif context.segment_ids is not None:
      mixed = attention.self_attention(
        q,
        k,
        v,
        context.segment_ids,
        self.implementation,
        self.mesh,
        past.prefix,
      )
    else:
      raise ValueError("neither whole texts nor beams and their prompts")
    mixed = jnp.reshape(mixed, (*x.shape[:2], heads * size))
    out = Linear(
      x.shape[-1], config.o_bias, self.dtype, self.lora, name="o_proj"
    )(mixed, seed)
    if not context.keep_keys:
      return out, None
    return out, (jnp.transpose(k, (0, 2, 3, 1)), jnp.swapaxes(v, 1, 2))


def _cached_parts(
  prefix: tuple[jax.Array, jax.Array] | None,
  prompt: tuple[jax.Array, jax.Array],
  suffix: tuple[jax.Array, jax.Array],
  context: Context,
) -> list[attention.Part]:
  """Returns what a beam sees before its own token; shapes as in `Past`."""
  rows, keys, size = suffix[0].shape[:3]
  suffix_k = jnp.reshape(suffix[0], (rows, keys, size, -1))
  suffix_v = jnp.reshape(suffix[1], (rows, keys, -1, size))
  parts = [] if prefix is None else [attention.Part(*prefix)]
  return [
    *parts,
    attention.Part(*prompt, context.prompt_mask),
    attention.Part(suffix_k, suffix_v, context.suffix_mask),
  ]


def _decode_attention(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  parts: list[attention.Part],
  own_mask: jax.Array | None,
) -> jax.Array:
  """Each token sees the prefix, its prompt, its ancestors and itself.

  Args:
    q: [B, Q, N, H].
    k: [B, Q, K, H].
    v: [B, Q, K, H].
    parts: all that was read before this pass.
    own_mask: which ancestors are in this pass, see `Context`.

  Returns:
    [B, Q, N, H].
  """
  _, tokens, keys, _ = k.shape
  query = attention.by_key_head(q, keys)
  if own_mask is not None:
    here = attention.Part(
      jnp.transpose(k, (0, 2, 3, 1)), jnp.swapaxes(v, 1, 2), own_mask
    )
    mixed = attention.attend_parts(query, [*parts, here])
    return attention.by_position(mixed, tokens)
  group = q.shape[2] // keys

  def own(x: jax.Array) -> jax.Array:  # [B, K, W*G, H]
    return attention.by_key_head(jnp.repeat(x, group, axis=2), keys)

  mixed = attention.attend_parts(query, parts, (own(k), own(v)))
  return attention.by_position(mixed, tokens)


def _continued_attention(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  past: Past[jax.Array],
  context: Context,
  mesh: Mesh | None,
) -> jax.Array:
  """Each token sees the prefix, its row's prompt and its own text so far.

  Args:
    q: [B, T, N, H].
    k: [B, T, K, H].
    v: [B, T, K, H].
    past: `prompt` of all users, rows of which `context.owners` names.
    context: of texts that continue prompts.
    mesh: the rows' shards.

  Returns:
    [B, T, N, H].
  """
  if past.prompt is None or context.segment_ids is None:
    raise ValueError("texts that continue prompts need both")
  length, keys = k.shape[1:3]
  ids, owners = context.segment_ids, context.owners
  own = (ids[:, :, None] == ids[:, None]) & np.tri(length, dtype=np.bool_)[None]
  own = jnp.repeat(own, q.shape[2] // keys, axis=1)[:, None]  # [B, 1, T*G, T]
  prompt = [kv_cache.rows_of(x, owners, mesh) for x in past.prompt]
  parts = [] if past.prefix is None else [attention.Part(*past.prefix)]
  parts += [
    attention.Part(prompt[0], prompt[1], context.prompt_mask),
    attention.Part(jnp.transpose(k, (0, 2, 3, 1)), jnp.swapaxes(v, 1, 2), own),
  ]
  mixed = attention.attend_parts(attention.by_key_head(q, keys), parts)
  return attention.by_position(mixed, length)


class Mlp(nn.Module):
  """down(silu(gate(x)) * up(x)); attributes as in Attention."""

  config: LlamaConfig
  lora: LoraConfig | None
  dtype: jnp.dtype
  mesh: Mesh | None

  @nn.compact
  def __call__(self, x: jax.Array, seed: jax.Array | None) -> jax.Array:
    """Maps [B, T, D] to [B, T, D]; `seed` as in `Linear`."""
    config = self.config

    def linear(name, features):
      return Linear(features, config.mlp_bias, self.dtype, self.lora, name=name)

    gate = linear("gate_proj", config.intermediate_size)(x, seed)
    up = linear("up_proj", config.intermediate_size)(x, seed)
    hidden = nn.silu(gate) * up
    names = ("batch", "length", "mlp")
    hidden = sharding.constrain(hidden, self.mesh, names)
    return linear("down_proj", x.shape[-1])(hidden, seed)


class Layer(nn.Module):
  """Norm, attention, residual; norm, MLP, residual."""

  config: LlamaConfig
  lora: LoraConfig | None
  dtype: jnp.dtype
  implementation: str
  mesh: Mesh | None

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    past: Past[jax.Array],
    context: Context,
    seed: jax.Array | None,
  ) -> tuple[jax.Array, Any]:
    """Maps [B, T, D] to ([B, T, D], keys and values or None)."""
    config = self.config
    epsilon = config.rms_norm_eps
    names = ("batch", "length", "width")
    with jax.named_scope("attention"):
      normal = RMSNorm(epsilon, self.dtype, name="input_layernorm")(x)
      mixed, keys = Attention(
        config,
        self.lora,
        self.dtype,
        self.implementation,
        self.mesh,
        name="self_attn",
      )(normal, past, context, seed)
      x = sharding.constrain(x + mixed, self.mesh, names)
    with jax.named_scope("mlp"):
      norm = RMSNorm(epsilon, self.dtype, name="post_attention_layernorm")
      hidden = Mlp(config, self.lora, self.dtype, self.mesh, name="mlp")(
        norm(x), seed
      )
      x = sharding.constrain(x + hidden, self.mesh, names)
    return x, keys
