"""Late interaction: the first layers read pieces apart, once for all users.

M6-Rec's multi-segment late interaction: a piece (a title of the history, a
candidate, the words around them) goes through the first L' layers without
seeing anything else, so its states there depend on nothing else and are kept;
the layers behind read the whole prompt, and each candidate behind it. Places
are counted within the piece at first, and within the whole text later.

Letters: R prompts, S their length, Q rows of a prompt's candidates, T tokens of
such a row, D width, N pieces, W tokens of the longest piece.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bigrec_jax.devices import sharding
from bigrec_jax.models import LanguageModel
from bigrec_jax.tasks.heads.samples import FIRST
from bigrec_jax.training import answers

Tree = Any
_EARLY_PROMPTS, _EARLY_ANSWERS = 4, 5  # In the keys of dropout.


def states(
  model: LanguageModel,
  variables: Mapping[str, Tree],
  batch: Mapping[str, jax.Array],
  layers: int,
  key: jax.Array | None,
  mesh: Mesh | None,
  table: jax.Array | None = None,
) -> jax.Array:
  """Returns the final states of candidates, [R, Q * T, D].

  Args:
    model: of `executable`, as `variables`.
    variables: its collections.
    batch: of `data.text.candidates`, with pieces.
    layers: L'.
    key: of dropout; None switches it off.
    mesh: of the rows; None = one device.
    table: of `table`; None = pieces are read here, as often as they occur.
  """
  whole = model.config.num_hidden_layers
  if table is None:
    prompts, own = _read(model, variables, batch, layers, key)
  else:
    prompts, own = _look_up(batch, table)
  later, variables = model.part(variables, layers, whole)
  return answers.states(
    later, variables, batch, key, mesh, prompts=prompts, answers=own
  )[1]


def _read(
  model: LanguageModel,
  variables: Mapping[str, Tree],
  batch: Mapping[str, jax.Array],
  layers: int,
  key: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
  """Runs the first layers over pieces: [R, S, D] and [R * Q, T, D]."""
  early, variables = model.part(variables, 0, layers)
  found = []
  for which, names in (
    (_EARLY_PROMPTS, ("tokens", "prompt_places", "prompt_parts")),
    (
      _EARLY_ANSWERS,
      ("answer_tokens", "answer_offsets", "answer_segment_ids"),
    ),
  ):
    given = [batch[name] for name in names]
    drops = answers.dropout(key, which)
    found.append(early.apply(variables, *given, **drops))
  return found[0], found[1]


def _look_up(
  batch: Mapping[str, jax.Array], table: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns the same from the table [N, W, D] of all pieces."""
  prompts = table[batch["prompt_pieces"], batch["prompt_places"]]
  rows, size = batch["answer_names"].shape
  places = batch["answer_places"].reshape(rows, -1)  # [R, Q * T]
  names = jnp.take_along_axis(
    batch["answer_names"], jnp.minimum(places, jnp.int32(size - 1)), axis=1
  )
  shape = batch["answer_tokens"].shape
  pieces = names.reshape(shape) + jnp.int32(FIRST)
  return prompts, table[pieces, batch["answer_offsets"]]


def table(
  model: LanguageModel,
  variables: Mapping[str, Tree],
  pieces: Sequence[Sequence[int]],
  layers: int,
  rows: int,
  mesh: Mesh,
) -> jax.Array:
  """Returns the states [N, W, D] of pieces after the first layers.

  Args:
    model: the network.
    variables: its collections.
    pieces: [N] tokens; those of titles end with EOS, which a history never
      reads.
    layers: L'.
    rows: pieces read at a time; the mesh's row shards divide it.
    mesh: of the variables.
  """
  run = functools.partial(_early, model, variables, layers=layers)
  found = [jnp.asarray(run(block)) for block in blocks(pieces, rows, mesh)]
  return jnp.concatenate(found)[: len(pieces)]


@functools.partial(jax.jit, static_argnames=("model", "layers"))
def _early(
  model: LanguageModel,
  variables: Mapping[str, Tree],
  block: tuple[jax.Array, jax.Array],
  *,
  layers: int,
) -> jax.Array:
  model, variables = model.executable(variables)
  early, variables = model.part(variables, 0, layers)
  found = early.apply(variables, *inputs(block), True)
  if model.mesh is None:
    return found
  whole = sharding.replicated(model.mesh)
  return jax.lax.with_sharding_constraint(found, whole)


def inputs(
  block: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns tokens, positions and segments of texts [B, W] of lengths [B]."""
  tokens, lengths = block
  places = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
  segments = (places < lengths[:, None]).astype(jnp.int32)
  return tokens, jnp.broadcast_to(places, tokens.shape), segments


def blocks(
  texts: Sequence[Sequence[int]], rows: int, mesh: Mesh
) -> list[tuple[jax.Array, jax.Array]]:
  """Returns all texts as tokens [B, W] and lengths [B], on the mesh.

  Args:
    texts: tokens.
    rows: B.
    mesh: whose row shards divide it.
  """
  width = max(map(len, texts))
  found = []
  for start in range(0, len(texts), rows):
    part = texts[start : start + rows]
    tokens = np.zeros((rows, width), np.int32)
    lengths = np.ones(rows, np.int32)
    for line, ids in zip(tokens, part, strict=False):
      line[: len(ids)] = ids
    lengths[: len(part)] = [len(ids) for ids in part]
    found.append((_put(mesh, tokens), _put(mesh, lengths)))
  return found


def _put(mesh: Mesh, array: np.ndarray) -> jax.Array:
  """Splits rows that every process holds whole over the row shards."""
  return jax.make_array_from_callback(
    array.shape, sharding.batch_sharding(mesh), array.__getitem__
  )
