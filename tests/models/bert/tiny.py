"""A tiny random BERT as a directory of sentence-transformers, no download."""

import json
import pathlib

import numpy as np
from safetensors import numpy as safetensors

from bigrec_jax.models.bert import weights
from bigrec_jax.models.bert.config import BertConfig

_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,:'&-"
WORDS = (
  *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
  *("the", "halo", "my", "##st", "##ing", "legend", "of", "quake"),
  *_LETTERS,
  *(f"##{letter}" for letter in _LETTERS),
)
CONFIG = {
  "model_type": "bert",
  "vocab_size": len(WORDS),
  "hidden_size": 24,
  "intermediate_size": 40,
  "num_hidden_layers": 3,
  "num_attention_heads": 4,
  "max_position_embeddings": 20,
  "type_vocab_size": 2,
  "layer_norm_eps": 1e-12,
  "hidden_act": "gelu",
}
TEXTS = (
  "Halo 3",
  "Myst",
  "",
  "Pokémon: Let's Go, Pikachu!",
  "The Legend of Zelda: Ocarina of Time",
  "  quake\tII ",
  "ゼルダの伝説",
)


def tensors(config: BertConfig, seed: int) -> dict[str, np.ndarray]:
  """Random weights by their Hugging Face names; norms near one."""
  rng = np.random.default_rng(seed)
  found = {}
  for entry in weights.entries(config):
    shape = entry.shape[::-1] if entry.transpose else entry.shape
    for layer in range(config.num_hidden_layers if entry.layered else 1):
      value = rng.normal(0, 0.3, shape) + (entry.kind == "scale")
      found[entry.hf_name.format(layer=layer)] = value.astype(np.float32)
  return found


def write(
  directory: pathlib.Path,
  *,
  seed: int = 0,
  pooling: str | None = "mean",
  normalize: bool = True,
  **changes,
) -> BertConfig:
  """Writes a directory; `pooling` None = without sentence-transformers' files.

  Args:
    directory: made.
    seed: of the weights.
    pooling: `mean` or `cls`.
    normalize: whether modules.json ends with Normalize.
    **changes: to CONFIG.
  """
  directory.mkdir(parents=True, exist_ok=True)
  values = CONFIG | changes
  _json(directory / "config.json", values)
  config = BertConfig.from_hf(values, "config.json")
  safetensors.save_file(
    tensors(config, seed), directory / "model.safetensors", {"format": "pt"}
  )
  (directory / "vocab.txt").write_text("\n".join(WORDS) + "\n")
  _json(
    directory / "tokenizer_config.json",
    {"tokenizer_class": "BertTokenizer", "do_lower_case": True},
  )
  if pooling is None:
    return config
  kinds = ["Transformer", "Pooling", "Normalize"][: 2 + normalize]
  _json(
    directory / "modules.json",
    [
      {
        "idx": n,
        "name": str(n),
        "path": f"{n}_{kind}" if n else "",
        "type": f"sentence_transformers.models.{kind}",
      }
      for n, kind in enumerate(kinds)
    ],
  )
  _json(
    directory / "1_Pooling" / "config.json",
    {
      "word_embedding_dimension": config.hidden_size,
      "pooling_mode_cls_token": pooling == "cls",
      "pooling_mode_mean_tokens": pooling == "mean",
      "pooling_mode_max_tokens": False,
    },
  )
  _json(
    directory / "sentence_bert_config.json",
    {"max_seq_length": 12, "do_lower_case": False},
  )
  return config


def _json(path: pathlib.Path, value) -> None:
  path.parent.mkdir(exist_ok=True)
  path.write_text(json.dumps(value))
