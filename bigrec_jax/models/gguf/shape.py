"""What a GGUF file calls things: config.json and tensor names from it.

Keys, names and the order of rows are those that llama.cpp's converter writes
for its architectures `llama` and `qwen2`. A key or tensor that says anything
which the network does not have is refused, never dropped.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from bigrec_jax.models.gguf import rope
from bigrec_jax.models.gguf.reading import GgufFile

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}
# Keys under the architecture's name that are read here or in rope.py.
_READ = frozenset(
  {
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "rope.dimension_count",
    "vocab_size",
    *rope.KEYS,
  }
)
# Keys that say nothing as long as they have this value.
_NEUTRAL = {
  "attention.causal": True,
  "attention.sliding_window": 0,
  "expert_count": 0,
  "expert_used_count": 0,
  "use_parallel_residual": False,
}

# Name in the file -> Hugging Face name and shape, whose letters are v
# vocabulary, d width, f of the MLP, q all query heads, k all key-value heads.
_WHOLE = {
  "token_embd.weight": ("model.embed_tokens.weight", "vd"),
  "output_norm.weight": ("model.norm.weight", "d"),
}
_HEAD = {"output.weight": ("lm_head.weight", "vd")}
_LAYER = {
  "attn_norm.weight": ("input_layernorm.weight", "d"),
  "attn_q.weight": ("self_attn.q_proj.weight", "qd"),
  "attn_k.weight": ("self_attn.k_proj.weight", "kd"),
  "attn_v.weight": ("self_attn.v_proj.weight", "kd"),
  "attn_output.weight": ("self_attn.o_proj.weight", "dq"),
  "ffn_norm.weight": ("post_attention_layernorm.weight", "d"),
  "ffn_gate.weight": ("mlp.gate_proj.weight", "fd"),
  "ffn_up.weight": ("mlp.up_proj.weight", "fd"),
  "ffn_down.weight": ("mlp.down_proj.weight", "df"),
}
_QKV_BIAS = {
  "attn_q.bias": ("self_attn.q_proj.bias", "q"),
  "attn_k.bias": ("self_attn.k_proj.bias", "k"),
  "attn_v.bias": ("self_attn.v_proj.bias", "k"),
}
_OUTPUT_BIAS = {"attn_output.bias": ("self_attn.o_proj.bias", "d")}
_MLP_BIAS = {
  "ffn_gate.bias": ("mlp.gate_proj.bias", "f"),
  "ffn_up.bias": ("mlp.up_proj.bias", "f"),
  "ffn_down.bias": ("mlp.down_proj.bias", "d"),
}


@dataclasses.dataclass(frozen=True)
class Entry:
  """Where a tensor comes from and what becomes of it.

  Attributes:
    name: in the GGUF file.
    hf_name: in the Hugging Face checkpoint.
    shape: in both.
    heads: rows of so many heads are interleaved; 0 = as they should be.
  """

  name: str
  hf_name: str
  shape: tuple[int, ...]
  heads: int

  def row_order(self) -> np.ndarray | None:
    """Returns which stored row becomes each row, None = as they are.

    Hugging Face turns the first half of a head's dimensions with the second
    half; llama.cpp, like Meta, turns neighbours, so its converter interleaves
    the halves of query and key rows.
    """
    if not self.heads:
      return None
    rows = np.arange(self.shape[0]).reshape(self.heads, -1, 2)
    return rows.swapaxes(1, 2).reshape(-1)


def config_values(file: GgufFile) -> dict[str, Any]:
  """Returns the config.json of the model in the file, without its dtype.

  Raises:
    UserError: an architecture or a setting that isn't supported.
  """
  arch = file.metadata.get("general.architecture")
  if not isinstance(arch, str) or arch not in ARCHITECTURES:
    raise file.error(
      "general.architecture",
      f"{_short(arch)} found, one of {', '.join(ARCHITECTURES)} expected",
    )
  _refuse_unknown(file, arch)

  def integer(name: str, otherwise: int | None = None) -> int:
    value = file.metadata.get(f"{arch}.{name}", otherwise)
    if (
      isinstance(value, bool)
      or not isinstance(value, int)
      or not 0 < value < 1 << 31
    ):
      raise file.error(
        f"{arch}.{name}", f"{_short(value)} found, a positive integer expected"
      )
    return value

  heads, width = integer("attention.head_count"), integer("embedding_length")
  head_dim = integer(
    "attention.key_length", integer("rope.dimension_count", width // heads)
  )
  for name in ("attention.value_length", "rope.dimension_count"):
    if integer(name, head_dim) != head_dim:
      raise file.error(
        f"{arch}.{name}",
        f"{integer(name)} found, {head_dim} as of the whole head expected",
      )
  epsilon = file.metadata.get(f"{arch}.attention.layer_norm_rms_epsilon")
  if not isinstance(epsilon, float) or not 0 <= epsilon < 1:
    raise file.error(
      f"{arch}.attention.layer_norm_rms_epsilon",
      f"{epsilon!r} found, a number from 0 to 1 expected",
    )
  embedding = file.tensors.get("token_embd.weight")
  if embedding is None or len(embedding.shape) != 2:
    raise file.error("token_embd.weight", "no such matrix found")
  layers = integer("block_count")
  if layers > len(file.tensors):  # Before anybody lists what each must have.
    raise file.error(
      f"{arch}.block_count",
      f"{layers} found, at most the {len(file.tensors)} tensors of the file"
      " expected",
    )
  values = {
    "architectures": [ARCHITECTURES[arch]],
    "model_type": arch,
    "hidden_act": "silu",
    "vocab_size": embedding.shape[0],
    "hidden_size": width,
    "intermediate_size": integer("feed_forward_length"),
    "num_hidden_layers": layers,
    "num_attention_heads": heads,
    "num_key_value_heads": integer("attention.head_count_kv", heads),
    "head_dim": head_dim,
    "max_position_embeddings": integer("context_length"),
    # Stored as float32: 1e-5 is read as 9.999999747378752e-06.
    "rms_norm_eps": float(str(np.float32(epsilon))),
    "tie_word_embeddings": "output.weight" not in file.tensors,
    **rope.config_values(file, arch, head_dim),
    **token_ids(file),
  }
  if arch == "llama":
    values["attention_bias"] = "blk.0.attn_q.bias" in file.tensors
    values["mlp_bias"] = "blk.0.ffn_down.bias" in file.tensors
  else:
    values["use_sliding_window"] = False
  return values


def _refuse_unknown(file: GgufFile, arch: str) -> None:
  for key, value in file.metadata.items():
    top, _, name = key.partition(".")
    if top != arch or name in _READ:
      continue
    if name not in _NEUTRAL or value != _NEUTRAL[name]:
      raise file.error(
        key,
        f"{_short(value)} found, a model without it expected (this"
        f" {arch} network has no such thing)",
      )


def _short(value: Any) -> str:
  text = repr(value)
  return text if len(text) < 40 else f"{text[:36]}..."


def token_ids(file: GgufFile) -> dict[str, Any]:
  """Returns bos, eos and pad ids as config.json has them.

  Beside its end of sequence a chat model's file may name an end of turn
  (eot) and of message (eom); a generated text ends at any of them.
  """

  def token(name: str) -> int | None:
    key = f"tokenizer.ggml.{name}_token_id"
    found = file.metadata.get(key)
    if found is not None and (
      isinstance(found, bool) or not isinstance(found, int)
    ):
      raise file.error(
        key, f"{_short(found)} found, the id of a token expected"
      )
    return found

  ends = [token(name) for name in ("eos", "eot", "eom")]
  ends = list(dict.fromkeys(end for end in ends if end is not None))
  return {
    "bos_token_id": token("bos"),
    "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
    "pad_token_id": token("padding"),
  }


def entries(file: GgufFile, config: dict[str, Any]) -> list[Entry]:
  """Returns what each tensor of the checkpoint is made of.

  Args:
    file: whose tensors are compared with what the config wants, both ways.
    config: of `config_values`.

  Raises:
    UserError: a tensor is missing, unknown, or of another shape.
  """
  found = list(_expected(config))
  names = {entry.name for entry in found} | {rope.TENSOR}
  for name in file.tensors:
    if name not in names:
      raise file.error(
        name,
        f"unknown tensor, not in a {config['model_type']} model of"
        f" {config['num_hidden_layers']} layers",
      )
  for entry in found:
    if entry.name not in file.tensors:
      raise file.error(
        entry.name,
        f"no such tensor found, one of shape {list(entry.shape)} expected",
      )
    shape = file.tensors[entry.name].shape
    if shape != entry.shape:
      raise file.error(
        entry.name,
        f"shape {list(shape)} found, {list(entry.shape)} expected by the"
        " file's own metadata",
      )
  return found


def _expected(config: dict[str, Any]) -> Iterator[Entry]:
  heads = config["num_attention_heads"]
  kv_heads, head_dim = config["num_key_value_heads"], config["head_dim"]
  sizes = {
    "v": config["vocab_size"],
    "d": config["hidden_size"],
    "f": config["intermediate_size"],
    "q": heads * head_dim,
    "k": kv_heads * head_dim,
  }
  turned = {"attn_q": heads, "attn_k": kv_heads}
  if config["model_type"] != "llama":
    turned = {}
  whole = _WHOLE if config["tie_word_embeddings"] else _WHOLE | _HEAD
  layer = dict(_LAYER)
  if config["model_type"] == "qwen2" or config["attention_bias"]:
    layer |= _QKV_BIAS
  if config.get("attention_bias"):
    layer |= _OUTPUT_BIAS
  if config.get("mlp_bias"):
    layer |= _MLP_BIAS

  def entry(name: str, hf_name: str, letters: str, start: str, top: str):
    shape = tuple(sizes[letter] for letter in letters)
    heads = turned.get(name.partition(".")[0], 0)
    return Entry(start + name, top + hf_name, shape, heads)

  for name, (hf_name, letters) in whole.items():
    yield entry(name, hf_name, letters, "", "")
  for n in range(config["num_hidden_layers"]):
    for name, (hf_name, letters) in layer.items():
      yield entry(name, hf_name, letters, f"blk.{n}.", f"model.layers.{n}.")
