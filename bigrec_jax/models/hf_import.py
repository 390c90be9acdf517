"""Base weights: from a Hugging Face directory, or fresh ones.

Weights go to the devices one tensor of one layer at a time: each device's
slice is read from the memory-mapped file, quantised if asked, and written
into the stacked array in place. The host never holds more than one tensor.
"""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Iterator, Mapping
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
_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


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
  tensors = _without_constants(
    tensor_files.open_checkpoint(directory), config.tie_word_embeddings
  )
  params = load_tensors(
    directory,
    tensors,
    registry.base_entries(config),
    config.num_hidden_layers,
    config.model_type,
    Form(
      model_config.dtype,
      mesh,
      model_config.scan_layers,
      model_config.quantization,
    ),
  )
  return config, params


@dataclasses.dataclass(frozen=True)
class Form:
  """How weights are held.

  Attributes:
    dtype: `float32` or `bfloat16`, of what is not quantised.
    mesh: where the arrays go.
    scan_layers: stacked layers or one by one.
    quantization: `none`, `int8` or `nf4`, of the linear layers' kernels.
  """

  dtype: str
  mesh: Mesh
  scan_layers: bool
  quantization: str = "none"


def load_tensors(
  directory: pathlib.Path,
  tensors: Mapping[str, StoredTensor],
  entries: tuple[layout.Entry, ...],
  num_layers: int,
  model_type: str,
  form: Form,
) -> dict[str, Any]:
  """Puts the tensors of a checkpoint on the mesh.

  Args:
    directory: they are of, for messages.
    tensors: by the names of the table.
    entries: the table; every tensor has its row and every row its tensor.
    num_layers: L.
    model_type: for messages.
    form: of the result.

  Raises:
    UserError: a tensor is missing, unknown, of another shape, or has a NaN or
      an infinity.
  """
  _check(directory, num_layers, model_type, entries, tensors)
  finite: list[tuple[StoredTensor, jax.Array]] = []

  def put(entry, stored, abstract=None):
    array = _load_one(entry, stored, form)
    # Before quantising, which would hide a NaN. Not waited for: the device
    # reads the tensor while the host reads the next one.
    finite.append((stored, _is_finite(array)))
    if abstract is None or not quantize.is_quantized(abstract):
      return array
    return _quantizer(form.quantization, _shardings(abstract))(array)

  def make(entry, layer):
    abstract = layout.abstract_leaf(
      entry, layer, num_layers, form.dtype, form.mesh, form.quantization
    )
    if entry.layered and layer is None:
      numbers = range(num_layers)
      stored = (tensors[entry.hf_name.format(layer=n)] for n in numbers)
      arrays = (put(entry, one) for one in stored)
      return _stack(entry, arrays, abstract, form)
    return put(entry, tensors[entry.hf_name.format(layer=layer)], abstract)

  params = layout.build_tree(entries, num_layers, form.scan_layers, make)
  _refuse_non_finite(finite, form.dtype)
  logging.info("loaded %d tensors from %s", len(tensors), directory)
  return params


def _without_constants(
  tensors: dict[str, StoredTensor], tied: bool
) -> dict[str, StoredTensor]:
  """Leaves out what config.json says already: rotary angles, a tied head."""
  kept = {k: v for k, v in tensors.items() if not _IGNORED.fullmatch(k)}
  head, table = kept.get(_HEAD), kept.get(_EMBEDDING)
  if tied and head is not None and table is not None:
    if not np.array_equal(head.view(), table.view()):
      raise errors.UserError(
        f"{head.file}: {_HEAD}: differs from the embedding, though config.json"
        " says tie_word_embeddings"
      )
    del kept[_HEAD]  # The tied matrix, written twice.
  return kept


@jax.jit
def _is_finite(array: jax.Array) -> jax.Array:
  return jnp.all(jnp.isfinite(array))


def _refuse_non_finite(
  found: list[tuple[StoredTensor, jax.Array]], dtype: str
) -> None:
  """Raises UserError for the first tensor that isn't finite.

  Every process sees the whole tensors' flags, so all of them stop.
  """
  flags = jax.device_get([flag for _, flag in found])
  for (stored, _), flag in zip(found, flags, strict=True):
    if not flag:
      raise errors.UserError(
        f"{stored.file}: {stored.name}: NaN or infinity found in {dtype},"
        " finite weights expected: the file is damaged, or training diverged"
      )


def _names(
  num_layers: int, entries: tuple[layout.Entry, ...]
) -> Iterator[tuple[str, layout.Entry]]:
  for entry in entries:
    for layer in range(num_layers if entry.layered else 1):
      yield entry.hf_name.format(layer=layer), entry


def _check(
  directory: pathlib.Path,
  num_layers: int,
  model_type: str,
  entries: tuple[layout.Entry, ...],
  tensors: Mapping[str, StoredTensor],
) -> None:
  """Compares the checkpoint's tensors with the table, both ways."""
  expected = set()
  for name, entry in _names(num_layers, entries):
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
    expected.add(name)
  for name, tensor in tensors.items():
    if name not in expected:
      raise errors.UserError(
        f"{tensor.file}: {tensor_files.shown(name)}: unknown tensor, not in a"
        f" {model_type} model of this config.json"
      )


def _stored_shape(entry: layout.Entry) -> tuple[int, ...]:
  return entry.shape[::-1] if entry.transpose else entry.shape


def _load_one(
  entry: layout.Entry, stored: StoredTensor, form: Form
) -> jax.Array:
  """Puts one tensor on the mesh, each device reading its own slice."""
  dtype = jnp.dtype(form.dtype)
  view = stored.view()
  view = view.T if entry.transpose else view
  return jax.make_array_from_callback(
    entry.shape,
    sharding.shardings_for(entry.axes, form.mesh),
    # A copy: the array must not go on reading from the file.
    lambda index: np.array(view[index], dtype=dtype, order="C"),
  )


def _stack(
  entry: layout.Entry, arrays: Iterator[jax.Array], abstract: Any, form: Form
) -> Any:
  """Fills a stacked array layer by layer, in place."""
  kind = form.quantization if entry.kind == "kernel" else "none"
  zeros, write = _stacker(kind, abstract)
  stack = zeros()
  for layer, array in enumerate(arrays):
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
