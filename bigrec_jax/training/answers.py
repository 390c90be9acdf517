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
  last, hidden = states(model, variables, batch, key, mesh)
  first = _logs(model, variables, last[:, None], batch["answer_first"])
  targets = batch["answer_targets"].reshape(hidden.shape[:2])
  rest = _in_chunks(model, variables, hidden, targets, chunk)
  places = batch["answer_places"].reshape(hidden.shape[:2])
  total = _add(first[:, 0], rest, places)
  there = batch["answer_lengths"]
  tokens_each = jnp.maximum(there, 1).astype(jnp.float32)
  return jnp.where(there > 0, total / tokens_each, 0.0)


def states(
  model: LanguageModel,
  variables: Mapping[str, Tree],
  batch: Mapping[str, jax.Array],
  key: jax.Array | None,
  mesh: Mesh | None,
  prompts: jax.Array | None = None,
  answers: jax.Array | None = None,
  more: int = 0,
) -> tuple[jax.Array, jax.Array]:
  """Reads prompts once, and their candidates behind them.

  Args:
    model: of `executable`, as `variables`.
    variables: its collections.
    batch: of `data.text.candidates`.
    key: of dropout; None switches it off.
    mesh: of the rows; None = one device.
    prompts: embeddings [R, more + S, D] in place of the prompts' tokens.
    answers: embeddings [R * Q, T, D] in place of the candidates' tokens.
    more: places that `prompts` has before each prompt.

  Returns:
    states [R, D] at the ends of prompts, and [R, Q * T, D] of candidates.
  """
  tokens, count = batch["answer_tokens"], batch["tokens"].shape[0]
  each = tokens.shape[0] // count  # Q
  lengths = jnp.sum(batch["segment_ids"] > 0, axis=1, dtype=jnp.int32)
  # A row that only fills reads one token of padding.
  lengths = jnp.maximum(lengths, 1) + jnp.int32(more)

  def apply(which: int, *args: Any, method: str) -> Any:
    drops = dropout(key, which)
    return model.apply(variables, *args, method=method, **drops)

  with jax.named_scope("prompts"):
    given = batch["tokens"] if prompts is None else prompts
    hidden, prompt = apply(_PROMPT, given, lengths, method="prefill")
    last = jnp.take_along_axis(hidden, lengths[:, None, None] - 1, axis=1)
  prompt = slots_lib.split(prompt, mesh)
  shards = 1 if mesh is None else sharding.batch_size_unit(mesh)
  rows = jnp.arange(tokens.shape[0], dtype=jnp.int32)
  with jax.named_scope("answers"):
    hidden = apply(
      _ANSWERS,
      tokens if answers is None else answers,
      batch["answer_offsets"],
      batch["answer_segment_ids"],
      rows // each % (count // shards),  # Counted within a shard.
      prompt,
      method="continue_prompts",
    )  # [R * Q, T, D]
  return last[:, 0], hidden.reshape(count, -1, hidden.shape[-1])


def dropout(key: jax.Array | None, which: int) -> dict[str, Any]:
  """Returns a method's arguments for one of several masks of a micro-batch."""
  if key is None:
    return {"deterministic": True}
  own = jax.random.fold_in(key, which)
  return {"deterministic": False, "rngs": {"dropout": own}}


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
