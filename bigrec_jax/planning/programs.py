"""The programs of train, generate and ground on abstract arguments.

They are the very functions that those modes call, so what is planned is what
runs; only the arguments are shapes instead of arrays.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from bigrec_jax import config as config_lib
from bigrec_jax.data.text import shared_header
from bigrec_jax.decoding import (
  generate as generate_lib,
  lanes,
  program,
  slots as slots_lib,
  stepping,
)
from bigrec_jax.devices import sharding
from bigrec_jax.planning import arguments, compiling, titles as titles_lib
from bigrec_jax.rankers import counting
from bigrec_jax.rankers.distance import distance, ranking, user_block
from bigrec_jax.training import optimizer, state as state_lib, step, trainer

_Lower = Callable[[], jax.stages.Lowered]
_BATCH = ("tokens", "positions", "segment_ids", "loss_mask")


@dataclasses.dataclass(frozen=True)
class TrainShape:
  """Sizes of a micro-batch, and what of a text its rows hold.

  Attributes:
    rows: R.
    length: T.
    chunk: positions of every row whose logits are held at once.
    prefix: P, tokens with which every text begins and that rows lack, because
      a step computes them once (training/header.py); 0 = rows hold whole texts.
    own: tokens of a text that rows hold, on average.
  """

  rows: int
  length: int
  chunk: int
  prefix: int
  own: int


def train_shape(
  config: config_lib.Config, net: arguments.Network, rows: int
) -> TrainShape:
  """Returns the shape of a micro-batch.

  Args:
    config: sections train and plan.
    net: for the rows of a device, and whether its attention knows a prefix.
    rows: R.
  """
  train, length = config.train, config.train.max_length
  own, prefix = min(config.plan.text_tokens, length), 0
  if trainer.shares_header(train, net.model):
    # The last common token stays in the rows (shared_header.py).
    common = min(config.plan.prefix_tokens, own) - 1
    prefix = common if common >= shared_header.LEAST else 0
  own -= prefix
  if not train.packing:
    length = next(
      bucket
      for bucket in sorted({*train.length_buckets, length})
      if bucket >= own
    )
  here = max(1, rows // sharding.batch_size_unit(net.mesh))
  chunk = min(length, max(1, train.loss_chunk // here))
  return TrainShape(rows, length, chunk, prefix, own)


@dataclasses.dataclass(frozen=True)
class HeaderShape:
  """Sizes of the header: its tokens P, positions of a block of logits."""

  prefix: int
  chunk: int


def header_shape(config: config_lib.Config, shape: TrainShape) -> HeaderShape:
  """Returns the shape of what a step computes once for all its texts."""
  chunk = min(config.train.loss_chunk, shape.prefix + 1)
  return HeaderShape(shape.prefix, chunk)


@dataclasses.dataclass(frozen=True)
class Train:
  """Programs of an optimizer step; `header`: its opening and closing, or ()."""

  accumulate: compiling.Program
  apply: compiling.Program
  header: tuple[compiling.Program, ...]


def train(
  net: arguments.Network,
  config: config_lib.Config,
  shape: TrainShape,
  tables: int = 0,
) -> Train:
  """Returns the programs of an optimizer step.

  Args:
    net: the network.
    config: sections train and lora.
    shape: of a micro-batch.
    tables: bytes of a device that the objective's tables take.
  """
  adamw = optimizer.AdamW(config.train.weight_decay, config.train.max_grad_norm)
  steps = step.make_steps(
    net.model,
    adamw,
    net.mesh,
    net.adapter,
    loss_chunk=config.train.loss_chunk,
    dropout_seed=0 if config.lora.dropout else None,
  )
  whole = sharding.replicated(net.mesh)
  scalar = arguments.array((), np.int32, whole)
  rate = arguments.array((), np.float32, whole)
  moments = optimizer.AdamState(mu=net.adapter, nu=net.adapter)
  state = state_lib.TrainState(scalar, net.adapter, moments)
  sums = state_lib.Sums(net.adapter, rate, scalar, scalar)
  rows_split = sharding.batch_sharding(net.mesh)
  one = arguments.array((shape.rows, shape.length), np.int32, rows_split)
  batch = dict.fromkeys(_BATCH, one)
  tokens = arguments.array((shape.prefix + 1,), np.int32, whole)
  header = None
  if shape.prefix:
    opened = jax.eval_shape(steps.open_header, state, net.base, tokens)
    header = arguments.place(opened, whole)
  prefix = header and header.prefix
  trees = dict(moments=moments, sums=sums, base=net.base, prefix=prefix)
  held = {name: arguments.device_bytes(tree) for name, tree in trees.items()}

  def program(
    name: str, lower: _Lower, elsewhere: Sequence[str], loops: Mapping[str, int]
  ) -> compiling.Program:
    # Arguments that a program does not use are dropped, but stay in memory.
    kept = tables + sum(held[one] for one in elsewhere)
    return compiling.Program(f"train: {name}", lower, kept, loops)

  def loops(length: int, chunk: int) -> dict[str, int]:
    return _layer_loops(net) | {"cross_entropy)/while": -(-length // chunk)}

  accumulate = program(
    "accumulate",
    lambda: steps.accumulate.lower(sums, state, net.base, batch, header),
    ["moments"],
    loops(shape.length, shape.chunk),
  )
  apply = program(
    "apply", lambda: steps.apply.lower(state, sums, rate), ["base"], {}
  )
  if header is None:
    return Train(accumulate, apply, ())
  given = (state, net.base, tokens)
  opens = program(
    "open header",
    lambda: steps.open_header.lower(*given),
    ["moments", "sums"],
    _layer_loops(net),
  )
  closes = program(
    "close header",
    lambda: steps.close_header.lower(sums, *given, tokens, header),
    ["moments", "prefix"],
    loops(shape.prefix, header_shape(config, shape).chunk),
  )
  return Train(accumulate, apply, (opens, closes))


def _layer_loops(net: arguments.Network) -> dict[str, int]:
  return {"_run/while": net.model.config.num_hidden_layers}


@dataclasses.dataclass(frozen=True)
class GenerateShape:
  """Sizes of the slots of generate.

  Attributes:
    users: B, all slots.
    group: R, users whose prompts are read at a time.
    prompt: S, tokens of a prompt without the shared prefix.
    prefix: P, tokens of the shared prefix.
    beams: W.
    steps: U, written tokens of a beam that the cache holds.
  """

  users: int
  group: int
  prompt: int
  prefix: int
  beams: int
  steps: int


def generate_shape(config: config_lib.Config, mesh: Mesh) -> GenerateShape:
  """Returns the sizes for prompts of average length.

  Args:
    config: sections generate and plan.
    mesh: over which users are split.
  """
  own, plan = config.generate, config.plan
  prefix = plan.prefix_tokens
  prefix -= prefix % generate_lib.PREFIX_BLOCK
  return GenerateShape(
    users=own.batch_size,
    group=lanes.group_of(own.batch_size, mesh),
    prompt=lanes.bucket_of(plan.text_tokens - prefix, own.prompt_buckets),
    prefix=prefix,
    beams=own.num_beams,
    steps=max(own.max_new_tokens - 1, 1),
  )


def decode_turns(config: config_lib.Config) -> int:
  """Returns how often a user's beams are fed back."""
  most = min(config.plan.new_tokens, config.generate.max_new_tokens)
  return max(most - 1, 1)


