"""GGUF files as llama.cpp's converter writes them, for tests."""

import gguf
import numpy as np
from gguf import GGMLQuantizationType, quants

# Hugging Face's name -> the file's, inside a layer.
LAYER = {
  "input_layernorm": "attn_norm",
  "self_attn.q_proj": "attn_q",
  "self_attn.k_proj": "attn_k",
  "self_attn.v_proj": "attn_v",
  "self_attn.o_proj": "attn_output",
  "post_attention_layernorm": "ffn_norm",
  "mlp.gate_proj": "ffn_gate",
  "mlp.up_proj": "ffn_up",
  "mlp.down_proj": "ffn_down",
}
WHOLE = {
  "model.embed_tokens": "token_embd",
  "model.norm": "output_norm",
  "lm_head": "output",
}
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
# One character a token and three special ones: enough for a model's test.
LETTERS = {
  "model": "gpt2",
  "pre": "gpt-2",
  "tokens": ["<bos>", "<eos>", "<pad>", *(chr(c) for c in range(33, 93)), "AB"],
  "token_type": [CONTROL] * 3 + [NORMAL] * 61,
  "merges": ["A B"],
  "bos_token_id": 0,
  "eos_token_id": 1,
  "padding_token_id": 2,
  "add_bos_token": True,
}


def gguf_name(name: str) -> str:
  """The name of a Hugging Face tensor in a GGUF file."""
  stem, _, end = name.rpartition(".")
  if stem in WHOLE:
    return f"{WHOLE[stem]}.{end}"
  _, _, layer, part = stem.split(".", 3)
  return f"blk.{layer}.{LAYER[part]}.{end}"


def interleave(rows: np.ndarray, heads: int) -> np.ndarray:
  """Query or key rows as the converter orders those of `llama`."""
  halves = rows.reshape(heads, 2, -1, *rows.shape[1:])
  return halves.swapaxes(1, 2).reshape(rows.shape)


def write(path, arch, tensors, settings, tokenizer, kind="F32", general=()):
  """Writes a file.

  Args:
    path: of the file.
    arch: `llama` or `qwen2`.
    tensors: by Hugging Face's names, float32; by the file's own where that is
      none of theirs.
    settings: under the architecture's name.
    tokenizer: under `tokenizer.ggml`.
    kind: the quantisation type of matrices.
    general: more pairs of key and value, under no prefix.
  """
  writer = gguf.GGUFWriter(path, arch)
  own = {f"{arch}.{k}": v for k, v in settings.items()}
  own |= {f"tokenizer.ggml.{k}": v for k, v in tokenizer.items()}
  for key, value in {**own, **dict(general)}.items():
    if isinstance(value, bool):
      writer.add_bool(key, value)
    elif isinstance(value, int):
      writer.add_uint32(key, value)
    elif isinstance(value, float):
      writer.add_float32(key, value)
    elif isinstance(value, str):
      writer.add_string(key, value)
    else:
      writer.add_array(key, list(value))
  for name, value in tensors.items():
    layered = "layers" in name or name.rpartition(".")[0] in WHOLE
    stored = gguf_name(name) if layered else name
    if arch == "llama" and ".attn_q." in stored:
      value = interleave(value, settings["attention.head_count"])
    elif arch == "llama" and ".attn_k." in stored:
      value = interleave(value, settings["attention.head_count_kv"])
    own_kind = kind if value.ndim == 2 else "F32"
    member = GGMLQuantizationType[own_kind]
    raw = None if own_kind in ("F32", "F16") else member
    writer.add_tensor(stored, quants.quantize(value, member), raw_dtype=raw)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return path


def settings_of(config) -> dict:
  """The keys that the converter writes for a transformers config."""
  settings = {
    "block_count": config.num_hidden_layers,
    "context_length": config.max_position_embeddings,
    "embedding_length": config.hidden_size,
    "feed_forward_length": config.intermediate_size,
    "attention.head_count": config.num_attention_heads,
    "attention.head_count_kv": config.num_key_value_heads,
    "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
    "rope.freq_base": float(config.rope_parameters["rope_theta"]),
  }
  if config.model_type == "llama":
    settings["rope.dimension_count"] = config.head_dim
    settings["vocab_size"] = config.vocab_size
  return settings


SETTINGS = {
  "block_count": 1,
  "context_length": 64,
  "embedding_length": 32,
  "feed_forward_length": 32,
  "attention.head_count": 2,
  "attention.head_count_kv": 1,
  "attention.layer_norm_rms_epsilon": 1e-5,
  "rope.freq_base": 10000.0,
  "rope.dimension_count": 16,
}


def tensors(seed=0):
  """Those of SETTINGS, by Hugging Face's names."""
  draw = np.random.default_rng(seed).standard_normal
  layer = {
    "input_layernorm": (32,),
    "self_attn.q_proj": (32, 32),
    "self_attn.k_proj": (16, 32),
    "self_attn.v_proj": (16, 32),
    "self_attn.o_proj": (32, 32),
    "post_attention_layernorm": (32,),
    "mlp.gate_proj": (32, 32),
    "mlp.up_proj": (32, 32),
    "mlp.down_proj": (32, 32),
  }
  shapes = {f"model.layers.0.{k}.weight": v for k, v in layer.items()}
  shapes["model.embed_tokens.weight"] = (64, 32)
  shapes["model.norm.weight"] = (32,)
  return {k: draw(v).astype(np.float32) for k, v in shapes.items()}


def small(path, extra=None, settings=None, general=(), without=(), **changes):
  """Writes a small llama; `extra` tensors and `settings` come on top."""
  values = tensors() | (extra or {})
  for name in without:
    del values[name]
  tokenizer = LETTERS | changes
  own = SETTINGS | (settings or {})
  return write(path, "llama", values, own, tokenizer, "F32", general)
