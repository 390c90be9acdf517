"""What a workdir holds, in memory: data, tokenizer, weights, each loaded once.

Nothing here makes or writes an artefact; the stages do. JAX and the networks
are imported where they are used: that takes seconds, and to find that all is
current, or to prepare data, needs neither.
"""

import dataclasses
import functools
import itertools
import pathlib
from typing import TYPE_CHECKING, Any

from absl import logging

from bigrec_jax import config as config_lib, errors
from bigrec_jax.data.prepared import (
  catalogue as catalogue_lib,
  editions,
  examples,
  manifest as manifest_lib,
)
from bigrec_jax.data.text import prompts, tokenization
from bigrec_jax.recommend import converted_base, gguf_base
from bigrec_jax.results import clusters
from bigrec_jax.tasks import protocol, registry
from bigrec_jax.workdir import (
  fingerprints,
  given_models,
  ledger as ledger_lib,
  origins,
  paths as paths_lib,
)

if TYPE_CHECKING:
  import jax
  import numpy as np

  from bigrec_jax import models
  from bigrec_jax.data.text import chat

WEIGHTS = "*.safetensors"


@dataclasses.dataclass(frozen=True)
class Base:
  """The frozen base on the mesh.

  Attributes:
    model: the Flax module without adapters.
    params: its variables, sharded, maybe quantised, as programs read them
      (`LanguageModel.prepare`): a second arrangement would be twice the memory.
    fingerprint: names the weights, their precision and the tokenizer.
  """

  model: "models.LanguageModel"
  params: Any
  fingerprint: str


