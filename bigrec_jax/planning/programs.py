"""The programs of generate and ground on abstract arguments.

They are the very functions that those modes call, so what is planned is what
runs; only the arguments are shapes instead of arrays.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from bigrec_jax import config as config_lib
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
  layers = arguments.layer_loops(net)
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
