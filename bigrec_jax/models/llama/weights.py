"""The family's weights: shapes, axes, Hugging Face's and PEFT's names."""

from bigrec_jax.config import LoraConfig
from bigrec_jax.devices.sharding import Axes
from bigrec_jax.models.layout import Entry
from bigrec_jax.models.llama.config import LlamaConfig

_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_MLP = ("gate_proj", "up_proj", "down_proj")
TARGETS = _ATTENTION + _MLP


def _linear_axes(
  config: LlamaConfig, module: str
) -> tuple[tuple[int, int], tuple[str, str], tuple[int, int]]:
  """Returns shape, logical names and units of a linear layer's kernel."""
  width, size = config.hidden_size, config.head_dim
  heads, keys = config.num_attention_heads, config.num_key_value_heads
  inner = config.intermediate_size
  embed = ("embed", width, width)
  sides = {
    "q_proj": (embed, ("heads", heads * size, heads)),
    "k_proj": (embed, ("kv_heads", keys * size, keys)),
    "v_proj": (embed, ("kv_heads", keys * size, keys)),
    "o_proj": (("heads", heads * size, heads), embed),
    "gate_proj": (embed, ("mlp", inner, inner)),
    "up_proj": (embed, ("mlp", inner, inner)),
    "down_proj": (("mlp", inner, inner), embed),
  }[module]
  (name_in, size_in, units_in), (name_out, size_out, units_out) = sides
  return (size_in, size_out), (name_in, name_out), (units_in, units_out)


def parent(module: str) -> str:
  """Returns the submodule of a layer that holds a linear module."""
  return "self_attn" if module in _ATTENTION else "mlp"


def _has_bias(config: LlamaConfig, module: str) -> bool:
  if module == "o_proj":
    return config.o_bias
  return config.qkv_bias if module in _ATTENTION else config.mlp_bias


def base_entries(config: LlamaConfig) -> tuple[Entry, ...]:
  """Returns every weight of the base, embedding first, head last."""
  width, vocab = config.hidden_size, config.vocab_size
  norm = Axes(("norm",), (width,))
  entries = [
    Entry(
      ("embed_tokens", "embedding"),
      "model.embed_tokens.weight",
      (vocab, width),
      Axes(("vocab", "embed"), (vocab, width)),
      False,
      False,
      "embedding",
    )
  ]
  for name in ("input_layernorm", "post_attention_layernorm"):
    hf_name = f"model.layers.{{layer}}.{name}.weight"
    entries.append(
      Entry((name, "scale"), hf_name, (width,), norm, False, True, "scale")
    )
  for module in TARGETS:
    shape, names, units = _linear_axes(config, module)
    path = (parent(module), module)
    hf_name = f"model.layers.{{layer}}.{path[0]}.{module}"
    kernel = Axes(names, units)
    entries.append(
      Entry(
        (*path, "kernel"),
        f"{hf_name}.weight",
        shape,
        kernel,
        True,
        True,
        "kernel",
      )
    )
    if _has_bias(config, module):
      bias = Axes(names[1:], units[1:])
      entries.append(
        Entry(
          (*path, "bias"),
          f"{hf_name}.bias",
          shape[1:],
          bias,
          False,
          True,
          "bias",
        )
      )
  entries.append(
    Entry(
      ("norm", "scale"),
      "model.norm.weight",
      (width,),
      norm,
      False,
      False,
      "scale",
    )
  )
  if not config.tie_word_embeddings:
    head = Axes(("embed", "vocab"), (width, vocab))
    entries.append(
      Entry(
        ("lm_head", "kernel"),
        "lm_head.weight",
        (width, vocab),
        head,
        True,
        False,
        "head",
      )
    )
  return tuple(entries)


def peft_name(parent: str, module: str, leaf: str) -> str:
  """Returns PEFT's tensor name of `lora_a` or `lora_b`, with `{layer}`."""
  letter = {"lora_a": "A", "lora_b": "B"}[leaf]
  return (
    f"base_model.model.model.layers.{{layer}}.{parent}.{module}"
    f".lora_{letter}.weight"
  )


def lora_entries(config: LlamaConfig, lora: LoraConfig) -> tuple[Entry, ...]:
  """Returns every weight of the adapter; names as PEFT writes them."""
  entries = []
  for module in TARGETS:
    if module not in lora.target_modules:
      continue
    shape, names, units = _linear_axes(config, module)
    path = (parent(module), module)
    for leaf, own in (
      ("lora_a", ((shape[0], lora.rank), (names[0], "rank"), 0)),
      ("lora_b", ((lora.rank, shape[1]), ("rank", names[1]), 1)),
    ):
      own_shape, own_names, side = own
      own_units = list(own_shape)
      own_units[side] = units[side]
      entries.append(
        Entry(
          (*path, leaf),
          peft_name(*path, leaf),
          own_shape,
          Axes(own_names, tuple(own_units)),
          True,
          True,
          "lora",
        )
      )
  return tuple(entries)
