"""BERT (Devlin et al. 2019) as a Flax Linen module, in float32.

Axes: B batch, T length, D width, N heads, H head size, F MLP width.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bigrec_jax.devices import sharding
from bigrec_jax.models.attention import MASKED
from bigrec_jax.models.bert.config import BertConfig
from bigrec_jax.models.modules import Linear

_WIDTH = ("batch", "length", "width")
_TANH = functools.partial(nn.gelu, approximate=True)
_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  "gelu": functools.partial(nn.gelu, approximate=False),
  "gelu_new": _TANH,
  "gelu_pytorch_tanh": _TANH,
  "relu": nn.relu,
}


class Bert(nn.Module):
  """The encoder without pooler and heads.

  Layers lie one by one (`layers_0`, ...): an encoder has 6 to 24 of them and
  no backward pass, so there is little to compile.

  Attributes:
    config: sizes and constants.
    mesh: for activation constraints; None = one device.
  """

  config: BertConfig
  mesh: Mesh | None

  def setup(self):
    """Declares the submodules, under the names of the parameter tree."""
    config = self.config

    def table(rows: int) -> nn.Embed:
      return nn.Embed(rows, config.hidden_size)

    self.word_embeddings = table(config.vocab_size)
    self.position_embeddings = table(config.max_position_embeddings)
    self.token_type_embeddings = table(config.type_vocab_size)
    self.embeddings_norm = _norm(config)
    self.layers = [
      _Layer(config, self.mesh) for _ in range(config.num_hidden_layers)
    ]

  def __call__(self, tokens: jax.Array, lengths: jax.Array) -> jax.Array:
    """Returns the states [B, T, D] of the last layer.

    Args:
      tokens: [B, T] int32, right padded, each row one text with its special
        tokens.
      lengths: [B] int32, at least 1.
    """
    slots = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
    # A bucket may be longer than the network; what is there is padding.
    last = np.int32(self.config.max_position_embeddings - 1)
    with jax.named_scope("embed"):
      x = self.word_embeddings(tokens)
      # One text, no pair: token type 0 everywhere.
      x = x + self.token_type_embeddings(jnp.zeros_like(tokens))
      x = x + self.position_embeddings(jnp.minimum(slots, last))
      x = sharding.constrain(self.embeddings_norm(x), self.mesh, _WIDTH)
    visible = (slots < lengths[:, None])[:, None, None]  # [B, 1, 1, T]
    for layer in self.layers:
      x = layer(x, visible)
    return x


class _Layer(nn.Module):
  """Attention, residual, norm; MLP, residual, norm."""

  config: BertConfig
  mesh: Mesh | None

  @nn.compact
  def __call__(self, x: jax.Array, visible: jax.Array) -> jax.Array:
    """Maps [B, T, D] to [B, T, D]; `visible` [B, 1, 1, T] says which keys."""
    config = self.config

    def linear(name: str, features: int, x: jax.Array) -> jax.Array:
      layer = Linear(features, True, jnp.dtype("float32"), None, name=name)
      return layer(x, None)

    with jax.named_scope("attention"):
      mixed = self._attend(x, visible, linear)
      mixed = linear("attention_output", x.shape[-1], mixed)
      x = _norm(config, "attention_norm")(x + mixed)
      x = sharding.constrain(x, self.mesh, _WIDTH)
    with jax.named_scope("mlp"):
      hidden = linear("intermediate", config.intermediate_size, x)
      hidden = _ACTIVATIONS[config.hidden_act](hidden)
      names = ("batch", "length", "mlp")
      hidden = sharding.constrain(hidden, self.mesh, names)
      hidden = linear("output", x.shape[-1], hidden)
      x = _norm(config, "output_norm")(x + hidden)
      return sharding.constrain(x, self.mesh, _WIDTH)

  def _attend(self, x, visible, linear) -> jax.Array:
    """Mixes [B, T, D] over all visible tokens, before and after."""
    heads = self.config.num_attention_heads
    size = x.shape[-1] // heads

    def project(name: str) -> jax.Array:
      y = linear(name, x.shape[-1], x)
      y = jnp.reshape(y, (*x.shape[:2], heads, size))
      names = ("batch", "length", "heads", "head_dim")
      return sharding.constrain(y, self.mesh, names)

    q, k, v = project("query"), project("key"), project("value")
    scores = jnp.einsum("btnh,bsnh->bnts", q, k) * np.float32(size**-0.5)
    weights = jax.nn.softmax(jnp.where(visible, scores, MASKED), axis=-1)
    return jnp.reshape(jnp.einsum("bnts,bsnh->btnh", weights, v), x.shape)


def _norm(config: BertConfig, name: str | None = None) -> nn.LayerNorm:
  return nn.LayerNorm(
    epsilon=config.layer_norm_eps, use_fast_variance=False, name=name
  )
