"""llama2.c checkpoints ("version 0") -> Hugging Face directories.

  python -m tests.tools.llama2c stories260K.bin tok512.bin DEST

The format is described in shared/data/README.md. llama2.c rotates adjacent
pairs of a head's dimensions, Hugging Face the two halves, so the rows of the
query and key projections are re-ordered. A tokenizer file is either llama2.c's
own `tok*.bin` or a SentencePiece `*.model`.
"""

import argparse
import pathlib
import struct
from typing import NamedTuple

import numpy as np
import tokenizers
from safetensors import numpy as safetensors
from tokenizers import decoders, models, normalizers, processors

from bigrec_jax.data.text import tokenization
from bigrec_jax.workdir import storage

SPECIAL = [tokenization.UNK, tokenization.BOS, tokenization.EOS]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


class Header(NamedTuple):
  """The seven int32 at the start of a checkpoint."""

  dim: int
  hidden_dim: int
  n_layers: int
  n_heads: int
  n_kv_heads: int
  vocab_size: int
  seq_len: int


def read_checkpoint(
  path: pathlib.Path,
) -> tuple[Header, dict[str, np.ndarray]]:
  """Returns header and float32 tensors by their llama2.c names, stacked."""
  content = path.read_bytes()
  header = Header(*struct.unpack_from("<7i", content))
  values = np.frombuffer(content, "<f4", offset=28)
  head_dim = header.dim // header.n_heads
  kv_dim = head_dim * header.n_kv_heads
  layers, dim, hidden = header.n_layers, header.dim, header.hidden_dim
  vocab = abs(header.vocab_size)
  shapes = {
    "embedding": (vocab, dim),
    "attention_norm": (layers, dim),
    "wq": (layers, dim, dim),
    "wk": (layers, kv_dim, dim),
    "wv": (layers, kv_dim, dim),
    "wo": (layers, dim, dim),
    "ffn_norm": (layers, dim),
    "w1": (layers, hidden, dim),
    "w2": (layers, dim, hidden),
    "w3": (layers, hidden, dim),
    "norm": (dim,),
    "rope_cos": (header.seq_len, head_dim // 2),
    "rope_sin": (header.seq_len, head_dim // 2),
  }
  if header.vocab_size < 0:
    shapes["output"] = (vocab, dim)
  expected = sum(int(np.prod(shape)) for shape in shapes.values())
  if expected != len(values):
    raise ValueError(f"{path}: {len(values)} floats found, {expected} expected")
  tensors, start = {}, 0
  for name, shape in shapes.items():
    size = int(np.prod(shape))
    tensors[name] = values[start : start + size].reshape(shape)
    start += size
  return header, tensors


def halves(weight: np.ndarray, n_heads: int) -> np.ndarray:
  """Re-orders the rows of each head from (0, 1), (2, 3).. to evens, odds."""
  rows, columns = weight.shape
  pairs = weight.reshape(n_heads, rows // n_heads // 2, 2, columns)
  return pairs.swapaxes(1, 2).reshape(rows, columns)


def hf_tensors(
  header: Header, tensors: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
  """Returns the tensors under Hugging Face's names, in its order of rows."""
  names = {
    "self_attn.v_proj": "wv",
    "self_attn.o_proj": "wo",
    "mlp.gate_proj": "w1",
    "mlp.down_proj": "w2",
    "mlp.up_proj": "w3",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
  }
  found = {
    "model.embed_tokens.weight": tensors["embedding"],
    "model.norm.weight": tensors["norm"],
  }
  for layer in range(header.n_layers):
    prefix = f"model.layers.{layer}."
    for theirs, ours in names.items():
      found[f"{prefix}{theirs}.weight"] = tensors[ours][layer]
    for theirs, ours, heads in (
      ("q_proj", "wq", header.n_heads),
      ("k_proj", "wk", header.n_kv_heads),
    ):
      found[f"{prefix}self_attn.{theirs}.weight"] = halves(
        tensors[ours][layer], heads
      )
  if "output" in tensors:
    found["lm_head.weight"] = tensors["output"]
  return {k: np.ascontiguousarray(v) for k, v in found.items()}


def hf_config(header: Header) -> dict:
  """Returns the content of config.json."""
  return {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": header.dim,
    "intermediate_size": header.hidden_dim,
    "num_hidden_layers": header.n_layers,
    "num_attention_heads": header.n_heads,
    "num_key_value_heads": header.n_kv_heads,
    "vocab_size": abs(header.vocab_size),
    "max_position_embeddings": header.seq_len,
    "tie_word_embeddings": header.vocab_size > 0,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "attention_bias": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "float32",
  }


def read_pieces(path: pathlib.Path, size: int) -> list[tuple[str, float]]:
  """Returns (piece, score) by id from `tok*.bin`.

  Pieces are written as in SentencePiece, with U+2581 for a blank.
  """
  content = path.read_bytes()
  position, pieces = 4, []
  for _ in range(size):
    score, length = struct.unpack_from("<fi", content, position)
    position += 8
    piece = content[position : position + length].decode("utf-8")
    pieces.append((piece.replace(" ", "\u2581"), score))
    position += length
  # Ids 0-258 have their SentencePiece meaning whatever text the file gives.
  named = [(name, 0.0) for name in SPECIAL + BYTES]
  return named + pieces[len(named) :]


def read_sentencepiece(
  path: pathlib.Path, size: int
) -> list[tuple[str, float]]:
  """Returns (piece, score) by id from a SentencePiece model.

  A checkpoint with 256 more tokens than the model has the bytes at ids 3-258
  (babyllama361, whose own tokenizer file was never published).
  """
  import sentencepiece

  processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
  pieces = [
    (processor.id_to_piece(i), processor.get_score(i))
    for i in range(processor.get_piece_size())
  ]
  if size == len(pieces) + len(BYTES):
    pieces[3:3] = [(name, 0.0) for name in BYTES]
  return pieces


def merges(pieces: list[tuple[str, float]]) -> list[tuple[str, str]]:
  """Returns BPE merges in the order in which SentencePiece applies them.

  It merges the pair whose result has the best score; any two pieces that
  join to a third may merge.
  """
  scores = dict(pieces)
  special = set(SPECIAL + BYTES)
  known = {piece for piece, _ in pieces if piece not in special}
  found = []
  for piece in known:
    for cut in range(1, len(piece)):
      if piece[:cut] in known and piece[cut:] in known:
        found.append((piece[:cut], piece[cut:]))
  ids = {piece: i for i, (piece, _) in enumerate(pieces)}
  # Equal scores must not happen within one text; ids make the file definite.
  found.sort(key=lambda m: (-scores[m[0] + m[1]], ids[m[0] + m[1]], ids[m[0]]))
  return found


def make_tokenizer(pieces: list[tuple[str, float]]) -> tokenizers.Tokenizer:
  """Returns the tokenizer with prefix blank, byte fallback and BOS."""
  names = [piece for piece, _ in pieces]
  tokenizer = tokenizers.Tokenizer(
    models.BPE(
      vocab={name: i for i, name in enumerate(names)},
      merges=merges(pieces),
      unk_token=tokenization.UNK,
      fuse_unk=True,
      byte_fallback=BYTES[0] in names,
    )
  )
  tokenizer.normalizer = normalizers.Sequence(
    [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
  )
  tokenizer.decoder = decoders.Sequence(
    [
      decoders.Replace("\u2581", " "),
      decoders.ByteFallback(),
      decoders.Fuse(),
      decoders.Strip(" ", 1, 0),
    ]
  )
  tokenizer.add_special_tokens(SPECIAL)
  tokenizer.post_processor = processors.TemplateProcessing(
    single=f"{tokenization.BOS} $A",
    special_tokens=[(tokenization.BOS, names.index(tokenization.BOS))],
  )
  return tokenizer


def convert(
  source: pathlib.Path, tokenizer: pathlib.Path, destination: pathlib.Path
) -> None:
  """Writes config.json, model.safetensors and the tokenizer's files."""
  header, tensors = read_checkpoint(source)
  size = abs(header.vocab_size)
  read = read_pieces if tokenizer.suffix == ".bin" else read_sentencepiece
  pieces = read(tokenizer, size)
  if len(pieces) != size:
    raise ValueError(f"{tokenizer}: {len(pieces)} pieces, {size} expected")
  destination.mkdir(parents=True, exist_ok=True)
  storage.write_json(destination / "config.json", hf_config(header))
  safetensors.save_file(
    hf_tensors(header, tensors),
    destination / "model.safetensors",
    metadata={"format": "pt"},
  )
  tokenization.write_fast(destination, make_tokenizer(pieces))


def main() -> None:
  """The command line."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("source", type=pathlib.Path)
  parser.add_argument("tokenizer", type=pathlib.Path)
  parser.add_argument("destination", type=pathlib.Path)
  arguments = parser.parse_args()
  convert(arguments.source, arguments.tokenizer, arguments.destination)


if __name__ == "__main__":
  main()
