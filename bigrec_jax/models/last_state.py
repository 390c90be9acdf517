"""A language model as text encoder: its final-norm state at the last token.

BIGRec data/embedding.ipynb takes `hidden_states[-1][:, -1]` of the base LLaMA
(without the adapter) under left padding; here rows are padded at the right,
where causal attention cannot see it, and the last real token is picked. Of a
text beyond MOST_TOKENS, which is a page in place of a title, its beginning is
read, and a line says so.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bigrec_jax.data.text import tokenization
from bigrec_jax.devices import sharding
from bigrec_jax.models import embedding
from bigrec_jax.models.protocol import LanguageModel
from bigrec_jax.progress import Reports
from bigrec_jax.workdir import parts

# Of a text: no title has as many, and the cost of a text grows with its square.
MOST_TOKENS = 1024


@dataclasses.dataclass(frozen=True)
class LastState:
  """The text encoder of a language model; see protocol.TextEncoder.

  Attributes:
    model: built without an adapter.
    params: its variables.
    tokenizer: its own.
    batch_size: rows per program; the row shards of `mesh` divide it.
    mesh: of `params`.
    fingerprint: names weights, precision and tokenizer.
  """

  model: LanguageModel
  params: Any
  tokenizer: tokenization.Tokenizer
  batch_size: int
  mesh: Mesh
  fingerprint: str

  @property
  def width(self) -> int:
    """D, the width of the network."""
    return self.model.config.hidden_size

  def encode(
    self,
    texts: Sequence[str],
    progress: Reports,
    kept: parts.Vectors | None = None,
  ) -> np.ndarray:
    """Returns the state [N, D] float32 at the last token of each text."""
    encoded = self.tokenizer.encode_data(list(texts))
    cut = [n for n, ids in enumerate(encoded) if len(ids) > MOST_TOKENS]
    embedding.warn_of_cut([texts[n] for n in cut], MOST_TOKENS)
    # An empty text has no token where the tokenizer adds no BOS.
    tokens = [ids[:MOST_TOKENS] or [self.tokenizer.eos_id] for ids in encoded]
    return embed_texts(
      self.model,
      self.params,
      tokens,
      self.batch_size,
      self.mesh,
      progress,
      kept,
    )


def embed_texts(
  model: LanguageModel,
  params: Any,
  token_lists: Sequence[Sequence[int]],
  batch_size: int,
  mesh: Mesh,
  progress: Reports,
  kept: parts.Vectors | None = None,
) -> np.ndarray:
  """Returns the state [N, D] float32 at the last token of each text.

  Args:
    model: the base, built without an adapter.
    params: its variables.
    token_lists: token ids of each text, as the tokenizer gives them.
    batch_size: rows per program; the row shards of `mesh` divide it.
    mesh: of `params`.
    progress: told of every text done.
    kept: see `embedding.embed_tokens`.
  """
  return embedding.embed_tokens(
    functools.partial(_last_states, model, mesh, model.prepare(params)),
    token_lists,
    model.config.hidden_size,
    batch_size,
    mesh,
    progress,
    kept,
  )


@functools.partial(jax.jit, static_argnames=("model", "mesh"))
def _last_states(
  model: LanguageModel,
  mesh: Mesh,
  params: Any,
  tokens: jax.Array,
  lengths: jax.Array,
) -> jax.Array:
  """Maps tokens [B, T] and lengths [B] to float32 [B, D]."""
  last = jnp.maximum(lengths - 1, 0)
  slots = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
  positions = jnp.broadcast_to(slots, tokens.shape)
  segments = (slots <= last[:, None]).astype(jnp.int32)
  network, variables = model.executable({"params": params})
  hidden = network.apply(variables, tokens, positions, segments, True)
  states = jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]
  states = states.astype(jnp.float32)
  return jax.lax.with_sharding_constraint(states, sharding.replicated(mesh))
