"""BERT's weights: shapes, axes, names here and in Hugging Face checkpoints."""

import re

from bigrec_jax.devices.sharding import Axes
from bigrec_jax.models.bert.config import BertConfig
from bigrec_jax.models.layout import Entry

# Of models that predict something: the encoder has no place for them.
_HEADS = re.compile(
  r"pooler\.dense\.(weight|bias)|cls\..*|classifier\.(weight|bias)"
)
# Constants of the config, written by old versions of transformers.
CONSTANTS = ("embeddings.position_ids", "bert.embeddings.position_ids")
_LAYER = "encoder.layer.{layer}."


def entries(config: BertConfig) -> tuple[Entry, ...]:
  """Returns every weight, embeddings first."""
  width, inner = config.hidden_size, config.intermediate_size
  heads = ("heads", config.num_attention_heads)
  found = []
  for name, rows, axis in (
    ("word", config.vocab_size, "vocab"),
    ("position", config.max_position_embeddings, ""),
    ("token_type", config.type_vocab_size, ""),
  ):
    found.append(
      Entry(
        (f"{name}_embeddings", "embedding"),
        f"embeddings.{name}_embeddings.weight",
        (rows, width),
        Axes((axis, "embed"), (rows, width)),
        transpose=False,
        layered=False,
        kind="embedding",
      )
    )
  found += _norm("embeddings_norm", "embeddings.LayerNorm", width, False)
  embed = ("embed", width)
  for name in ("query", "key", "value"):
    stored = f"{_LAYER}attention.self.{name}"
    found += _linear(name, stored, (width, width), embed, heads)
  stored = f"{_LAYER}attention.output"
  found += _linear(
    "attention_output", f"{stored}.dense", (width, width), heads, embed
  )
  found += _norm("attention_norm", f"{stored}.LayerNorm", width, True)
  mlp, stored = ("mlp", inner), f"{_LAYER}intermediate.dense"
  found += _linear("intermediate", stored, (width, inner), embed, mlp)
  stored = f"{_LAYER}output"
  found += _linear("output", f"{stored}.dense", (inner, width), mlp, embed)
  found += _norm("output_norm", f"{stored}.LayerNorm", width, True)
  return tuple(found)


def name_of(stored: str) -> str | None:
  """Returns the table's name of a checkpoint's tensor; None = not ours.

  BertForMaskedLM and its like put everything below `bert.`, and checkpoints
  that came from TensorFlow call a norm's weights gamma and beta.
  """
  name = stored.removeprefix("bert.")
  name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
  name = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
  return None if _HEADS.fullmatch(name) else name


def _linear(
  name: str,
  stored: str,
  shape: tuple[int, int],
  inputs: tuple[str, int],
  outputs: tuple[str, int],
) -> list[Entry]:
  """Returns kernel and bias of a linear layer; sides are (axis, units)."""
  (axis_in, units_in), (axis_out, units_out) = inputs, outputs
  kernel = Axes((axis_in, axis_out), (units_in, units_out))
  bias = Axes((axis_out,), (units_out,))
  return [
    Entry(
      (name, "kernel"), f"{stored}.weight", shape, kernel, True, True, "kernel"
    ),
    Entry(
      (name, "bias"), f"{stored}.bias", shape[1:], bias, False, True, "bias"
    ),
  ]


def _norm(name: str, stored: str, width: int, layered: bool) -> list[Entry]:
  axes = Axes(("norm",), (width,))
  return [
    Entry(
      (name, leaf),
      f"{stored}.{theirs}",
      (width,),
      axes,
      transpose=False,
      layered=layered,
      kind=leaf,
    )
    for leaf, theirs in (("scale", "weight"), ("bias", "bias"))
  ]
