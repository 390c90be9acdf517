"""The programs of a job, small, on one mesh: what they give as plain arrays."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from bigrec_jax import progress
from bigrec_jax.data.text import pipeline
from bigrec_jax.decoding import generate
from bigrec_jax.devices import sharding
from bigrec_jax.models import last_state
from bigrec_jax.rankers import evaluate, grounder
from bigrec_jax.selfcheck import world as world_lib
from bigrec_jax.training import optimizer, step

Arrays = dict[str, np.ndarray]
# Differences allowed, of the larger of 1 and the value; 0 = the same.
SAME, SIMPLE, COMPOSITE = 0.0, 1e-5, 1e-4
# Of bfloat16, whose steps are 2^-8: sums in another order round differently.
ROUGH = 5e-3
_LISTED = 10


@dataclasses.dataclass(frozen=True)
class Check:
  """One part of a job.

  Attributes:
    name: for the table.
    run: gives arrays by name.
    tolerances: of each array.
    everywhere: on every mesh; else on the last alone.
  """

  name: str
  run: Callable[[world_lib.World, Mesh], Arrays]
  tolerances: Mapping[str, float]
  everywhere: bool = True


def collectives(world: world_lib.World, mesh: Mesh) -> Arrays:
  """Sums and gathers of whole numbers, each as many as there are devices.

  What they must be is known, so the arrays are how far they are from it.
  """
  del world
  axes = mesh.axis_names
  own = np.arange(mesh.size * 128, dtype=np.int32)
  rows = sharding.spec_for(sharding.Axes(("items",), (len(own),)), mesh)

  def body(part: jax.Array) -> tuple[jax.Array, jax.Array]:
    total = jax.lax.psum(jnp.sum(part), axes)
    return total, jax.lax.all_gather(part, axes, tiled=True)

  placed = jax.make_array_from_callback(
    own.shape, jax.NamedSharding(mesh, rows), lambda index: own[index]
  )
  run = jax.shard_map(
    body,
    mesh=mesh,
    in_specs=PartitionSpec(axes),
    out_specs=(PartitionSpec(), PartitionSpec()),
    check_vma=False,
  )
  total, gathered = jax.jit(run)(placed)
  return {
    "sum": sharding.to_host(total) - own.sum(dtype=np.int32),
    "gather": np.abs(sharding.to_host(gathered) - own).max(),
  }


def training(dtype: str, quantization: str) -> Callable[..., Arrays]:
  """Returns the LoRA steps on a base of some precision."""

  def run(world: world_lib.World, mesh: Mesh) -> Arrays:
    config = world.config.train
    model = world.model(mesh, dtype, adapted=True)
    base = world.base(mesh, dtype, quantization)
    adapter = world.adapter(mesh, fresh=True)
    stream = pipeline.TrainStream(
      world.train_source(),
      world.tokenizer,
      config,
      rows=config.micro_batch_size,
      seed=world.config.seed,
      share_header=config.share_header,
      **world_lib.row_shard(mesh),
    )
    steps = step.make_steps(
      model,
      optimizer.AdamW(config.weight_decay, config.max_grad_norm),
      mesh,
      adapter,
      loss_chunk=config.loss_chunk,
      dropout_seed=world.config.seed,
    )
    state, sums = steps.init(adapter)
    rate = world_lib.replicated_rate(mesh, config)
    losses, norms = [], []
    for batches in stream:
      sums = steps.add_up(sums, state, base, batches)
      state, sums, metrics = steps.apply(state, sums, rate)
      losses.append(sharding.to_host(metrics["loss"]))
      norms.append(sharding.to_host(metrics["grad_norm"]))
    return {"losses": np.stack(losses), "grad_norms": np.stack(norms)}

  return run


def beams(*, constrained: bool) -> Callable[..., Arrays]:
  """Returns beam search over any text, or over the store's titles."""

  def run(world: world_lib.World, mesh: Mesh) -> Arrays:
    found = generate.generate(
      world.model(mesh, "float32", adapted=True),
      world.base(mesh, "float32", "none"),
      world.adapter(mesh, fresh=False),
      world.prompt_tokens(),
      world.config.generate,
      (world.tokenizer.eos_id,),
      mesh,
      seed=world.config.seed,
      norm_lengths=None,
      trie=world.trie() if constrained else None,
      progress=progress.NullProgress(),
    )
    longest = world.config.generate.max_new_tokens
    texts = np.full((*found.scores.shape, longest), -1, np.int32)
    for row, hypotheses in enumerate(found.tokens):
      for beam, tokens in enumerate(hypotheses):
        texts[row, beam, : len(tokens)] = tokens
    return {"texts": texts, "scores": found.scores}

  return run


def embeddings(world: world_lib.World, mesh: Mesh) -> Arrays:
  """The titles' vectors by the base."""
  vectors = last_state.embed_texts(
    world.model(mesh, "float32", adapted=False),
    world.base(mesh, "float32", "none"),
    world.title_tokens(),
    world.config.generate.batch_size,
    mesh,
    progress.NullProgress(),
  )
  return {"vectors": vectors}


def ranks(world: world_lib.World, mesh: Mesh) -> Arrays:
  """Every user's ranks, without injection and with each, on both splits."""
  own, half = world.ranking, len(world.ranking.targets) // 2
  splits = {
    name: evaluate.Split(
      own.queries[part], own.targets[part], own.cf_scores[part], "CF"
    )
    for name, part in (
      ("valid", slice(None, half)),
      ("test", slice(half, None)),
    )
  }
  found = evaluate.evaluate(
    splits,
    own.items,
    own.groups,
    own.popularity,
    world.config.ground,
    mesh,
    seed=world.config.seed,
    progress=progress.NullProgress(),
  )
  kept = {
    f"{split} {name}": values
    for split, arrays in found.ranks.items()
    for name, values in arrays.items()
  }
  order = sorted(kept)
  return {"ranks": np.concatenate([kept[name].ravel() for name in order])}


def lists(world: world_lib.World, mesh: Mesh) -> Arrays:
  """Every user's first items with popularity and CF injected."""
  own = world.ranking
  make = grounder.Grounder(
    own.items,
    own.groups,
    own.popularity,
    {"popularity": 0.5, "cf": 1.0},
    world.config.ground,
    mesh,
    most_users=len(own.queries),
  )
  hidden = own.targets[:, None].astype(np.int32)
  found = make(own.queries, hidden, lambda part: own.cf_scores[part], _LISTED)
  return {"items": found.items, "scores": found.scores}


CHECKS = (
  Check("collectives", collectives, {"sum": SAME, "gather": SAME}),
  Check(
    "train float32",
    training("float32", "none"),
    {"losses": SIMPLE, "grad_norms": COMPOSITE},
  ),
  Check(
    "train int8 + bfloat16",
    training("bfloat16", "int8"),
    {"losses": ROUGH},
    everywhere=False,
  ),
  Check(
    "beams", beams(constrained=False), {"texts": SAME, "scores": COMPOSITE}
  ),
  Check(
    "constrained beams",
    beams(constrained=True),
    {"texts": SAME, "scores": COMPOSITE},
  ),
  Check("embeddings", embeddings, {"vectors": COMPOSITE}),
  Check("ranks", ranks, {"ranks": SAME}),
  Check("lists", lists, {"items": SAME, "scores": SIMPLE}),
)
