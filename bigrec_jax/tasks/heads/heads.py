"""M6-Rec's ways to score candidates with one language model.

Cui et al., 2022, "M6-Rec: Generative Pretrained Language Models are Open-Ended
Recommender Systems" (arXiv 2205.08084). There is no public code; this is a
reconstruction on a causal decoder (docs/systems.md).

  score    a linear map of the state at the candidate's EOS, read behind the
           prompt: the whole network, once a candidate
  late     the same, but the first L' layers read every piece of the prompt and
           every candidate apart, and the others all together (late.py)
  towers   prompt and candidate are read apart; the cosine of their projected
           last states, over a temperature
  options  a frozen network without adapter; P trained vectors before the
           prompt, and a trained vector for each of the options "no" and "yes",
           whose products with the state at EOS are compared

Letters: R prompts, S their length, M candidates, Q rows of a prompt's
candidates, T tokens of such a row, D width, E width of towers, P soft tokens.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from bigrec_jax.config import HeadsConfig
from bigrec_jax.models import Architecture, LanguageModel, own_weights
from bigrec_jax.tasks.heads import late
from bigrec_jax.training import answers

Tree = Any
Batch = Mapping[str, jax.Array]
_USERS, _ITEMS = 2, 3  # In the keys of dropout.


def weights(
  config: HeadsConfig, arch: Architecture
) -> tuple[own_weights.Weight, ...]:
  """Returns the weights of the heads in use.

  Args:
    config: section `task.heads`.
    arch: of the base.
  """
  width = arch.hidden_size
  scale = 1 / math.sqrt(width)
  # As the network's own embeddings: uniform of their standard deviation.
  soft = arch.initializer_range * math.sqrt(3)
  matrix = ("embed", "")
  made: dict[str, list[tuple[str, tuple[int, ...], tuple[str, ...], float]]]
  made = {
    "score": [("kernel", (width, 1), matrix, scale), ("bias", (1,), ("",), 0)],
    "late": [("kernel", (width, 1), matrix, scale), ("bias", (1,), ("",), 0)],
    "towers": [
      ("user", (width, config.width), matrix, scale),
      ("item", (width, config.width), matrix, scale),
    ],
    "options": [
      ("prompt", (config.soft_tokens, width), ("", "embed"), soft),
      ("embeddings", (2, width), ("", "embed"), soft),
    ],
  }
  return tuple(
    own_weights.Weight((head, name), shape, axes, scale)
    for head in config.heads
    for name, shape, axes, scale in made[head]
  )


@dataclasses.dataclass(frozen=True)
class Reader:
  """A network that is to score candidates; made inside a program.

  Attributes:
    model: of `executable`.
    variables: its collections, `own` among them.
    config: section `task.heads`.
    mesh: of the rows; None = one device.
    key: of dropout; None switches it off.
  """

  model: LanguageModel
  variables: Mapping[str, Tree]
  config: HeadsConfig
  mesh: Mesh | None
  key: jax.Array | None = None

  def scores(
    self, head: str, batch: Batch, table: jax.Array | None = None
  ) -> jax.Array:
    """Returns the scores [R, M] float32 of a head.

    Args:
      head: its name.
      batch: of `data.text.candidates`.
      table: of `late.table`, for head `late`; None = pieces are read here.
    """
    own = self.variables["own"][head]
    if head == "score":
      _, hidden = answers.states(
        self.model, self.variables, batch, self.key, self.mesh
      )
      return _linear(own, at_ends(hidden, batch))
    if head == "late":
      hidden = late.states(
        self.model,
        self.variables,
        batch,
        self.config.late_layers,
        self.key,
        self.mesh,
        table,
      )
      return _linear(own, at_ends(hidden, batch))
    if head == "options":
      return self._options(own, batch)
    users = self.user_vectors(batch)
    hidden = self._read(_ITEMS, batch, "answer_tokens", "answer_offsets")
    hidden = hidden.reshape(len(users), -1, hidden.shape[-1])
    items = unit(jnp.matmul(at_ends(hidden, batch), own["item"]))  # [R, M, E]
    return jnp.einsum("re,rme->rm", users, items) / self.config.temperature

  def user_vectors(self, batch: Batch) -> jax.Array:
    """Returns the users' tower [R, E], of length 1."""
    hidden = self._read(_USERS, batch, "tokens", "positions")
    lengths = jnp.sum(batch["segment_ids"] > 0, axis=1, dtype=jnp.int32)
    last = jnp.maximum(lengths - 1, 0)[:, None, None]
    states = jnp.take_along_axis(hidden, last, axis=1)[:, 0]
    own = self.variables["own"]["towers"]
    return unit(jnp.matmul(states.astype(jnp.float32), own["user"]))

  def _read(
    self, which: int, batch: Batch, tokens: str, positions: str
  ) -> jax.Array:
    """Runs rows of texts that are no one's continuation."""
    segments = tokens.replace("tokens", "segment_ids")
    return self.model.apply(
      self.variables,
      batch[tokens],
      batch[positions],
      batch[segments],
      **answers.dropout(self.key, which),
    )

  def _options(self, own: Tree, batch: Batch) -> jax.Array:
    """Scores by the options' embeddings; no adapter, no dropout."""
    model = self.model.clone(lora=None)
    base = {"params": self.variables["params"]}
    x = model.apply(base, batch["tokens"], method="embed")  # [R, S, D]
    soft = own["prompt"].astype(x.dtype)[None]
    soft = jnp.broadcast_to(soft, (x.shape[0], *soft.shape[1:]))
    more = soft.shape[1]
    prompts = jnp.concatenate([soft, x], axis=1)
    _, hidden = answers.states(
      model, base, batch, None, self.mesh, prompts=prompts, more=more
    )
    found = jnp.matmul(at_ends(hidden, batch), own["embeddings"].T)
    return found[..., 1] - found[..., 0]


def at_ends(hidden: jax.Array, batch: Batch) -> jax.Array:
  """Returns the states [R, M, D] float32 where candidates end.

  Args:
    hidden: [R, Q * T, D].
    batch: of `data.text.candidates`.
  """
  ends = batch["answer_ends"][:, :, None]
  return jnp.take_along_axis(hidden, ends, axis=1).astype(jnp.float32)


def unit(x: jax.Array) -> jax.Array:
  """Returns vectors [..., E] scaled to length 1."""
  square = jnp.sum(x * x, axis=-1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.maximum(square, 1e-12))


def _linear(own: Tree, states: jax.Array) -> jax.Array:
  return jnp.matmul(states, own["kernel"])[..., 0] + own["bias"][None]
