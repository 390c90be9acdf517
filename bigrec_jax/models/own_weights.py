"""Weights of a task's own that are trained beside the adapter.

A projector of item vectors (LLaRA), a scoring head: whatever a task has beyond
LoRA. A task names them once, as a `Spec`; from there on they are trained,
checkpointed, saved, exported and loaded with the adapter:

  trained tree    Trained(lora, own), or the plain adapter where there are none
  collections     {"params", "lora", "own"} of the network's variables; the
                  network ignores "own", objectives and decoding read it
  adapter folder  the PEFT files as ever, and FILE beside them
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import flax.struct
import jax
import numpy as np
from jax.sharding import Mesh

from bigrec_jax import errors
from bigrec_jax.devices import sharding
from bigrec_jax.models import layout, tensor_files

if TYPE_CHECKING:
  from bigrec_jax.models.protocol import LanguageModel

Tree = Any
# The adapter's fingerprint is that of all files with this beginning.
FILE = "adapter_own.safetensors"
_AGAINST = "bigrec_jax.against."


class Trained(flax.struct.PyTreeNode):
  """What is trained where a task has weights of its own.

  Attributes:
    lora: the adapter.
    own: nested dicts of float32 arrays, as the `Spec` has them.
  """

  lora: Tree
  own: Tree


@dataclasses.dataclass(frozen=True)
class Weight:
  """One weight.

  Attributes:
    path: names in the tree, e.g. ("projector", "in", "kernel").
    shape: of the array, float32.
    axes: logical names, one a dimension; "" = whole on every device.
    scale: fresh values are uniform on [-scale, scale); 0 = zeros.
  """

  path: tuple[str, ...]
  shape: tuple[int, ...]
  axes: tuple[str, ...]
  scale: float

  @property
  def name(self) -> str:
    """Of the tensor in the file."""
    return ".".join(self.path)

  def entry(self) -> layout.Entry:
    """Returns the weight as tables of weights have it."""
    axes = sharding.Axes(self.axes, self.shape)
    return layout.Entry(
      self.path, self.name, self.shape, axes, False, False, "own"
    )


@dataclasses.dataclass(frozen=True)
class Spec:
  """All weights of a task's own.

  Attributes:
    weights: each of them.
    against: fingerprints, by name, of what they make sense with alone, such as
      the CF model whose item vectors they read.
  """

  weights: tuple[Weight, ...]
  against: Mapping[str, str]

  def abstract(self, mesh: Mesh) -> Tree:
    """Returns the tree of ShapeDtypeStructs with their shardings."""
    return self._tree(lambda entry, _: _leaf(entry, mesh))

  def init(self, seed: int, mesh: Mesh) -> Tree:
    """Returns fresh weights; they depend on seed and name, not on the mesh."""
    scales = {weight.name: weight.scale for weight in self.weights}
    key = jax.random.key(seed)

    def make(entry: layout.Entry, _: None) -> jax.Array:
      leaf, scale = _leaf(entry, mesh), scales[entry.hf_name]
      if not scale:
        return layout.constant(0, leaf)
      return layout.draw("uniform", scale, key, entry, range(1), leaf)

    return self._tree(make)

  def _tree(self, make: Any) -> Tree:
    entries = tuple(weight.entry() for weight in self.weights)
    return layout.build_tree(entries, 0, True, make)

  def write(self, directory: pathlib.Path, own: Tree) -> None:
    """Writes FILE into an adapter's folder.

    Args:
      directory: that is there.
      own: the weights on the host.

    Raises:
      UserError: one is NaN or infinite.
    """
    tensors = {weight.name: _at(own, weight.path) for weight in self.weights}
    for name, value in tensors.items():
      if not np.isfinite(value).all():
        raise errors.UserError(
          f"{directory}: {name}: NaN or infinity found, finite weights expected"
        )
    header = [(name, x.dtype, x.shape) for name, x in tensors.items()]
    about = {f"{_AGAINST}{name}": mark for name, mark in self.against.items()}
    file = directory / FILE
    tensor_files.write_file(file, header, tensors.__getitem__, about)

  def read(self, directory: pathlib.Path) -> Tree:
    """Returns the weights of an adapter's folder as numpy float32.

    Raises:
      UserError: they are missing, others, or were trained against something
        else.
    """
    file = directory / FILE
    if not file.is_file():
      raise errors.UserError(
        f"{file}: not found, the task's own weights expected: the adapter was"
        " trained for another task"
      )
    stored, about = (
      tensor_files.read_file(file),
      tensor_files.read_metadata(file),
    )
    expected = {weight.name: weight.shape for weight in self.weights}
    shapes = {name: tensor.shape for name, tensor in stored.items()}
    for name in sorted(expected.keys() | shapes.keys()):
      if expected.get(name) != shapes.get(name):
        raise errors.UserError(
          f"{file}: {tensor_files.shown(name)}: {_shape(shapes.get(name))}"
          f" found, {_shape(expected.get(name))} expected"
        )
    for name, mark in self.against.items():
      found = about.get(f"{_AGAINST}{name}", "nothing")
      if found != mark:
        raise errors.UserError(
          f"{file}: trained against {name} {found}, {mark} expected: what is"
          " there now is another one"
        )

    def value(entry: layout.Entry, _: None) -> np.ndarray:
      found = np.array(stored[entry.hf_name].view(), np.float32)
      if not np.isfinite(found).all():
        raise errors.UserError(
          f"{file}: {entry.hf_name}: NaN or infinity found, finite weights"
          " expected"
        )
      return found

    return self._tree(value)


def _leaf(entry: layout.Entry, mesh: Mesh) -> jax.ShapeDtypeStruct:
  return layout.abstract_leaf(entry, None, 0, "float32", mesh)


def _at(tree: Tree, path: tuple[str, ...]) -> np.ndarray:
  for name in path:
    tree = tree[name]
  return np.asarray(tree, np.float32)


def _shape(shape: tuple[int, ...] | None) -> str:
  return "no tensor" if shape is None else f"shape {list(shape)}"


def lora_of(trained: Tree) -> Tree:
  """Returns the adapter of what is trained."""
  return trained.lora if isinstance(trained, Trained) else trained


def collections(trained: Tree) -> dict[str, Tree]:
  """Returns the collections of variables that a trained tree gives."""
  if isinstance(trained, Trained):
    return {"lora": trained.lora, "own": trained.own}
  return {"lora": trained}


def prepare(model: "LanguageModel", trained: Tree) -> Tree:
  """Returns the tree as programs read it; see `LanguageModel.prepare`."""
  if isinstance(trained, Trained):
    return trained.replace(lora=model.prepare(trained.lora))
  return model.prepare(trained)
