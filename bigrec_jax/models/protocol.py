"""What the engine knows of a model, and what a family has to offer.

Training, decoding, planning and the stages see these classes, `registry` and
`encoders`; a family (`models/llama/`, ...) is seen by these two alone.

Axes: B batch or slots, T length, S prompt, P shared prefix, W beams, D width,
V vocabulary, L layers, K key heads, H head size.
"""

import abc
import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bigrec_jax.config import ArchConfig, LoraConfig, ModelConfig
from bigrec_jax.models import kv_cache, layout
from bigrec_jax.progress import Reports
from bigrec_jax.workdir import parts


@dataclasses.dataclass(frozen=True)
class Architecture(abc.ABC):
  """Sizes that every decoder has; hashable, so static under jit.

  Names are those of Hugging Face config.json. A family's own class adds its
  constants.
  """

  model_type: str
  vocab_size: int
  hidden_size: int
  intermediate_size: int
  num_hidden_layers: int
  num_attention_heads: int
  num_key_value_heads: int
  head_dim: int
  max_position_embeddings: int
  tie_word_embeddings: bool
  initializer_range: float
  bos_token_id: int | None
  eos_token_ids: tuple[int, ...]
  pad_token_id: int | None

  @abc.abstractmethod
  def to_hf(self, dtype: str) -> dict[str, Any]:
    """Returns config.json such that transformers builds the same network.

    Args:
      dtype: of the weights beside it, `float32` or `bfloat16`.
    """


class LanguageModel(Protocol):
  """A decoder as a Flax Linen module: no state, variables go in.

  Its variables are the collections `params`, the frozen base, and with an
  adapter `lora`. The engine calls `apply(variables, ..., method=NAME)`, where
  NAME is one of the methods below; without one it is `__call__`.
  """

  @property
  def config(self) -> Architecture:
    """Its sizes."""

  @property
  def lora(self) -> LoraConfig | None:
    """The adapter whose weights collection `lora` holds; None = none."""

  @property
  def scan_layers(self) -> bool:
    """Whether the layers' weights are stacked (stacking.py)."""

  @property
  def unrolled(self) -> bool:
    """Whether stacked layers run one by one; then caches are kept a layer."""

  @property
  def attention(self) -> str:
    """`xla`, `cudnn` or `splash`; only `xla` attends to a shared prefix."""

  @property
  def mesh(self) -> Mesh | None:
    """Where it runs; None = one device."""

  def apply(self, variables: Mapping[str, Any], *args: Any, **kwargs: Any):
    """Calls a method on variables, as every Linen module does."""

  def clone(self, **changes: Any) -> "LanguageModel":
    """Returns the same network with other attributes."""

  def executable(
    self, variables: Mapping[str, Any]
  ) -> tuple["LanguageModel", Mapping[str, Any]]:
    """Returns model and variables that compute the same, for one program.

    Called inside jit and outside of loops, since it may rearrange weights;
    what is kept outside of programs never depends on it.
    """

  def prepare(self, params: Any) -> Any:
    """Returns parameters as `executable` would arrange them, once for many.

    Called outside of programs, by whoever calls one many times. `executable`
    takes what is prepared as well. Nothing is copied where programs read
    parameters as they are.
    """

  def part(
    self, variables: Mapping[str, Any], first: int, last: int
  ) -> tuple["LanguageModel", Mapping[str, Any]]:
    """Returns the layers from `first` to before `last` as a network.

    It has every method; its input is embeddings where `first` is not 0, and
    its states are those before the final norm where `last` is not L. Called
    inside jit, on what `executable` returns. One part after another, the later
    one on the states of the former, is the whole network.

    Args:
      variables: its collections.
      first: a layer.
      last: a later one, or L.
    """

  def __call__(
    self,
    tokens: jax.Array,
    positions: jax.Array,
    segment_ids: jax.Array,
    deterministic: bool,
    prefix: tuple[Any, Any] | None = None,
  ) -> jax.Array:
    """Maps whole texts, tokens [B, T] or embeddings, to states [B, T, D]."""

  def embed(self, tokens: jax.Array) -> jax.Array:
    """Maps tokens [B, T] to the embeddings [B, T, D] that stand for them."""

  def read_header(
    self, header: jax.Array, deterministic: bool
  ) -> tuple[jax.Array, tuple[Any, Any]]:
    """Maps the common beginning [P] to states [1, P, D] and a `prefix`."""

  def logits(self, hidden: jax.Array) -> jax.Array:
    """Maps hidden states [..., D] to float32 logits [..., V]."""

  def head_weight(self) -> jax.Array:
    """Returns the output matrix [D, V]."""

  def prefill(
    self,
    tokens: jax.Array,
    lengths: jax.Array,
    prefix: kv_cache.PromptCache | None = None,
    deterministic: bool = True,
  ) -> tuple[jax.Array, kv_cache.PromptCache]:
    """Maps prompts, tokens [B, S] or embeddings, to states and a cache."""

  def decode(
    self,
    tokens: jax.Array,
    step: jax.Array,
    prompt: kv_cache.PromptCache,
    suffix: kv_cache.SuffixCache,
    chains: kv_cache.Chains | None = None,
  ) -> tuple[jax.Array, kv_cache.SuffixCache]:
    """Maps one more token of every beam, or chains [B, Q], to states."""

  def continue_prompts(
    self,
    tokens: jax.Array,
    offsets: jax.Array,
    segment_ids: jax.Array,
    owners: jax.Array,
    prompt: kv_cache.PromptCache,
    deterministic: bool = True,
  ) -> jax.Array:
    """Maps texts that continue prompts, tokens [R, T], to states [R, T, D]."""


