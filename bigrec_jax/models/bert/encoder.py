"""A BERT directory as text encoder: words, network, pooling."""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers
from absl import logging
from jax.sharding import Mesh

from bigrec_jax import errors
from bigrec_jax.devices import sharding
from bigrec_jax.models import (
  embedding,
  hf_import,
  sentences,
  tensor_files,
)
from bigrec_jax.models.bert import weights, wordpiece
from bigrec_jax.models.bert.config import BertConfig
from bigrec_jax.models.bert.network import Bert
from bigrec_jax.progress import Reports
from bigrec_jax.workdir import parts, storage


@dataclasses.dataclass(frozen=True)
class BertEncoder:
  """The text encoder; see protocol.TextEncoder.

  Attributes:
    network: the Flax module.
    params: its variables, float32 on the mesh.
    tokenizer: cuts texts at the encoder's length.
    sentences: pooling and normalisation.
    batch_size: rows per program; the row shards of `mesh` divide it.
    mesh: of `params`.
    fingerprint: names all that its vectors depend on.
  """

  network: Bert
  params: Any
  tokenizer: tokenizers.Tokenizer
  sentences: sentences.Sentences
  batch_size: int
  mesh: Mesh
  fingerprint: str

  @property
  def width(self) -> int:
    """D, the width of the network."""
    return self.network.config.hidden_size

  def encode(
    self,
    texts: Sequence[str],
    progress: Reports,
    kept: parts.Vectors | None = None,
  ) -> np.ndarray:
    """Returns the vectors [N, D] float32 of the texts."""
    # As sentence-transformers, which strips texts first.
    texts = [text.strip() for text in texts]
    if self.sentences.lower:
      texts = [text.lower() for text in texts]
    rows = self.tokenizer.encode_batch_fast(texts, add_special_tokens=True)
    cut = [n for n, row in enumerate(rows) if row.overflowing]
    if cut:
      most = len(rows[cut[0]].ids)
      embedding.warn_of_cut([texts[n] for n in cut], most)
    how = (self.mesh, self.sentences.pooling, self.sentences.normalize)
    return embedding.embed_tokens(
      functools.partial(_vectors, self.network, *how, self.params),
      [row.ids for row in rows],
      self.width,
      self.batch_size,
      self.mesh,
      progress,
      kept,
    )


def load(
  directory: pathlib.Path, batch_size: int, mesh: Mesh, fingerprint: str
) -> BertEncoder:
  """Loads a directory of sentence-transformers or Hugging Face.

  Args:
    directory: see `encoders.load`.
    batch_size: rows per program.
    mesh: where it runs.
    fingerprint: names the directory.

  Raises:
    UserError: its files ask for what is not here, or a tensor is missing,
      unknown, there twice or of another shape.
  """
  how = sentences.read(directory)
  file = how.directory / "config.json"
  config = BertConfig.from_hf(storage.read_json(file), str(file))
  tokenizer = wordpiece.load(how.directory)
  tokenizer.encode_special_tokens = True  # In a title they are plain text.
  _check_vocabulary(how.directory, tokenizer, config)
  tokenizer.enable_truncation(_max_length(how, config))
  tensors: dict[str, tensor_files.StoredTensor] = {}
  found = tensor_files.open_checkpoint(how.directory, weights.CONSTANTS)
  for stored, tensor in found.items():
    name = weights.name_of(stored)
    if name in tensors:
      raise errors.UserError(f"{tensor.file}: {stored}: {name} is there twice")
    if name is not None:
      tensors[name] = tensor
  params = hf_import.load_tensors(
    how.directory,
    tensors,
    weights.entries(config),
    config.num_hidden_layers,
    "bert",
    hf_import.Form("float32", mesh, scan_layers=False),
  )
  logging.info(
    "text encoder of %s: pooling %s, %s",
    directory,
    how.pooling,
    "normalised" if how.normalize else "not normalised",
  )
  network = Bert(config, mesh)
  return BertEncoder(
    network, params, tokenizer, how, batch_size, mesh, fingerprint
  )


def _max_length(how: sentences.Sentences, config: BertConfig) -> int:
  """Returns how many tokens of a text are read."""
  positions = config.max_position_embeddings
  if how.max_length is not None:
    if how.max_length > positions:
      raise errors.UserError(
        f"{how.directory}: max_seq_length: {how.max_length} found, at most"
        f" max_position_embeddings {positions} expected"
      )
    return how.max_length
  own = wordpiece.settings(how.directory).get("model_max_length")
  return positions if own is None else int(min(positions, own))


def _check_vocabulary(
  directory: pathlib.Path, tokenizer: tokenizers.Tokenizer, config: BertConfig
) -> None:
  """Raises UserError for a token that has no row in the embedding."""
  most = max(tokenizer.get_vocab(True).values())
  if most >= config.vocab_size:
    raise errors.UserError(
      f"{directory}: a token with id {most} found, ids below config.json's"
      f" vocab_size {config.vocab_size} expected: the tokenizer is another"
      " model's"
    )


@functools.partial(
  jax.jit, static_argnames=("network", "mesh", "pooling", "normalize")
)
def _vectors(
  network: Bert,
  mesh: Mesh,
  pooling: str,
  normalize: bool,
  params: Any,
  tokens: jax.Array,
  lengths: jax.Array,
) -> jax.Array:
  """Maps tokens [B, T] and lengths [B] to float32 [B, D]."""
  lengths = jnp.maximum(lengths, 1)  # Rows that only fill the batch.
  # Small, and what every distance rests on: no bfloat16 passes on a TPU.
  with jax.default_matmul_precision("highest"):
    hidden: Any = network.apply({"params": params}, tokens, lengths)
  vectors = sentences.pool(hidden, lengths, pooling, normalize)
  whole = sharding.replicated(mesh)
  return jax.lax.with_sharding_constraint(vectors, whole)