class Loaded:
  """One configuration on one workdir; loads each thing once, on first use.

  Attributes:
    config: the whole of it.
    paths: of the workdir.
    ledger: names files outside the workdir by what they hold.
    keeps_conversions: a base that had to be converted may be written to the
      workdir, so that the next start is faster; else nothing is.
    lists_editions: lists have what was added to the catalogue later, and not
      what was withdrawn; an evaluation knows the prepared items alone.
  """

  keeps_conversions = False
  lists_editions = True

  def __init__(self, config: config_lib.Config, workdir: pathlib.Path):
    self.config = config
    self.paths = paths_lib.Paths(workdir)
    self.ledger = ledger_lib.Ledger(self.paths)
    self._examples: dict[str, examples.Examples] = {}

  @functools.cached_property
  def task(self) -> protocol.Task:
    """What samples, texts, loss and evaluation are."""
    return registry.make(self)

  @functools.cached_property
  def mesh(self) -> "jax.sharding.Mesh":
    """All devices as (data, fsdp, tensor)."""
    import jax

    from bigrec_jax.devices import sharding

    mesh = sharding.make_mesh(self.config.mesh)
    logging.info("mesh %s on %s", dict(mesh.shape), jax.devices()[0].platform)
    return mesh

  @functools.cached_property
  def manifest(self) -> manifest_lib.Manifest:
    """Counts and fingerprints of the prepared data."""
    return manifest_lib.read(self.paths.manifest)

  @functools.cached_property
  def catalogue(self) -> catalogue_lib.Catalogue:
    """The prepared catalogue."""
    return catalogue_lib.load(self.paths)

  @functools.cached_property
  def edition(self) -> editions.Edition:
    """What was added to the prepared catalogue, and withdrawn from it."""
    prepared = self.catalogue.fingerprint
    if not self.lists_editions:
      return editions.Edition(0, 0, prepared)
    return editions.Store(self.paths, prepared).current()

  @functools.cached_property
  def offered(self) -> catalogue_lib.Catalogue:
    """The catalogue that lists are made of: the prepared one, and additions.

    Data, training and evaluation know the prepared one alone.
    """
    return self.edition.offered(self.catalogue)

  def offer(
    self, edition: editions.Edition, offered: catalogue_lib.Catalogue
  ) -> None:
    """Makes lists be of another edition, and its items, from now on."""
    self.__dict__.update(edition=edition, offered=offered)

  def examples(self, split: str) -> examples.Examples:
    """The rows of a split that this configuration uses."""
    if split not in self._examples:
      data = self.config.data
      count = getattr(data, f"num_{split}")
      seed = self.config.seed if split == "train" else data.sample_seed
      self._examples[split] = examples.load_examples(
        self.paths, split, count, seed
      )
    return self._examples[split]

  def users(self, split: str) -> clusters.Clusters | None:
    """Whose rows those are; None where each is a user's only one."""
    return clusters.of_owners(self.examples(split).owners)

  @functools.cached_property
  def prompt(self) -> prompts.Prompt:
    """The prompt of this configuration."""
    chat = self._chat
    return prompts.Prompt.from_config(
      self.config.prompt, chat.prompt if chat else None
    )

  @functools.cached_property
  def _chat(self) -> "chat.Chat | None":
    """The base's chat template, where prompts are chats."""
    if self.config.prompt.style != "chat":
      return None
    if not self.config.model.path:
      raise errors.UserError(
        "config.prompt.style: 'chat' found, but config.model.path is empty, an"
        " instruct model expected there"
      )
    from bigrec_jax.data.text import chat

    return chat.Chat(self.tokenizer_dir, self.tokenizer)

  @functools.cached_property
  def base_dir(self) -> pathlib.Path:
    """The Hugging Face directory of the base; a GGUF file is made into one.

    Of several processes all must come here together the first time.
    """
    model = self.config.model
    if model.is_gguf:
      # Where there is nothing, whoever only reads finds no base there.
      make = gguf_base.directory if self.keeps_conversions else gguf_base.place
      store = self.paths.converted_gguf
      return make(pathlib.Path(model.path), model.dtype, store)
    return pathlib.Path(model.path or self.paths.base)

  @property
  def base_origin(self) -> dict[str, Any] | None:
    """What the base was made from, where it is a copy of another format."""
    return origins.read(self.base_dir)

  @property
  def tokenizer_dir(self) -> pathlib.Path:
    """The directory of the tokenizer."""
    return pathlib.Path(self.config.model.tokenizer or self.base_dir)

  @functools.cached_property
  def tokenizer(self) -> tokenization.Tokenizer:
    """The base's tokenizer."""
    found = tokenization.load_tokenizer(self.tokenizer_dir, self.base_dir)
    words = self.config.prompt
    found.special.mean(words.instruction, words.history)
    if self.paths.catalogue.exists():
      odd = [t for t in self.catalogue.titles if found.special.found(t)]
      if odd:
        logging.info(
          "%d titles have text that is a special token to the tokenizer, e.g."
          " %r; in them it is encoded as plain text",
          len(odd),
          odd[0],
        )
    return found

  @property
  def base_fingerprint(self) -> str:
    """Names weights, precision and tokenizer."""
    model = self.config.model
    return self.base_fingerprints[model.dtype, model.quantization]

  @functools.cached_property
  def base_fingerprints(self) -> dict[tuple[str, str], str]:
    """The base's fingerprint in every (dtype, quantization)."""
    # The workdir's own base has a record, which says what its files hold.
    is_given = bool(self.config.model.path)
    name = self.ledger.of_folder if is_given else fingerprints.of_folder
    own = {
      "config": name(self.base_dir, "config.json"),
      "weights": name(self.base_dir, WEIGHTS),
      "tokenizer": self.tokenizer.fingerprint,
      **({"chat": self._chat.fingerprint} if self._chat else {}),
    }
    kinds = itertools.product(config_lib.DTYPES, config_lib.QUANTIZATIONS)
    return {
      (dtype, quantization): fingerprints.of_value(
        own | {"dtype": dtype, "quantization": quantization}
      )
      for dtype, quantization in kinds
    }

  @functools.cached_property
  def base(self) -> Base:
    """The base model and its weights on the mesh."""
    from bigrec_jax import models

    config = self.config.model
    arch, params = converted_base.load(
      self.base_dir,
      config,
      self.mesh,
      self.paths.converted_base,
      self.base_fingerprint,
      keep=self.keeps_conversions,
    )
    model = models.build(arch, config, None, self.mesh)
    return Base(model, model.prepare(params), self.base_fingerprint)

  @property
  def has_own_encoder(self) -> bool:
    """Whether titles are embedded by another model than the base."""
    return bool(self.config.embed.model.path)

  def check_encoder(self) -> None:
    """Raises UserError where `embed.model.path` names no folder."""
    path = self.config.embed.model.path
    given_models.check_base(path, "config.embed.model.path")

  @functools.cached_property
  def encoder_fingerprint(self) -> str:
    """Names what the title embeddings depend on, beside the titles."""
    if not self.has_own_encoder:
      return self.base_fingerprint
    self.check_encoder()
    model = self.config.model
    return fingerprints.of_value(
      {
        "files": self._files(pathlib.Path(self.config.embed.model.path)),
        "dtype": model.dtype,
        "quantization": model.quantization,
      }
    )

  @property
  def encoder_inputs(self) -> dict[str, str]:
    """What a record of a result says of the encoder, beside its base."""
    if not self.has_own_encoder:
      return {}
    return {"encoder": self.encoder_fingerprint}

  @functools.cached_property
  def encoder(self) -> "models.TextEncoder":
    """What turns titles and queries into vectors: the base, or another."""
    from bigrec_jax.models import encoders, last_state

    config, name = self.config, self.encoder_fingerprint
    size = config.embed.batch_size
    if self.has_own_encoder:
      path = config.embed.model.path
      return encoders.load(path, config.model, size, self.mesh, name)
    base = self.base
    return last_state.LastState(
      base.model, base.params, self.tokenizer, size, self.mesh, name
    )

  def load_adapter(
    self, directory: pathlib.Path, *, start: bool = False
  ) -> tuple[config_lib.LoraConfig, Any]:
    """Returns the settings and weights of a PEFT adapter of this base.

    Where the task has weights of its own, they come with it
    (`own_weights.Trained`).

    Args:
      directory: of the adapter.
      start: training starts from it, so its own weights may be missing.
    """
    from bigrec_jax.models import own_weights, peft_import

    arch = self.base.model.config
    settings, lora = peft_import.load_adapter(
      directory, arch, self.config.model.scan_layers
    )
    own = self.task.own_weights(arch)
    if own is None or start and not (directory / own_weights.FILE).exists():
      return settings, lora
    return settings, own_weights.Trained(lora, own.read(directory))

  def cf_item_vectors(self, model: str) -> "np.ndarray":
    """Returns the item embeddings of a CF model, [I, E] float32."""
    from bigrec_jax.recommend import cf_scorer

    return cf_scorer.item_vectors(self, model)

  def build(self, lora: config_lib.LoraConfig | None) -> "models.LanguageModel":
    """Returns the base's network with an adapter's places in it."""
    from bigrec_jax import models

    return models.build(
      self.base.model.config, self.config.model, lora, self.mesh
    )

  def network(self, model: "models.LanguageModel") -> protocol.Network:
    """Returns the base with a network of its own, such as `build` makes."""
    return protocol.Network(
      model, self.base.params, self.tokenizer, self.mesh, self.tokenizer_dir
    )

  def adapter_fingerprint(self, directory: pathlib.Path) -> str:
    """Returns what names the content of a PEFT directory."""
    own = paths_lib.real(directory) == paths_lib.real(self.paths.adapter)
    name = fingerprints.of_folder if own else self.ledger.of_folder
    return name(directory, "adapter_*")

  def _files(self, directory: pathlib.Path) -> dict[str, list[str]]:
    """Returns fingerprints of an encoder's files, by folder and kind."""
    folders = [p for p in directory.iterdir() if p.is_dir()]
    kinds = ("*.json", WEIGHTS, "*.model", "vocab.txt")
    return {
      str(folder.relative_to(directory)): [
        self.ledger.of_folder(folder, kind) for kind in kinds
      ]
      for folder in [directory, *sorted(folders)]
    }
