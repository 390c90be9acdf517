"""The tokenizer in a GGUF file's metadata, as a Hugging Face directory.

Two kinds of vocabulary are known: `gpt2`, byte-level BPE with its merges, and
`llama`, SentencePiece's BPE, whose merges follow from the pieces' scores. The
file names the splitting of text that comes before BPE (`tokenizer.ggml.pre`)
and doesn't contain it. So the splits are here, as the tokenizer.json files of
the models have them, and any other name is refused: a wrong split gives other
tokens in silence.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import tokenizers
from absl import logging
from tokenizers import (
  AddedToken,
  decoders,
  models,
  normalizers,
  pre_tokenizers,
  processors,
)

from bigrec_jax import errors
from bigrec_jax.data.text import tokenization
from bigrec_jax.workdir import storage

_MODELS = ("gpt2", "llama")
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4  # Of tokenizer.ggml.token_type.
_BLANK = "\u2581"  # SentencePiece's.
_UNLIMITED = int(1e30)  # Hugging Face's "no limit".

_LLAMA3 = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
  r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Qwen2's differs in its numbers: a token for each digit.
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_PRE = {
  "gpt-2": "gpt-2",
  "default": "gpt-2",
  "smollm": "smollm",
  "llama-bpe": "llama-bpe",
  "llama3": "llama-bpe",
  "llama-v3": "llama-bpe",
  "qwen2": "qwen2",
  "deepseek-r1-qwen": "qwen2",
}


def write(
  directory: pathlib.Path, metadata: Mapping[str, Any], source: str
) -> None:
  """Writes tokenizer.json, tokenizer_config.json and special_tokens_map.json.

  Args:
    directory: gets the files.
    metadata: of the GGUF file, arrays as lists.
    source: the file's name, for messages.

  Raises:
    UserError: there is no tokenizer in it, or one of another kind.
  """
  reader = _Reader(metadata, source)
  kind = reader.value("model")
  if not isinstance(kind, str) or kind not in _MODELS:
    raise reader.error("model", f"one of {', '.join(_MODELS)}")
  tokens = reader.tokens()
  if kind == "gpt2":
    pre = _pre(reader)
    tokenizer = _byte_level(reader, tokens, pre)
    add_bos = reader.flag("add_bos_token", pre == "llama-bpe")
  else:
    tokenizer = _sentencepiece(reader, tokens)
    add_bos = reader.flag("add_bos_token", True)
  _add_tokens(tokenizer, reader, tokens)
  special = {
    f"{key}_token": tokens[i]
    for key, i in reader.special_ids(len(tokens)).items()
  }
  bos = special.get("bos_token")
  if add_bos and bos is not None:
    tokenizer.post_processor = processors.TemplateProcessing(
      single=[bos, "$A"],
      pair=[bos, "$A", bos, "$B:1"],
      special_tokens=[(bos, tokenizer.token_to_id(bos))],
    )
  tokenizer.save(str(directory / tokenization.FAST_FILE))
  storage.write_json(directory / "special_tokens_map.json", special)
  settings = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "clean_up_tokenization_spaces": False,
    "model_max_length": _UNLIMITED,
    "add_bos_token": add_bos,
    "add_eos_token": reader.flag("add_eos_token", False),
    **special,
  }
  if template := metadata.get("tokenizer.chat_template"):
    if not isinstance(template, str):
      raise errors.UserError(
        f"{source}: tokenizer.chat_template: {repr(template)[:40]} found, a"
        " text expected"
      )
    settings["chat_template"] = template
  storage.write_json(directory / "tokenizer_config.json", settings)


class _Reader:
  """Look-ups under `tokenizer.ggml`, whose errors name the file and key."""

  def __init__(self, metadata: Mapping[str, Any], source: str):
    self._metadata = metadata
    self._source = source

  def value(self, name: str, otherwise: Any = None) -> Any:
    return self._metadata.get(f"tokenizer.ggml.{name}", otherwise)

  def error(
    self, name: str, expected: str, found: Any = None
  ) -> errors.UserError:
    found = repr(self.value(name))[:60] if found is None else found
    return errors.UserError(
      f"{self._source}: tokenizer.ggml.{name}: {found} found, {expected}"
      " expected"
    )

  def flag(self, name: str, otherwise: bool) -> bool:
    found = self.value(name, otherwise)
    if not isinstance(found, (bool, np.bool_)):
      raise self.error(name, "true or false")
    return bool(found)

  def array(
    self,
    name: str,
    kinds: type | tuple[type, ...],
    length: int | None = None,
  ) -> list[Any]:
    values = self.value(name)
    if not isinstance(values, list):
      raise self.error(name, "an array")
    for value in values:
      if not isinstance(value, kinds) or value != value:  # NaN is not.
        raise self.error(name, "an array of another type", repr(value)[:40])
    if length is not None and len(values) != length:
      raise self.error(name, f"{length}, one a token,", f"{len(values)} values")
    return values

  def tokens(self) -> list[str]:
    tokens = self.array("tokens", str)
    seen: set[str] = set()
    for token in tokens:
      if token in seen:
        raise self.error("tokens", "each token once", f"{token!r} twice")
      seen.add(token)
    return tokens

  def types(self, count: int) -> list[int]:
    return (
      []
      if self.value("token_type") is None
      else self.array("token_type", int, count)
    )

  def special_ids(self, count: int) -> dict[str, int]:
    """Returns the ids of bos, eos, unk and pad, of those that are given."""
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    found = {}
    for key, name in names.items():
      i = self.value(f"{name}_token_id")
      if i is None:
        continue
      if isinstance(i, bool) or not isinstance(i, int) or not 0 <= i < count:
        raise self.error(f"{name}_token_id", f"one of {count} tokens")
      found[key] = i
    if "eos" not in found:
      raise self.error("eos_token_id", "the token that ends a text")
    return found


def _pre(reader: _Reader) -> str:
  """Returns how text is split, under one name for each way."""
  pre = reader.value("pre", "default")
  if not isinstance(pre, str) or pre not in _PRE:
    raise reader.error("pre", f"one of {', '.join(_PRE)}")
  if pre == "default":
    # Files of before llama.cpp knew of the key have none.
    logging.warning(
      "%s names no splitting of text; GPT-2's is taken, and another one in the"
      " model's training would have given other tokens",
      reader.value("model"),
    )
  return _PRE[pre]


def _byte_level(
  reader: _Reader, tokens: list[str], pre: str
) -> tokenizers.Tokenizer:
  merges = []
  for merge in reader.array("merges", str):
    # No symbol of the byte alphabet is a blank, so one blank parts the two.
    left, blank, right = merge.partition(" ")
    if not (left and blank and right):
      raise reader.error("merges", "two tokens and a blank", repr(merge))
    merges.append((left, right))
  vocabulary = {token: i for i, token in enumerate(tokens)}
  try:
    model = models.BPE(vocabulary, merges, ignore_merges=pre == "llama-bpe")
  except Exception as error:  # The library has no type of its own.
    raise reader.error("merges", "pairs of tokens", str(error)) from None
  tokenizer = tokenizers.Tokenizer(model)
  tokenizer.pre_tokenizer = _splitter(pre)
  if pre == "qwen2":
    tokenizer.normalizer = normalizers.NFC()
  tokenizer.decoder = decoders.ByteLevel()
  return tokenizer


def _splitter(pre: str) -> pre_tokenizers.PreTokenizer:
  if pre == "gpt-2":
    return pre_tokenizers.ByteLevel(add_prefix_space=False)
  first: pre_tokenizers.PreTokenizer
  if pre == "smollm":
    first = pre_tokenizers.Digits(individual_digits=True)
    second = pre_tokenizers.ByteLevel(add_prefix_space=False)
  else:
    pattern = tokenizers.Regex(_QWEN2 if pre == "qwen2" else _LLAMA3)
    first = pre_tokenizers.Split(pattern, "isolated")
    second = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
  return pre_tokenizers.Sequence([first, second])


def _sentencepiece(reader: _Reader, tokens: list[str]) -> tokenizers.Tokenizer:
  """SentencePiece's BPE: blanks are symbols, unknown characters are bytes."""
  scores = reader.array("scores", (int, float), len(tokens))
  unknown = reader.special_ids(len(tokens)).get("unk")
  tokenizer = tokenizers.Tokenizer(
    models.BPE(
      {token: i for i, token in enumerate(tokens)},
      _merges(tokens, scores, reader.types(len(tokens))),
      unk_token=None if unknown is None else tokens[unknown],
      fuse_unk=True,
      byte_fallback=True,
    )
  )
  steps: list[normalizers.Normalizer] = [normalizers.Replace(" ", _BLANK)]
  decoding = [
    decoders.Replace(_BLANK, " "),
    decoders.ByteFallback(),
    decoders.Fuse(),
  ]
  if reader.flag("add_space_prefix", True):
    # Before every piece between special tokens, also before a blank.
    steps.insert(0, normalizers.Prepend(_BLANK))
    decoding.append(decoders.Strip(" ", 1, 0))
  tokenizer.normalizer = normalizers.Sequence(steps)
  tokenizer.decoder = decoders.Sequence(decoding)
  return tokenizer