def generate(
  net: arguments.Network,
  config: config_lib.Config,
  titles: titles_lib.Titles = titles_lib.NONE,
) -> tuple[compiling.Program, compiling.Program]:
  """Returns the programs of generate: a group's prompts, all slots' tokens.

  Args:
    net: the network.
    config: sections generate and plan.
    titles: what may be written.
  """
  shape = generate_shape(config, net.mesh)
  eos, mesh = net.model.config.eos_token_ids, net.mesh
  settings = program.settings_of(config.generate, eos, titles.trie)
  # No title is longer than the trie is deep.
  most = settings.search.max_new_tokens
  shape = dataclasses.replace(shape, steps=max(most - 1, 1))
  whole, trie = sharding.replicated(mesh), titles.abstract(mesh)
  split = sharding.batch_sharding(mesh)

  def rows(dtype: Any, *more: int) -> Any:
    return arguments.array((shape.group, *more), dtype, split)

  norm = rows(np.float32, most)
  batch = program.Batch(
    tokens=rows(np.int32, shape.prompt),
    lengths=rows(np.int32),
    numbers=rows(np.int32),
    active=rows(np.bool_),
    norms=stepping.LengthNorms(norm, norm),
    log_masses=rows(np.float32, titles.ranges) if titles.ranges else None,
  )
  common = (net.model, settings, {"params": net.base, "lora": net.adapter})
  prefix = arguments.prefix(net, shape.prefix)
  given = (batch, arguments.array((), np.uint32, whole), prefix)
  slots = _slots(net, shape, lambda: program.read(*common, *given, trie))
  wanted = arguments.array((), np.int32, whole)
  layers = _layer_loops(net)
  return (
    compiling.Program(
      "generate: read",
      lambda: program.read.lower(*common, *given, trie),
      arguments.device_bytes(slots),
      layers,
    ),
    compiling.Program(
      "generate: advance",
      lambda: program.advance.lower(*common, slots, wanted, prefix, trie),
      0,
      # The layers' loop first: it also lies inside the loop over steps.
      layers | {"while": decode_turns(config)},
    ),
  )


