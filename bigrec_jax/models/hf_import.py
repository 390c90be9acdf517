"""Base weights: from a Hugging Face directory, or fresh ones.

Weights go to the devices one tensor of one layer at a time: each device's
slice is read from the memory-mapped file, quantised if asked, and written
into the stacked array in place. The host never holds more than one tensor.
"""

import functools
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Mesh

from bigrec_jax import errors
from bigrec_jax.config import ModelConfig
from bigrec_jax.devices import sharding
from bigrec_jax.models import layout, quantize, registry, tensor_files
from bigrec_jax.models.peft_import import load_adapter
from bigrec_jax.models.protocol import Architecture
from bigrec_jax.models.tensor_files import StoredTensor

__all__ = ["abstract_base", "init_base", "load_adapter", "load_base"]

# Written by old versions of transformers; a constant of the config.
_IGNORED = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")


def abstract_base(
  config: Architecture,
  dtype: str,
  mesh: Mesh,
  scan_layers: bool = True,
  quantization: str = "none",
) -> dict[str, Any]:
  """Returns the base's tree of ShapeDtypeStructs with their shardings.

  Initial values, loading and ahead-of-time compilation all start from it.

  Args:
    config: sizes.
    dtype: `float32` or `bfloat16`, of what is not quantised.
    mesh: the device mesh.
    scan_layers: stacked layers or one by one.
    quantization: `none`, `int8` or `nf4`, of the linear layers' kernels.
  """

  def make(entry, layer):
    return layout.abstract_leaf(
      entry, layer, config.num_hidden_layers, dtype, mesh, quantization
    )

  return layout.build_tree(
    registry.base_entries(config), config.num_hidden_layers, scan_layers, make
  )


def init_base(
  config: Architecture,
  seed: int,
  dtype: str,
  mesh: Mesh,
  scan_layers: bool = True,
  quantization: str = "none",
) -> dict[str, Any]:
  """Returns random base weights as Hugging Face draws them.

  Matrices are normal with `initializer_range`, norms one, biases zero. Values
  do not depend on the mesh; each device makes its own part.

  Args:
    config: sizes.
    seed: of the random values.
    dtype: `float32` or `bfloat16`.
    mesh: where the arrays go.
    scan_layers: stacked layers or one by one.
    quantization: of the linear layers' kernels.
  """
  key = jax.random.key(seed)
  count = config.num_hidden_layers

  def make(entry, layer):
    kind = quantization if entry.kind == "kernel" else "none"
    leaf = layout.abstract_leaf(entry, layer, count, dtype, mesh, kind)
    if entry.kind in ("scale", "bias"):
      return layout.constant(1 if entry.kind == "scale" else 0, leaf)
    layers = layout.layer_range(entry, layer, count)
    spread = config.initializer_range
    return layout.draw("normal", spread, key, entry, layers, leaf, kind)

  return layout.build_tree(
    registry.base_entries(config), count, scan_layers, make
  )


def load_base(
  directory: str | pathlib.Path, model_config: ModelConfig, mesh: Mesh
) -> tuple[Architecture, dict[str, Any]]:
  """Loads a Hugging Face directory onto the mesh.

  Args:
    directory: with config.json and safetensors, in one file or several.
    model_config: for dtype, quantization and scan_layers.
    mesh: where the arrays go.

  Returns:
    The model's shape and its weights.

  Raises:
    UserError: the model is of no family here, or a tensor is missing,
      unknown, there twice or of another shape; the line names it.
  """
  directory = pathlib.Path(directory)
  config = registry.read_config(directory)
  tensors = tensor_files.open_checkpoint(directory)
  entries = registry.base_entries(config)
  _check(directory, config, entries, tensors)
  scan, kind = model_config.scan_layers, model_config.quantization

  def make(entry, layer):
    abstract = layout.abstract_leaf(
      entry, layer, config.num_hidden_layers, model_config.dtype, mesh, kind
    )
    if entry.layered and layer is None:
      numbers = range(config.num_hidden_layers)
      stored = [tensors[entry.hf_name.format(layer=n)] for n in numbers]
      return _load_stacked(entry, stored, abstract, model_config, mesh)
    stored = tensors[entry.hf_name.format(layer=layer)]
    return _load_one(entry, stored, model_config, mesh, abstract)

  params = layout.build_tree(entries, config.num_hidden_layers, scan, make)
  logging.info("loaded %d tensors from %s", len(tensors), directory)
  return config, params