def _merges(
  tokens: list[str], scores: list[float], types: list[int]
) -> list[tuple[str, str]]:
  """Returns the merges that give what SentencePiece's scores give.

  SentencePiece joins the two neighbours whose whole has the highest score,
  BPE those whose pair comes first: so each token's ways to be made of two
  others, in the order of the scores. Only normal tokens are made of others.
  """
  numbers = [i for i in range(len(tokens)) if not types or types[i] == _NORMAL]
  known = {tokens[i] for i in numbers}
  return [
    (token[:cut], token[cut:])
    for token in (tokens[i] for i in sorted(numbers, key=lambda i: -scores[i]))
    for cut in range(1, len(token))
    if token[:cut] in known and token[cut:] in known
  ]


def _add_tokens(
  tokenizer: tokenizers.Tokenizer, reader: _Reader, tokens: list[str]
) -> None:
  """Has control and user-defined tokens recognised whole in a text."""
  control, own = [], []
  for token, kind in zip(tokens, reader.types(len(tokens)), strict=False):
    if kind == _CONTROL:
      control.append(AddedToken(token, special=True, normalized=False))
    elif kind == _USER_DEFINED:
      own.append(AddedToken(token, special=False, normalized=False))
  for i in reader.special_ids(len(tokens)).values():
    control.append(AddedToken(tokens[i], special=True, normalized=False))
  tokenizer.add_special_tokens(control)
  tokenizer.add_tokens(own)
  size = tokenizer.get_vocab_size(with_added_tokens=True)
  if size != len(tokens):
    raise ValueError(f"{size} tokens of {len(tokens)}")
