"""Log-probabilities of a prompt's candidates, with gradients.

`decoding/likelihood.py` makes the same numbers for any number of users and
answers, without gradients; here all is one program of one micro-batch
(data/text/candidates.py). Each prompt is read once; its candidates go on from
its keys and values, through which their gradients come back.

Letters: R prompts, S their length, M candidates, Q rows of a prompt's
candidates, T tokens of such a row, D width, V vocabulary.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from bigrec_jax.decoding import slots as slots_lib
from bigrec_jax.devices import sharding
from bigrec_jax.models import LanguageModel

Tree = Any
_PROMPT, _ANSWERS = 0, 1  # In the keys of dropout.


def mean_logs(
  model: LanguageModel,
  variables: Mapping[str, Tree],
  batch: Mapping[str, jax.Array],
  key: jax.Array | None,
  chunk: int,
  mesh: Mesh | None,
) -> jax.Array:
  """Returns each candidate's mean log-probability a token, [R, M] float32.

  0 where there is no candidate.

  Args:
    model: the network.
    variables: its collections.
    batch: of `data.text.candidates`.
    key: of dropout; None switches it off.
    chunk: positions of every prompt's candidates whose logits are held at
      once.
    mesh: of the rows; None = one device.
  """
  model, variables = model.executable(variables)
  tokens, count = batch["answer_tokens"], batch["tokens"].shape[0]
  each = tokens.shape[0] // count  # Q
  lengths = jnp.sum(batch["segment_ids"] > 0, axis=1, dtype=jnp.int32)

  def apply(which: int, *args: Any, method: str) -> Any:
    drops: dict[str, Any] = {"deterministic": True}
    if key is not None:
      own = jax.random.fold_in(key, which)
      drops = {"deterministic": False, "rngs": {"dropout": own}}
    return model.apply(variables, *args, method=method, **drops)

  with jax.named_scope("prompts"):
    hidden, prompt = apply(
      _PROMPT, batch["tokens"], jnp.maximum(lengths, 1), method="prefill"
    )
    last = jnp.maximum(lengths - 1, 0)[:, None, None]
    last = jnp.take_along_axis(hidden, last, axis=1)[:, 0]  # [R, D]
    first = _logs(model, variables, last[:, None], batch["answer_first"])
  prompt = slots_lib.split(prompt, mesh)
  shards = 1 if mesh is None else sharding.batch_size_unit(mesh)
  rows = jnp.arange(tokens.shape[0], dtype=jnp.int32)
  with jax.named_scope("answers"):
    hidden = apply(
      _ANSWERS,
      tokens,
      batch["answer_offsets"],
      batch["answer_segment_ids"],
      rows // each % (count // shards),  # Counted within a shard.
      prompt,
      method="continue_prompts",
    )  # [R * Q, T, D]
    hidden = hidden.reshape(count, -1, hidden.shape[-1])  # [R, Q * T, D]
    targets = batch["answer_targets"].reshape(count, -1)
    rest = _in_chunks(model, variables, hidden, targets, chunk)
  total = _add(first[:, 0], rest, batch["answer_places"].reshape(count, -1))
  there = batch["answer_lengths"]
  tokens_each = jnp.maximum(there, 1).astype(jnp.float32)
  return jnp.where(there > 0, total / tokens_each, 0.0)


def _logs(
  model: LanguageModel,
  variables: Mapping[str, Tree],
  hidden: jax.Array,
  targets: jax.Array,
) -> jax.Array:
  """Returns log p [R, C, n] of tokens [R, n] after each of states [R, C, D]."""
  logits = model.apply(variables, hidden, method="logits")  # [R, C, V]
  total = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
  return jnp.take_along_axis(logits, targets[:, None], axis=-1) - total


def _in_chunks(
  model: LanguageModel,
  variables: Mapping[str, Tree],
  hidden: jax.Array,
  targets: jax.Array,
  chunk: int,
) -> jax.Array:
  """Returns log p [R, L] of targets [R, L] by the states [R, L, D] before.

  Logits are made anew for the gradient: those of a chunk are held alone.
  """
  length = targets.shape[1]
  pieces = -(-length // chunk)
  more = -length % pieces

  def cut(x: jax.Array) -> jax.Array:
    """[R, L, ...] -> [pieces, R, C, ...], padded."""
    x = jnp.pad(x, [(0, 0), (0, more)] + [(0, 0)] * (x.ndim - 2))
    x = x.reshape(x.shape[0], pieces, -1, *x.shape[2:])
    return jnp.moveaxis(x, 1, 0)

  @jax.checkpoint
  def one(part: tuple[jax.Array, jax.Array]) -> jax.Array:
    states, wanted = part
    logits = model.apply(variables, states, method="logits")
    own = jnp.take_along_axis(logits, wanted[:, :, None], axis=-1)[:, :, 0]
    return own - jax.nn.logsumexp(logits, axis=-1)

  logs = jax.lax.map(one, (cut(hidden), cut(targets)))
  return jnp.moveaxis(logs, 0, 1).reshape(targets.shape[0], -1)[:, :length]


def _add(first: jax.Array, rest: jax.Array, places: jax.Array) -> jax.Array:
  """Returns the sums [R, M]: of first tokens and of those at places [R, L].

  Places past the last column are padding.
  """
  return jax.vmap(
    lambda sums, logs, columns: sums.at[columns].add(logs, mode="drop")
  )(first, rest, places)