class Family(Protocol):
  """A package of `models/` whose `__init__` has these names."""

  MODEL_TYPES: tuple[str, ...]
  """The values of config.json's `model_type` that it reads."""

  def read(self, values: Mapping[str, Any], source: str) -> Architecture:
    """Reads a config.json; refuses what the network does not have.

    Args:
      values: the parsed file.
      source: the file's name, for error messages.
    """

  def from_arch(self, arch: ArchConfig, vocab_size: int) -> Architecture:
    """Returns the architecture of `config.model.arch`."""

  def base_entries(self, arch: Any) -> tuple[layout.Entry, ...]:
    """Returns every weight of the base."""

  def lora_entries(
    self, arch: Any, lora: LoraConfig
  ) -> tuple[layout.Entry, ...]:
    """Returns every weight of an adapter; names as PEFT writes them."""

  def network(
    self,
    arch: Any,
    model: ModelConfig,
    lora: LoraConfig | None,
    dtype: jnp.dtype,
    attention: str,
    mesh: Mesh,
    unrolled: bool,
  ) -> LanguageModel:
    """Returns the network.

    Args:
      arch: of `read` or `from_arch`.
      model: for scan_layers and remat.
      lora: None = the base alone, e.g. for embeddings.
      dtype: of base weights and activations.
      attention: `xla`, `cudnn` or `splash`.
      mesh: the device mesh.
      unrolled: whether stacked layers run one by one.
    """


class TextEncoder(Protocol):
  """Texts as vectors, with its weights on the mesh."""

  @property
  def fingerprint(self) -> str:
    """Names all that its vectors depend on."""

  @property
  def width(self) -> int:
    """D, the length of its vectors."""

  def encode(
    self,
    texts: Sequence[str],
    progress: Reports,
    kept: parts.Vectors | None = None,
  ) -> np.ndarray:
    """Returns one vector of each text, [N, D] float32, in the order given.

    Args:
      texts: may repeat; equal ones are computed again.
      progress: told of every text done.
      kept: the texts that were done before, and where others go as they are
        done; None = nothing is kept.

    Raises:
      NonFiniteError: a vector is NaN or infinite.
    """


class EncoderFamily(Protocol):
  """A package of encoders in `models/` whose `__init__` has these names."""

  MODEL_TYPES: tuple[str, ...]
  """The values of config.json's `model_type` that it reads."""

  def load(
    self,
    directory: pathlib.Path,
    batch_size: int,
    mesh: Mesh,
    fingerprint: str,
  ) -> TextEncoder:
    """Loads a directory; see `encoders.load`."""
