"""What a system of the literature is to the rest of the program.

A `Task` says what a sample is, how it reads, what is minimised, what decides
which epoch is best, and how the tuned model is judged. Training, decoding and
the modes know nothing else of it; one file of this folder is one task.
"""

import abc
import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from bigrec_jax import config as config_lib, errors
from bigrec_jax.data.prepared import (
  catalogue as catalogue_lib,
  examples as examples_lib,
  manifest as manifest_lib,
)
from bigrec_jax.data.text import prompts, source, tokenization
from bigrec_jax.workdir import parts as parts_lib, paths as paths_lib

# Tasks are found before anything heavy is needed.
if TYPE_CHECKING:
  from jax.sharding import Mesh

  from bigrec_jax.models import Architecture, LanguageModel, own_weights
  from bigrec_jax.results import rows
  from bigrec_jax.training import objective, selection

SPLITS = ("valid", "test")


class Store(Protocol):
  """What a task may read of a workdir; `recommend.loaded.Loaded` is one."""

  config: config_lib.Config
  paths: paths_lib.Paths

  @property
  def manifest(self) -> manifest_lib.Manifest:
    """Counts and fingerprints of the prepared data."""
    ...

  @property
  def catalogue(self) -> catalogue_lib.Catalogue:
    """The prepared catalogue."""
    ...

  @property
  def prompt(self) -> prompts.Prompt:
    """The prompt of the configuration."""
    ...

  @property
  def tokenizer(self) -> tokenization.Tokenizer:
    """The base's tokenizer."""
    ...

  @property
  def tokenizer_dir(self) -> pathlib.Path:
    """The directory of the tokenizer, and of a chat template if it has one."""
    ...

  @property
  def mesh(self) -> "Mesh":
    """All devices."""
    ...

  def cf_item_vectors(self, model: str) -> np.ndarray:
    """The item embeddings of a CF model that was trained, [I, E] float32."""
    ...

  def examples(self, split: str) -> examples_lib.Examples:
    """The prepared rows of a split that the configuration uses."""
    ...


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
  """A base on the mesh with room for an adapter.

  Attributes:
    model: the language model.
    params: the frozen base.
    tokenizer: of the base.
    mesh: of `params`.
    directory: of the tokenizer, with a chat template if it has one; None where
      nobody asks for it.
  """

  model: "LanguageModel"
  params: Any
  tokenizer: tokenization.Tokenizer
  mesh: "Mesh"
  directory: pathlib.Path | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Tuned:
  """A network and the adapter that training kept; None = nothing is trained."""

  network: Network
  adapter: Any

  @property
  def without_adapter(self) -> "Tuned":
    """The network as if nothing had been trained: weights of 0 are no adapter.

    They lie where the adapter's do, whose own no single process of several can
    read.
    """
    import jax
    import jax.numpy as jnp

    return Tuned(self.network, jax.tree.map(jnp.zeros_like, self.adapter))


class Item(Protocol):
  """An item of a recommender's list."""

  @property
  def external_id(self) -> str:
    """The user's own id of it."""
    ...

  @property
  def title(self) -> str:
    """As the user gave it."""
    ...


class Recommends(Protocol):
  """Histories to lists; `recommend.recommender.Recommender` is one."""

  def __call__(
    self,
    histories: Sequence[Sequence[str | int]],
    k: int,
    *,
    exclude_history: bool,
    unknown: str,
  ) -> Sequence[Sequence[Item]]:
    """Returns at most k items for each history of ids or titles."""
    ...


@dataclasses.dataclass(frozen=True, eq=False)
class Evidence:
  """What an evaluation may look at; each is made when first asked for.

  Attributes:
    tuned: loads the tuned model.
    untuned: loads a model without an adapter: by its path, or the base ("").
    recommender: loads what makes the lists of the workdir.
    predictions: split -> the rows of its predictions file, for tasks that
      decode.
    progress: (name, total, unit) -> a context that is told what is done.
    parts: what of this very evaluation was finished before a kill, and where
      more goes.
  """

  tuned: Callable[[], Tuned]
  untuned: Callable[[str], Network]
  recommender: Callable[[], Recommends]
  predictions: Callable[[str], Sequence[Mapping[str, Any]]]
  progress: Callable[[str, int, str], Any]
  parts: parts_lib.Parts