def _names(
  config: Architecture, entries: tuple[layout.Entry, ...]
) -> Iterator[tuple[str, layout.Entry]]:
  for entry in entries:
    count = config.num_hidden_layers if entry.layered else 1
    for layer in range(count):
      yield entry.hf_name.format(layer=layer), entry


def _check(
  directory: pathlib.Path,
  config: Architecture,
  entries: tuple[layout.Entry, ...],
  tensors: dict[str, StoredTensor],
) -> None:
  """Compares the checkpoint's tensors with the table, both ways."""
  expected = dict(_names(config, entries))
  for name, entry in expected.items():
    if name not in tensors:
      raise errors.UserError(
        f"{directory}: {name}: no such tensor in the checkpoint, one of shape"
        f" {list(_stored_shape(entry))} expected"
      )
    if tensors[name].shape != _stored_shape(entry):
      raise errors.UserError(
        f"{tensors[name].file}: {name}: shape {list(tensors[name].shape)}"
        f" found, {list(_stored_shape(entry))} expected by config.json"
      )
  for name, tensor in tensors.items():
    if name in expected or _IGNORED.fullmatch(name):
      continue
    if name == "lm_head.weight" and config.tie_word_embeddings:
      embedding = tensors["model.embed_tokens.weight"]
      if np.array_equal(tensor.view(), embedding.view()):
        continue  # The tied matrix, written twice.
      raise errors.UserError(
        f"{tensor.file}: {name}: differs from the embedding, though"
        " config.json says tie_word_embeddings"
      )
    raise errors.UserError(
      f"{tensor.file}: {name}: unknown tensor, not in a"
      f" {config.model_type} model of this config.json"
    )


def _stored_shape(entry: layout.Entry) -> tuple[int, ...]:
  return entry.shape[::-1] if entry.transpose else entry.shape


def _load_one(
  entry: layout.Entry,
  stored: StoredTensor,
  model_config: ModelConfig,
  mesh: Mesh,
  abstract: Any = None,
) -> Any:
  """Puts one tensor on the mesh, each device reading its own slice."""
  dtype = jnp.dtype(model_config.dtype)
  view = stored.view()
  view = view.T if entry.transpose else view
  array = jax.make_array_from_callback(
    entry.shape,
    sharding.shardings_for(entry.axes, mesh),
    # A copy: the array must not go on reading from the file.
    lambda index: np.array(view[index], dtype=dtype, order="C"),
  )
  if abstract is None or not quantize.is_quantized(abstract):
    return array
  return _quantizer(model_config.quantization, _shardings(abstract))(array)


def _load_stacked(
  entry: layout.Entry,
  stored: list[StoredTensor],
  abstract: Any,
  model_config: ModelConfig,
  mesh: Mesh,
) -> Any:
  """Fills a stacked array layer by layer, in place."""
  kind = model_config.quantization if entry.kind == "kernel" else "none"
  zeros, write = _stacker(kind, abstract)
  stack = zeros()
  for layer, tensor in enumerate(stored):
    array = _load_one(entry, tensor, model_config, mesh)
    stack = write(stack, array, np.int32(layer))
  return stack


def _shardings(abstract: Any) -> Any:
  return jax.tree.map(lambda leaf: leaf.sharding, abstract)


@functools.cache
def _stacker(kind: str, abstract: Any):
  """Returns compiled functions: an empty stack, and writing a layer to it."""
  out = _shardings(abstract)

  def zeros():
    return jax.tree.map(
      lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), abstract
    )

  def write(stack, array, layer):
    leaf = quantize.quantize(array, kind)
    return jax.tree.map(
      lambda whole, own: jax.lax.dynamic_update_index_in_dim(
        whole, own, layer, 0
      ),
      stack,
      leaf,
    )

  return (
    jax.jit(zeros, out_shardings=out),
    jax.jit(write, out_shardings=out, donate_argnums=0),
  )


@functools.cache
def _quantizer(kind: str, out: Any):
  # Cached: one compilation for all layers.
  return jax.jit(
    functools.partial(quantize.quantize, kind=kind), out_shardings=out
  )