def _slots(
  net: arguments.Network, shape: GenerateShape, read: Callable[[], Any]
) -> slots_lib.Slots:
  """Returns the slots, with the largest cache of what beams write.

  Args:
    net: the network.
    shape: sizes.
    read: gives a group of users, traced only.
  """

  def empty() -> slots_lib.Slots:
    sizes = (shape.users, shape.beams, shape.beams, shape.steps, net.mesh)
    return slots_lib.empty(read(), *sizes)

  def placed(x: jax.ShapeDtypeStruct, axes: Any) -> jax.ShapeDtypeStruct:
    spec = sharding.activation_spec(net.mesh, axes.names, axes.units)
    return arguments.array(x.shape, x.dtype, NamedSharding(net.mesh, spec))

  slots = jax.eval_shape(empty)
  return jax.tree.map(placed, slots, slots_lib.axes(slots))


@dataclasses.dataclass(frozen=True)
class GroundShape:
  """Sizes of a block: users B, width D, and the layout of the items."""

  users: int
  width: int
  layout: counting.ItemLayout


def ground_shape(
  config: config_lib.Config, items: int, width: int, mesh: Mesh
) -> GroundShape:
  """Returns the shape of a block of users.

  Args:
    config: sections ground and data.
    items: I.
    width: D.
    mesh: over which the items are split.
  """
  layout = counting.item_layout(items, mesh, items)
  own = config.ground
  # As many users as grounding.evaluate takes.
  fit = own.batch_size * own.block_items // layout.rows
  return GroundShape(max(1, min(own.batch_size, fit)), width, layout)


def ground(
  shape: GroundShape, mesh: Mesh
) -> tuple[compiling.Program, compiling.Program]:
  """Returns the programs of a block of users: distances, and counting.

  Args:
    shape: sizes.
    mesh: over which the items are split.
  """
  layout, whole = shape.layout, sharding.replicated(mesh)

  def per_item(dtype: Any, *more: int) -> Any:
    return arguments.over_items((layout.padded, *more), dtype, mesh)

  items = distance.Items(
    vectors=per_item(np.float32, shape.width),
    norms=per_item(np.float32),
    twins=per_item(np.int32),
    groups=per_item(np.int32),
  )

  def per_user(dtype: Any, *more: int) -> Any:
    return arguments.array((shape.users, *more), dtype, whole)

  squared = arguments.over_items(
    (shape.users, layout.padded), jnp.float32, mesh, axis=1
  )
  block = distance.Block(squared, per_user(np.float32))
  target = ranking.Target(
    distance=per_user(np.float32),
    gap=per_user(np.float32),
    twin=per_user(np.int32),
    group=per_user(np.int32),
  )
  common = {"layout": layout, "mesh": mesh}
  return (
    compiling.Program(
      "ground: distances",
      lambda: distance.block.lower(
        per_user(np.float32, shape.width),
        arguments.array((shape.width,), np.float32, whole),
        items,
        near=min(user_block.NEAR, layout.num_items),
        **common,
      ),
      0,
      {},
    ),
    compiling.Program(
      "ground: counting",
      lambda: ranking.plain_counts.lower(
        block, target, items, width=shape.width, **common
      ),
      arguments.device_bytes(items.vectors),
      {},
    ),
  )
