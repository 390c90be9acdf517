"""BERT's tokenizer: tokenizer.json, or vocab.txt and what its files say."""

import pathlib
from typing import Any

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors

from bigrec_jax import errors
from bigrec_jax.data.text import fast_file
from bigrec_jax.workdir import storage

_FAST_FILE = "tokenizer.json"
_VOCABULARY_FILE = "vocab.txt"
_SETTINGS_FILE = "tokenizer_config.json"
_SPECIAL = ("unk", "cls", "sep", "pad", "mask")


def load(directory: pathlib.Path) -> tokenizers.Tokenizer:
  """Returns the tokenizer of a Hugging Face directory, without padding.

  Raises:
    UserError: neither file is there, or one is damaged.
  """
  if (file := directory / _FAST_FILE).is_file():
    return fast_file.load(file)
  if (file := directory / _VOCABULARY_FILE).is_file():
    return _from_vocabulary(file, settings(directory))
  raise errors.UserError(
    f"{directory}: no tokenizer found, {_FAST_FILE} or {_VOCABULARY_FILE}"
    " expected"
  )


def settings(directory: pathlib.Path) -> dict[str, Any]:
  """Returns tokenizer_config.json; empty where there is none."""
  file = directory / _SETTINGS_FILE
  values = storage.read_json(file) if file.is_file() else {}
  if not isinstance(values, dict):
    raise errors.UserError(f"{file}: a JSON object expected")
  return values


def _from_vocabulary(
  file: pathlib.Path, values: dict[str, Any]
) -> tokenizers.Tokenizer:
  """Returns BERT's own pipeline over the words of a file, a line each."""
  lines = file.read_text(encoding="utf-8").split("\n")
  words = {line.rstrip("\r"): n for n, line in enumerate(lines) if line}

  def named(key: str) -> str:
    token = values.get(f"{key}_token", f"[{key.upper()}]")
    return token["content"] if isinstance(token, dict) else token

  special = {key: named(key) for key in _SPECIAL}
  for key in ("unk", "cls", "sep"):
    if special[key] not in words:
      raise errors.UserError(
        f"{file}: {key}_token {special[key]!r}: no such word in it"
      )
  tokenizer = tokenizers.Tokenizer(
    models.WordPiece(
      words, unk_token=special["unk"], max_input_chars_per_word=100
    )
  )
  tokenizer.normalizer = normalizers.BertNormalizer(
    clean_text=True,
    handle_chinese_chars=values.get("tokenize_chinese_chars", True),
    strip_accents=values.get("strip_accents"),
    lowercase=values.get("do_lower_case", True),
  )
  tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  # In a text they stand for themselves, as transformers has it.
  tokenizer.add_special_tokens([t for t in special.values() if t in words])
  ends = {key: (special[key], words[special[key]]) for key in ("cls", "sep")}
  tokenizer.post_processor = processors.BertProcessing(ends["sep"], ends["cls"])
  return tokenizer
