"""The LLaMA network: embedding, layers, final norm, head; plain and cached.

Two variable collections: `params`, the frozen base (maybe quantised), and
`lora`, the adapter. Every method is a pure function of both:

  model.apply({"params": base, "lora": adapter}, tokens, positions,
              segment_ids, True)
  model.apply({"params": base}, tokens, lengths, method="prefill")

Axes: L layers, B batch or slots, T length, S prompt, W beams, D width,
V vocabulary, K key heads, G query heads per key head, H head size.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from bigrec_jax.config import LoraConfig
from bigrec_jax.devices import noise, sharding
from bigrec_jax.models import kv_cache, modules, stacking
from bigrec_jax.models.llama import layers, rope
from bigrec_jax.models.llama.config import LlamaConfig

# What the backward pass of a layer keeps: everything, only the layer's input,
# or also the results of its weight products.
REMAT_POLICIES = {
  "none": None,
  "full": jax.checkpoint_policies.nothing_saveable,
  "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


class Llama(nn.Module):
  """A LLaMA-family decoder.

  Attributes:
    config: sizes and constants.
    lora: the adapter whose weights collection `lora` holds; None = none.
    dtype: of base weights and activations.
    scan_layers: one compiled layer looped over stacked weights
      (`params["layers"]`, leading axis L), or L layers one after the other
      (`params["layers_0"]`, ...). Equal results; see stacking.py.
    remat: a key of REMAT_POLICIES.
    attention: `xla`, `cudnn` or `splash`.
    mesh: for activation constraints; None = one device.
    unrolled: whether stacked layers run one by one; see `executable`.
    ends: whether the final norm follows the layers; see `part`.
  """

  config: LlamaConfig
  lora: LoraConfig | None
  dtype: jnp.dtype
  scan_layers: bool
  remat: str
  attention: str
  mesh: Mesh | None
  unrolled: bool = False
  ends: bool = True

  def setup(self):
    """Declares the submodules, under the names of the parameter tree."""
    config = self.config
    init = nn.initializers.normal(config.initializer_range)
    shape = (config.vocab_size, config.hidden_size)
    self.embed_tokens = modules.Matrix("embedding", shape, init, self.dtype)
    if not config.tie_word_embeddings:
      self.lm_head = modules.Matrix("kernel", shape[::-1], init, self.dtype)
    self.norm = modules.RMSNorm(config.rms_norm_eps, self.dtype)
    layer = layers.Layer
    if self.remat != "none":
      # Inside a scan nothing can be shared with the forward pass anyway.
      layer = nn.remat(
        layer,
        policy=REMAT_POLICIES[self.remat],
        prevent_cse=not self.scan_layers,
      )
    arguments = (config, self.lora, self.dtype, self.attention, self.mesh)
    if self.scan_layers:
      self.layers = nn.scan(
        layer,
        variable_axes={"params": 0, "lora": 0},
        split_rngs={"params": True},
        in_axes=(0, nn.broadcast, 0),
        length=config.num_hidden_layers,
      )(*arguments)
    else:
      # Linen names the members of a list layers_0, layers_1, ...
      self.layers = [layer(*arguments) for _ in range(config.num_hidden_layers)]

  def __call__(
    self,
    tokens: jax.Array,
    positions: jax.Array,
    segment_ids: jax.Array,
    deterministic: bool,
    prefix: tuple[Any, Any] | None = None,
  ) -> jax.Array:
    """Runs whole texts, several to a row if packed.

    Args:
      tokens: [B, T] int32, or embeddings [B, T, D] (see `embed`).
      positions: [B, T] int32, from 0 in every segment, or from P.
      segment_ids: [B, T] int32, 0 = padding; a token sees earlier tokens of
        its own segment only.
      deterministic: False = LoRA dropout, with rng `dropout`.
      prefix: keys [L, K, H, P] and values [L, K, P, H] (tuples of layers if
        not scanned) of `read_header`, for texts without their beginning.

    Returns:
      [B, T, D] hidden states after the final norm.
    """
    lengths = self._text_lengths(positions, segment_ids, prefix)
    cos, sin = layers.rotary_tables(positions, self.config, lengths)
    context = layers.Context(cos, sin, segment_ids)
    seeds = self._dropout_seeds(deterministic)
    hidden, _ = self._run(tokens, layers.Past(prefix=prefix), context, seeds)
    if self.is_initializing():
      self.head_weight()
    return hidden

  def executable(
    self, variables: Mapping[str, Any]
  ) -> tuple["Llama", Mapping[str, Any]]:
    """Returns what a program calls: this, or its layers taken apart."""
    if not self.unrolled:
      return self, variables
    apart = {k: stacking.unstack_layers(v) for k, v in variables.items()}
    return self.clone(scan_layers=False, unrolled=False), apart

  def prepare(self, params: Any) -> Any:
    """Returns parameters whose layers are apart, where programs have them so.

    Else every call of a program copies them: 10 CPU ms a layer of 135 M
    parameters. None stays None.
    """
    if not self.unrolled or not params or "layers" not in params:
      return params
    return _unstacked(params)

  def part(
    self, variables: Mapping[str, Any], first: int, last: int
  ) -> tuple["Llama", Mapping[str, Any]]:
    """Returns some layers as a network; see `LanguageModel.part`."""
    own = {
      k: stacking.take_layers(v, first, last) for k, v in variables.items()
    }
    config = dataclasses.replace(self.config, num_hidden_layers=last - first)
    ends = last == self.config.num_hidden_layers
    return self.clone(config=config, ends=ends), own

  def embed(self, tokens: jax.Array) -> jax.Array:
    """Maps tokens [B, T] to embeddings [B, T, D], the input of the layers.

    `__call__` and `prefill` take embeddings in place of tokens, so a text with
    soft tokens is `jnp.where(is_soft, soft_tokens, embeddings)`.
    """
    with jax.named_scope("embed"):
      # Gathered over fsdp first: looked up in slices of the width, the rows
      # would have to be re-split from width to batch.
      table = sharding.constrain(
        self.embed_tokens(), self.mesh, ("vocab", "width")
      )
      x = jnp.take(table, tokens, axis=0)
      names = ("batch", "length", "width")
      x = sharding.constrain(x, self.mesh, names)
      return x

  def read_header(
    self, header: jax.Array, deterministic: bool
  ) -> tuple[jax.Array, tuple[Any, Any]]:
    """Runs the common beginning of the texts that `__call__` then continues.

    Gradients of those texts flow back through its keys and values.

    Args:
      header: [P] int32.
      deterministic: as there; a mask is drawn once, not once for each text.

    Returns:
      [1, P, D] hidden states after the final norm, and the `prefix`.
    """
    slots = jnp.arange(len(header), dtype=jnp.int32)[None]
    ones = jnp.ones_like(slots)
    lengths = self._text_lengths(slots, ones, None)
    cos, sin = layers.rotary_tables(slots, self.config, lengths)
    context = layers.Context(cos, sin, ones, keep_keys=True)
    seeds = self._dropout_seeds(deterministic)
    hidden, keys = self._run(header[None], layers.Past(), context, seeds)
    return hidden, jax.tree.map(lambda x: x[..., 0, :, :, :], keys)

  def logits(self, hidden: jax.Array) -> jax.Array:
    """Maps hidden states [..., D] to float32 logits [..., V]."""
    with jax.named_scope("head"):
      return jnp.matmul(
        hidden, self.head_weight(), preferred_element_type=jnp.float32
      )

  def head_weight(self) -> jax.Array:
    """Returns the output matrix [D, V]; the embedding's transpose if tied."""
    tied = self.config.tie_word_embeddings
    weight = self.embed_tokens().T if tied else self.lm_head()
    return sharding.constrain(weight, self.mesh, ("width", "vocab"))

  def prefill(
    self,
    tokens: jax.Array,
    lengths: jax.Array,
    prefix: kv_cache.PromptCache | None = None,
    deterministic: bool = True,
  ) -> tuple[jax.Array, kv_cache.PromptCache]:
    """Reads prompts and keeps their keys and values.

    Args:
      tokens: [B, S] int32, right padded (without the prefix's tokens), or
        embeddings [B, S, D].
      lengths: [B] int32, tokens of each prompt (without the prefix).
      prefix: what `PromptCache.as_prefix` gave for a text with which all
        prompts begin: it is neither computed nor stored again.
      deterministic: as in `__call__`.

    Returns:
      [B, S, D] hidden states after the final norm, and the cache.
    """
    rows = tokens.shape[:2]
    slots = jnp.arange(rows[1], dtype=jnp.int32)[None]
    shift = 0 if prefix is None else prefix.prefix_length
    positions = jnp.broadcast_to(slots + jnp.int32(shift), rows)
    segment_ids = (slots < lengths[:, None]).astype(jnp.int32)
    shared = None if prefix is None else prefix.prefix
    own = self._text_lengths(positions, segment_ids, shared)
    cos, sin = layers.rotary_tables(positions, self.config, own)
    context = layers.Context(cos, sin, segment_ids, keep_keys=True)
    seeds = self._dropout_seeds(deterministic)
    past = layers.Past(prefix=shared)
    hidden, (k, v) = self._run(tokens, past, context, seeds)
    lengths = lengths.astype(jnp.int32) + jnp.int32(shift)
    return hidden, kv_cache.PromptCache(k, v, lengths, shared)

  def decode(
    self,
    tokens: jax.Array,
    step: jax.Array,
    prompt: kv_cache.PromptCache,
    suffix: kv_cache.SuffixCache,
    chains: kv_cache.Chains | None = None,
  ) -> tuple[jax.Array, kv_cache.SuffixCache]:
    """Reads one more token of every beam, or chains of tokens of some.

    Args:
      tokens: [B, Q] int32; without chains Q is W.
      step: [B] int32: how many tokens the user's beams fed back before; the
        position of this one is `prompt.lengths + step`.
      prompt: of the users.
      suffix: what the beams wrote, reordered to the present hypotheses.
      chains: whose each token is; None = token w is beam w's.

    Returns:
      [B, Q, D] hidden states after the final norm, and the longer suffix.
    """
    positions = (prompt.lengths + step.astype(jnp.int32))[:, None]
    visible = suffix.visible  # [B, W, T, Q]
    visible = jnp.reshape(visible, (*visible.shape[:2], -1))
    group = self.config.num_attention_heads // self.config.num_key_value_heads
    own_mask = None
    if chains is not None:
      positions = positions + chains.depths
      # An empty place sees what some beam does: nobody reads it.
      beams = jnp.minimum(chains.beams, jnp.int32(visible.shape[1] - 1))
      visible = jnp.take_along_axis(visible, beams[:, :, None], axis=1)
      own_mask = jnp.repeat(chains.sees, group, axis=1)[:, None]
    positions = jnp.broadcast_to(positions, tokens.shape)
    # What a beam has read so far: as transformers, earlier keys stay as they
    # are when a text outgrows the trained context.
    read = positions + jnp.int32(1)
    cos, sin = layers.rotary_tables(positions, self.config, read)
    context = layers.Context(
      cos,
      sin,
      prompt_mask=prompt.valid[:, None, None],
      suffix_mask=jnp.repeat(visible, group, axis=1)[:, None],
      own_mask=own_mask,
      keep_keys=True,
    )
    past = layers.Past(
      prompt.prefix, (prompt.k, prompt.v), (suffix.k, suffix.v)
    )
    hidden, (k, v) = self._run(tokens, past, context)
    return hidden, suffix.append(*kv_cache.read_before(hidden, k, v), chains)

  def _dropout_seeds(self, deterministic: bool) -> jax.Array | None:
    """Returns a seed for each layer, uint32 [L]; None without dropout.

    One key is drawn, and seeds are hashed from it: Linen's key for every
    adapter was a loop of threefry of its own, 210 of them with 30 layers.
    """
    if deterministic or self.lora is None or not self.lora.dropout:
      return None
    seed = jax.random.bits(self.make_rng("dropout"))
    count = self.config.num_hidden_layers
    return noise.at(seed, jnp.arange(count, dtype=jnp.uint32))

  def continue_prompts(
    self,
    tokens: jax.Array,
    offsets: jax.Array,
    segment_ids: jax.Array,
    owners: jax.Array,
    prompt: kv_cache.PromptCache,
    deterministic: bool = True,
  ) -> jax.Array:
    """Reads whole texts that continue prompts, as `decode` would one by one.

    Args:
      tokens: [R, T] int32, several texts to a row.
      offsets: [R, T] int32, places in each text, from 0.
      segment_ids: [R, T] int32, 0 = padding; see `__call__`.
      owners: [R] int32, each row's user, counted within the row's shard.
      prompt: of the users.
      deterministic: as in `__call__`.

    Returns:
      [R, T, D] hidden states after the final norm.
    """
    lengths = kv_cache.rows_of(prompt.lengths, owners, self.mesh)
    valid = kv_cache.rows_of(prompt.valid, owners, self.mesh)
    positions = lengths[:, None] + offsets
    # As `decode`: what a text has read so far.
    cos, sin = layers.rotary_tables(
      positions, self.config, positions + jnp.int32(1)
    )
    mask = valid[:, None, None]
    context = layers.Context(
      cos, sin, segment_ids, prompt_mask=mask, owners=owners
    )
    past = layers.Past(prompt.prefix, (prompt.k, prompt.v))
    seeds = self._dropout_seeds(deterministic)
    return self._run(tokens, past, context, seeds)[0]

  def _text_lengths(
    self,
    positions: jax.Array,
    segment_ids: jax.Array,
    prefix: tuple[Any, Any] | None,
  ) -> jax.Array | None:
    """Returns each token's text's length [B, T], where the angles need it.

    Raises:
      UserError: the texts share keys of a beginning and may be so long that
        these would depend on the text.
    """
    config = self.config
    if not rope.depends_on_length(config.rope_scaling):
      return None
    if prefix is not None:
      shared = jax.tree.leaves(prefix[0])[0].shape[-1]  # P
      rope.check_shared(
        shared + positions.shape[1],
        config.rope_scaling,
        config.max_position_embeddings,
      )
    return rope.text_lengths(positions, segment_ids)

  def _run(
    self,
    tokens: jax.Array,
    past: layers.Past[kv_cache.Layers],
    context: layers.Context,
    seeds: jax.Array | None = None,
  ) -> tuple[jax.Array, Any]:
    """Embeds tokens, applies the layers and the final norm.

    Args:
      tokens: [B, T], or embeddings.
      past: caches of all layers.
      context: what the layers share.
      seeds: of their dropout; None = no dropout.

    Returns:
      [B, T, D], and keys [L, B, K, H, T] and values [L, B, K, T, H] or None.
    """
    x = tokens if tokens.ndim == 3 else self.embed(tokens)
    if self.scan_layers:
      x, keys = self.layers(x, past, context, seeds)
    else:
      rows = []
      for index, layer in enumerate(self.layers):
        seed = None if seeds is None else seeds[index]
        x, row = layer(x, past.of_layer(index), context, seed)
        rows.append(row)
      keys = tuple(zip(*rows, strict=True)) if context.keep_keys else None
    return self.norm(x) if self.ends else x, keys


_unstacked = jax.jit(stacking.unstack_layers)
