"""What is computed with: made up from fixed seeds, the same on every machine.

Nothing is drawn by JAX, so that nothing depends on its devices.
"""

import dataclasses
import functools
import math
import pathlib
import tempfile
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from bigrec_jax import config as config_lib, models
from bigrec_jax.data.text import pipeline, prompts, tokenization
from bigrec_jax.decoding import constraints
from bigrec_jax.devices import sharding
from bigrec_jax.models import hf_import, lora as lora_lib, quantize
from bigrec_jax.tasks import next_title
from bigrec_jax.testing import store

Tree = Any

STEPS = 20
# 8 key heads: all of a tensor axis of up to 8 devices have work.
_ARCH = config_lib.ArchConfig(
  hidden_size=64,
  intermediate_size=96,
  num_hidden_layers=2,
  num_attention_heads=16,
  num_key_value_heads=8,
  max_position_embeddings=512,
  rope_theta=10000.0,
  rms_norm_eps=1e-5,
  tie_word_embeddings=False,
)
_LORA = config_lib.LoraConfig(4, 8.0, 0.1, ("q_proj", "v_proj", "down_proj"))
_FEWEST_ROWS = 8
_ITEMS, _WIDTH, _USERS = 211, 24, 40


@dataclasses.dataclass(frozen=True, eq=False)
class Ranking:
  """Users and items whose ranks are counted, all on the host.

  Attributes:
    items: [I, D] float32.
    groups: [I] int32, rows of one title.
    popularity: [I] counts.
    queries: [N, D] float32, near an item each.
    targets: [N] catalogue rows.
    cf_scores: [N, I] float32.
  """

  items: np.ndarray
  groups: np.ndarray
  popularity: np.ndarray
  queries: np.ndarray
  targets: np.ndarray
  cf_scores: np.ndarray


class World:
  """A tiny LLaMA, its adapter, a store's texts, and a catalogue to rank.

  Attributes:
    config: of the program, with the sizes of the check.
    arch: shape of the network.
    lora_config: of the adapter.
    tokenizer: trained on the store's texts.
  """

  def __init__(self, config: config_lib.Config, devices: int):
    """Makes the world; a second of work.

    Args:
      config: any; the check has its own sizes.
      devices: the most of a mesh: batches are multiples of it.
    """
    rows = devices * math.ceil(_FEWEST_ROWS / devices)
    self.config = _sized(config, rows)
    self.lora_config = _LORA
    with tempfile.TemporaryDirectory() as folder:
      # Of its own: several processes may do so at once.
      self.tokenizer: tokenization.Tokenizer = store.tokenizer(
        pathlib.Path(folder) / "tokenizer"
      )
    self.arch = models.from_arch(_ARCH, self.tokenizer.vocab_size)

  def train_source(self) -> next_title.Titles:
    """Returns the samples of the training steps."""
    return store.source("train", STEPS * self.config.train.batch_size, 0)

  def prompt_tokens(self) -> list[list[int]]:
    """Returns what is decoded: a few rows more than a batch."""
    source = store.source("test", self.config.generate.batch_size + 3, 1)
    return pipeline.question_tokens(source, self.tokenizer)

  def title_tokens(self) -> list[list[int]]:
    """Returns the store's titles, as they are embedded."""
    return self.tokenizer.encode_batch(list(store.catalogue().titles))

  def trie(self) -> constraints.Trie:
    """Returns the titles that constrained beams may write."""
    written = [
      store.PROMPT.output_text(title) for title in store.catalogue().titles
    ]
    encoded = constraints.title_tokens(
      written,
      prompts.RESPONSE_MARKER,
      self.tokenizer.encode_batch,
      self.tokenizer.decode,
      self.tokenizer.eos_id,
    )
    return constraints.build_trie(*encoded)

  @functools.cached_property
  def ranking(self) -> Ranking:
    """The catalogue with repeated titles, and its users."""
    rng = np.random.default_rng(3)
    items = rng.normal(size=(_ITEMS, _WIDTH)).astype(np.float32)
    groups = np.arange(_ITEMS, dtype=np.int32)
    groups[-5:] = groups[:5]
    items[-5:] = items[:5]
    targets = rng.integers(0, _ITEMS, _USERS).astype(np.int32)
    near = rng.normal(size=(_USERS, _WIDTH)) * rng.uniform(0, 2, (_USERS, 1))
    return Ranking(
      items,
      groups,
      rng.zipf(1.5, _ITEMS).clip(max=10_000),
      (items[targets] + near).astype(np.float32),
      targets,
      rng.normal(size=(_USERS, _ITEMS)).astype(np.float32),
    )

  def model(
    self, mesh: Mesh, dtype: str, *, adapted: bool
  ) -> models.LanguageModel:
    """Returns the network on a mesh, with places for an adapter or without."""
    config = dataclasses.replace(self.config.model, dtype=dtype)
    return models.build(
      self.arch, config, self.lora_config if adapted else None, mesh
    )

  def base(self, mesh: Mesh, dtype: str, quantization: str) -> Tree:
    """Returns the base's weights on a mesh."""
    like = hf_import.abstract_base(self.arch, dtype, mesh, True, quantization)
    plain = _drawn(
      hf_import.abstract_base(self.arch, "float32", mesh), 0.1, seed=1
    )
    host = jax.tree.map(
      lambda wanted, weight: (
        quantize.quantize(weight, quantization)
        if quantize.is_quantized(wanted)
        else weight.astype(wanted.dtype)
      ),
      like,
      plain,
      is_leaf=quantize.is_quantized,
    )
    return _place(host, like)

  def adapter(self, mesh: Mesh, *, fresh: bool) -> Tree:
    """Returns an adapter on a mesh; a fresh one leaves the base as it is."""
    like = lora_lib.abstract(self.arch, self.lora_config, mesh)
    host = _drawn(like, 0.2, seed=2)
    if fresh:
      host = jax.tree_util.tree_map_with_path(
        lambda path, x: 0 * x if path[-1].key == "lora_b" else x, host
      )
    return _place(host, like)