class Task(abc.ABC):
  """One system; the defaults are those of a plain language model.

  Attributes:
    name: of `config.task.name` and of `metrics/<name>.json`.
    needs_ratings: the prepared data must have ratings.
    decodes: answers are written by beam search or sampling, so that
      `predictions/{valid,test}.json` exist for it.
    grounds: answers are grounded to items, by `ground_eval` in place of
      `evaluate`.
    recommends: lists for anybody's history are made of what it wrote, as
      `ground_eval` found best; of a task that grounds, and of one whose
      evaluation asks for such lists.
    computes: its evaluation runs programs beside decoding and grounding.
    objectives: what `train.objective` may name.
    mixes: samples of several data sets may be one source (`train.also`); not
      where a sample is more than a text (`source.LaidOut`).
    has_own_weights: `own_weights` returns some.
    cf_model: the CF model that is trained before; "" = none is needed.
    batches: keys of the rows of its evaluation's programs, which the mesh has
      to divide.
  """

  name: str
  needs_ratings = False
  decodes = False
  grounds = False
  recommends = False
  computes = False
  objectives: tuple[str, ...] = ("language_model",)
  mixes = True
  has_own_weights = False
  cf_model = ""
  batches: tuple[str, ...] = ()

  def __init__(self, store: Store):
    """Reads nothing yet.

    Raises:
      UserError: the task has no such objective.
    """
    self.store = store
    objective = store.config.train.objective
    if objective not in self.objectives:
      raise errors.UserError(
        f"config.train.objective: {objective} found,"
        f" {' or '.join(self.objectives)} expected for task {self.name}"
      )
    if self.decodes and store.config.prompt.style == "sentence":
      raise errors.UserError(
        "config.prompt.style: 'sentence' found, another expected for task"
        f" {self.name}: what it writes has quotes around the title or nothing"
      )

  @property
  def trains(self) -> bool:
    """Whether its evaluation reads an adapter, so that one is trained."""
    return True

  @property
  def asks(self) -> str | None:
    """The path of the untuned model that is asked; "" = the base's own weights.

    None = none is.
    """
    return None

  @property
  def files(self) -> tuple[str, ...]:
    """What its evaluation writes beside the rows, by paths in the workdir."""
    return ()

  def check(self) -> None:  # noqa: B027
    """Raises UserError, before any work, for files that can't be read."""

  @abc.abstractmethod
  def samples(self, split: str) -> source.TextSource:
    """Returns the samples of train, valid or test that are used."""

  def num_samples(self, split: str) -> int | None:
    """Returns how many samples of a split are used; None = one of each row.

    Args:
      split: of the prepared data.
    """
    del split
    return None

  @abc.abstractmethod
  def corpus(self) -> source.TextSource:
    """Returns all train samples: what a base made in the workdir reads."""

  @abc.abstractmethod
  def made_from(self, split: str) -> dict[str, Any]:
    """Returns what names the texts of a split, for the records of stages."""

  def objective(self) -> "objective.Objective":
    """Returns what training minimises.

    Raises:
      UserError: the other view of a target would be the same.
    """
    from bigrec_jax.training import contrastive, objective

    config = self.store.config
    if config.train.objective != "contrastive":
      return objective.LanguageModelling()
    own = config.train.contrastive
    if own.view == "dropout" and not config.lora.dropout:
      raise errors.UserError(
        "config.train.contrastive.view: 'dropout' found with lora.dropout=0,"
        " more expected there: both views would be the same"
      )
    return contrastive.Contrastive(config.train.batch_size, own)

  def text_only(self) -> "Task":
    """Returns the task with the same samples as texts alone."""
    return self

  def selection(self, network: Network) -> "selection.Selection":
    """Returns what decides which adapter is the best and when to stop.

    Args:
      network: the one in training.
    """
    del network
    from bigrec_jax.training import selection

    return selection.Selection()

  def own_weights(self, arch: "Architecture") -> "own_weights.Spec | None":
    """Returns the weights of its own that are trained beside the adapter.

    Args:
      arch: of the base.
    """
    del arch
    return None

  def item_vectors(self) -> np.ndarray | None:
    """Returns what soft tokens of its texts are made of, [I, E] float32.

    None = its texts have no soft tokens.
    """
    return None

  def legal_answers(self) -> Sequence[str]:
    """Returns all that constrained decoding may write.

    Raises:
      NotImplementedError: the task has no such list.
    """
    raise NotImplementedError(f"task {self.name} has no list of answers")

  def answers_of_items(self) -> np.ndarray:
    """Returns the place of each item's answer in `legal_answers`, [I].

    Raises:
      NotImplementedError: the task has no such list.
    """
    raise NotImplementedError(f"task {self.name} has no list of answers")

  def evaluate(self, evidence: Evidence) -> "list[rows.TaskRow]":
    """Returns the rows of `metrics/<name>.json`.

    Args:
      evidence: the tuned model and what it wrote.
    """
    raise NotImplementedError(f"task {self.name} is evaluated elsewhere")

  def evaluated_from(self) -> dict[str, Any]:
    """Returns what the rows depend on beside the texts, base and adapter."""
    return {}