def _sized(config: config_lib.Config, rows: int) -> config_lib.Config:
  """Returns the configuration with everything small and exact."""
  replace = dataclasses.replace
  return replace(
    config,
    model=replace(
      config.model,
      path="",
      dtype="float32",
      quantization="none",
      scan_layers=True,
      remat="none",
      attention="xla",
    ),
    train=replace(
      config.train,
      batch_size=2 * rows,
      micro_batch_size=rows,
      num_epochs=1,
      learning_rate=3e-3,
      max_length=256,
      train_on_inputs=True,
      shuffle=True,
      packing=True,
      share_header=True,
      loss_chunk=64,
      max_grad_norm=1.0,
      weight_decay=0.0,
      objective="language_model",
      temperature=1.0,
      adaptive_temperature=False,
    ),
    generate=replace(
      config.generate,
      batch_size=rows,
      num_beams=3,
      max_new_tokens=24,
      length_penalty=1.0,
      early_stopping=False,
      length_norm_includes_prompt=False,
      lookahead=2,  # Of the constrained beams.
      prior="",
      sample=False,
      prompt_buckets=(64,),
    ),
    ground=replace(
      config.ground,
      cutoffs=(1, 10, 20),
      duplicates="best",
      gamma_grid="0,0.5,1,4",
      injections=("none", "popularity", "cf", "popularity+cf"),
      protocols=("bigrec", "single_gamma"),
      batch_size=16,
      block_items=64,
      bootstrap_samples=2,
      permutations=2,
    ),
  )


def _drawn(like: Tree, scale: float, seed: int) -> Tree:
  """Returns numpy weights: norms of one, all else normal."""
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    if path[-1].key == "scale":
      return np.ones(leaf.shape, np.float32)
    return (scale * rng.normal(size=leaf.shape)).astype(np.float32)

  return jax.tree_util.tree_map_with_path(draw, like)


def _place(host: Tree, like: Tree) -> Tree:
  """Puts arrays that every process holds whole where they belong."""

  def place(value, leaf):
    value = np.asarray(value)
    return jax.make_array_from_callback(
      leaf.shape, leaf.sharding, lambda index: value[index]
    )

  return jax.tree.map(place, host, like)


def row_shard(mesh: Mesh) -> dict[str, Any]:
  """Returns which rows of a batch this process gives to a mesh."""
  owners = {device.process_index for device in mesh.devices.flat}
  if len(owners) == 1:
    return {"shard_index": 0, "shard_count": 1}
  return {
    "shard_index": jax.process_index(),
    "shard_count": jax.process_count(),
  }


def replicated_rate(mesh: Mesh, config: config_lib.TrainConfig) -> jax.Array:
  """Returns the learning rate of every step, on a mesh."""
  return sharding.put_replicated(mesh, np.float32(config.learning_rate))
