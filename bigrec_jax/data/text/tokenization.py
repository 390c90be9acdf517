"""Text to token ids and back, for Hugging Face tokenizer directories.

Two kinds of files are read: `tokenizer.json` (Llama-3, Qwen2, ours), and
`tokenizer.model` alone (SentencePiece LLaMA), which is encoded exactly as the
slow legacy LlamaTokenizer does. A directory with neither goes to transformers
(other_tokenizers.py), which nothing else needs.
"""

import os
import pathlib
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sentencepiece
import tokenizers
from absl import logging
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from bigrec_jax import errors
from bigrec_jax.data.text import (
  other_tokenizers,
  protocol,
  sentencepiece_file,
  special_text,
)
from bigrec_jax.workdir import fingerprints, storage

FAST_FILE = "tokenizer.json"
SENTENCEPIECE_FILE = "tokenizer.model"
UNK, BOS, EOS = "<unk>", "<s>", "</s>"  # Ids 0, 1, 2, as in LLaMA.


class Tokenizer:
  """A loaded tokenizer.

  Attributes:
    bos_id: beginning of sequence; None where the model has none (Qwen2).
    eos_id: what training appends to an example.
    eos_ids: what ends a generated text: `eos_id`, and those of config.json.
    pad_id: fills rows; never attended to.
    add_bos: whether `encode` starts with `bos_id`.
    vocab_size: largest id + 1.
    special: how its special tokens read, and how they are marked.
    fingerprint: names the tokenizer's behaviour.
  """

  def __init__(
    self,
    backend: protocol.Backend,
    *,
    bos_id: int | None,
    eos_ids: Sequence[int],
    pad_id: int,
    add_bos: bool,
    content: str,
  ):
    """Makes a tokenizer; `content` is the fingerprint of its file."""
    self._backend = backend
    self.bos_id = bos_id
    self.eos_ids = tuple(eos_ids)
    self.eos_id = self.eos_ids[0]
    self.pad_id = pad_id
    self.add_bos = add_bos and bos_id is not None
    self.vocab_size = backend.size
    backend.reserve([*self.eos_ids, pad_id, bos_id])
    self.special = special_text.Special(backend.special)
    self.fingerprint = fingerprints.of_value(
      [content, bos_id, self.eos_ids, pad_id, self.add_bos]
    )

  def encode(self, text: str) -> list[int]:
    """Returns the ids of a text, BOS first where the model wants it, no EOS."""
    return self.encode_batch([text])[0]

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    """Returns `encode` of every text, faster."""
    texts = list(map(special_text.unmarked, texts))
    return self._begun(self._backend.encode_batch(texts))

  def encode_data(self, texts: Sequence[str]) -> list[list[int]]:
    """Returns the ids of texts made of data, BOS first, no EOS.

    What reads like a special token is plain text there, unless marked.
    """
    return self._begun(self._backend.encode_data(self.special.marked(texts)))

  def _begun(self, encoded: list[list[int]]) -> list[list[int]]:
    if not self.add_bos or self.bos_id is None:
      return encoded
    return [[self.bos_id, *ids] for ids in encoded]

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text of ids; special tokens are skipped.

    Spaces before punctuation stay: Hugging Face's clean-up of them would
    corrupt titles.
    """
    return self._backend.decode([int(i) for i in ids])


class _Fast:
  """A `tokenizer.json`, run by the tokenizers library."""

  def __init__(self, path: pathlib.Path):
    content = storage.read_json(path)
    if not isinstance(content, dict) or "model" not in content:
      raise errors.UserError(f"{path}: a tokenizer with a model expected")
    self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
    # The file may carry the settings of its last use.
    self._tokenizer.no_truncation()
    self._tokenizer.no_padding()
    self.size = 1 + max(self._tokenizer.get_vocab(True).values())
    self._data = special_text.Encoder(self._tokenizer)
    self.special = self._data.special
    self.reserve = self._data.reserve
    self._lock = threading.Lock()  # Of whether special tokens are split.

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    return self._encode(texts, split=False)

  def encode_data(self, texts: Sequence[str]) -> list[list[int]]:
    return self._data.encode(texts, lambda part: self._encode(part, split=True))

  def _encode(self, texts: Sequence[str], split: bool) -> list[list[int]]:
    with self._lock:
      if self._tokenizer.encode_special_tokens != split:
        self._tokenizer.encode_special_tokens = split
      encodings = self._tokenizer.encode_batch_fast(
        list(texts), add_special_tokens=False
      )
    return [encoding.ids for encoding in encodings]

  def decode(self, ids: Sequence[int]) -> str:
    return self._tokenizer.decode(list(ids), skip_special_tokens=True)

  def token_id(self, token: str) -> int | None:
    return self._tokenizer.token_to_id(token)

  def first_special_id(self) -> int | None:
    """Returns the id that the post-processor puts first, if it puts any."""
    bare = self._tokenizer.encode("a", add_special_tokens=False).ids
    full = self._tokenizer.encode("a", add_special_tokens=True).ids
    return full[0] if full[: len(bare)] != bare else None


def load_tokenizer(directory: str | os.PathLike) -> Tokenizer:
  """Loads the tokenizer of a Hugging Face model directory.

  BOS, EOS and padding come from tokenizer_config.json, else from
  special_tokens_map.json, else from config.json. A generation_config.json
  changes nothing. Names that are empty, as in decapoda-research/llama-7b-hf,
  where all three ids would read as 0 (quirk 5), fall back to the ids of the
  SentencePiece model: 1, 2, and 0 for padding.

  Raises:
    UserError: no tokenizer, a damaged one, or one without EOS.
  """
  directory = pathlib.Path(directory)
  settings = _settings(directory)
  if (directory / FAST_FILE).is_file():
    return _load_fast(directory / FAST_FILE, settings)
  if (directory / SENTENCEPIECE_FILE).is_file():
    return _load_sentencepiece(directory / SENTENCEPIECE_FILE, settings)
  if any((directory / name).is_file() for name in other_tokenizers.FILES):
    return _load_other(directory, settings)
  raise errors.UserError(
    f"{directory}: no tokenizer found, {FAST_FILE}, {SENTENCEPIECE_FILE} or one"
    f" of {', '.join(other_tokenizers.FILES)} expected"
  )


def _settings(directory: pathlib.Path) -> dict[str, Any]:
  """Returns what the JSON files say, the more specific file first."""

  def read(name: str) -> dict[str, Any]:
    path = directory / name
    value = storage.read_json(path) if path.is_file() else {}
    if not isinstance(value, dict):
      raise errors.UserError(f"{path}: a JSON object expected")
    return value

  config = read("config.json")
  model_ids = {key: config.get(f"{key}_token_id") for key in ("bos", "eos")}
  tokens = read("special_tokens_map.json") | read("tokenizer_config.json")
  return {
    "model_ids": model_ids,
    "added": read("added_tokens.json"),
    "special": special_text.declared(tokens),
    **{
      key: tokens.get(key) for key in ("add_bos_token", "added_tokens_decoder")
    },
    **{
      key: _content(tokens.get(f"{key}_token")) for key in ("bos", "eos", "pad")
    },
  }


def _content(token: Any) -> str:
  """Returns the text of a token, which may be wrapped in an object."""
  return (token.get("content") if isinstance(token, dict) else token) or ""


def _config_ids(settings: Mapping[str, Any], key: str) -> list[int]:
  """Returns the ids that config.json gives; EOS may be one or several."""
  ids = settings["model_ids"][key]
  ids = ids if isinstance(ids, list) else [ids]
  return [i for i in ids if i is not None]


def _eos_ids(
  eos: int | None, bos: int | None, settings: Mapping[str, Any], size: int
) -> list[int]:
  """Returns the tokenizer's EOS first, then those of config.json.

  decapoda's config.json gives LLaMA's BOS as EOS, so BOS is left out.
  """
  declared = [] if eos is None else [eos]
  others = [
    i for i in _config_ids(settings, "eos") if 0 <= i < size and i != bos
  ]
  return list(dict.fromkeys(declared + others))


def _load_fast(path: pathlib.Path, settings: Mapping[str, Any]) -> Tokenizer:
  backend = _Fast(path)

  def declared(key: str) -> int | None:
    return backend.token_id(settings[key]) if settings[key] else None

  first, bos = backend.first_special_id(), declared("bos")
  return _finish(
    path.parent,
    settings,
    backend,
    ids=(first if bos is None else bos, declared("eos"), declared("pad")),
    adds_bos=first is not None,
    content=fingerprints.of_file(path),
  )


def _load_other(
  directory: pathlib.Path, settings: Mapping[str, Any]
) -> Tokenizer:
  backend = other_tokenizers.Other(directory)
  ids, adds_bos = backend.special_ids, backend.adds_bos
  return _finish(directory, settings, backend, ids, adds_bos, backend.content)


def _finish(
  directory: pathlib.Path,
  settings: Mapping[str, Any],
  backend: protocol.Backend,
  ids: tuple[int | None, int | None, int | None],
  adds_bos: bool,
  content: str,
) -> Tokenizer:
  """Makes the tokenizer; `ids` are of BOS, EOS and padding, as declared."""
  bos, eos, pad = ids
  eos_ids = _eos_ids(eos, bos, settings, backend.size)
  if not eos_ids:
    raise errors.UserError(
      f"{directory}: no end-of-sequence token found, eos_token in"
      " tokenizer_config.json or eos_token_id in config.json expected"
    )
  declared = settings["add_bos_token"]
  return Tokenizer(
    backend,
    bos_id=bos,
    eos_ids=eos_ids,
    pad_id=eos_ids[0] if pad is None else pad,
    add_bos=adds_bos if declared is None else declared,
    content=content,
  )


def _load_sentencepiece(
  path: pathlib.Path, settings: Mapping[str, Any]
) -> Tokenizer:
  added = dict(settings["added"])
  words = set(added)
  for i, token in (settings["added_tokens_decoder"] or {}).items():
    if name := _content(token):
      added[name] = int(i)
      is_word = isinstance(token, dict) and token.get("special") is False
      (words.add if is_word else words.discard)(name)
  words -= settings["special"]
  backend = sentencepiece_file.SentencePiece(path, added, words)
  processor = sentencepiece.SentencePieceProcessor(model_file=str(path))

  def declared(key: str, fallback: int) -> int:
    if settings[key]:
      found = backend.token_id(settings[key])
      if found is not None:
        return found
    elif key == "eos":
      logging.info("%s: no EOS declared, the model's own is used", path)
    return fallback

  bos = declared("bos", processor.bos_id())
  eos = declared("eos", processor.eos_id())
  if eos < 0:
    raise errors.UserError(f"{path}: a model with an EOS token expected")
  add_bos = settings["add_bos_token"]
  return Tokenizer(
    backend,
    bos_id=None if bos < 0 else bos,
    eos_ids=_eos_ids(eos, bos, settings, backend.size),
    pad_id=declared("pad", 0),
    add_bos=True if add_bos is None else add_bos,
    content=fingerprints.of_value([fingerprints.of_file(path), added]),
  )


def train_bpe(
  texts: Iterable[str], vocab_size: int, directory: str | os.PathLike
) -> None:
  """Trains a byte-level BPE and writes it as a Hugging Face directory.

  Equal texts in equal order give an equal tokenizer. The ids of <unk>, <s> and
  </s> are LLaMA's; <unk> never occurs in text and serves as padding.

  Args:
    texts: what to learn from.
    vocab_size: at most this many tokens, the 256 bytes and 3 special ones
      among them.
    directory: gets tokenizer.json, tokenizer_config.json and
      special_tokens_map.json.
  """
  directory = pathlib.Path(directory)
  tokenizer = tokenizers.Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=vocab_size,
    special_tokens=[UNK, BOS, EOS],
    initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    show_progress=False,
  )
  tokenizer.train_from_iterator(texts, trainer)
  tokenizer.post_processor = processors.TemplateProcessing(
    single=f"{BOS} $A",
    pair=f"{BOS} $A {BOS} $B",
    special_tokens=[(BOS, tokenizer.token_to_id(BOS))],
  )
  write_fast(directory, tokenizer)


def write_fast(
  directory: pathlib.Path, tokenizer: tokenizers.Tokenizer
) -> None:
  """Writes tokenizer.json and what AutoTokenizer needs beside it."""
  with storage.atomic_path(directory / FAST_FILE) as temporary:
    tokenizer.save(str(temporary))
  special = {
    "bos_token": BOS,
    "eos_token": EOS,
    "unk_token": UNK,
    "pad_token": UNK,
  }
  storage.write_json(directory / "special_tokens_map.json", special)
  storage.write_json(
    directory / "tokenizer_config.json",
    {
      "tokenizer_class": "PreTrainedTokenizerFast",
      "clean_up_tokenization_spaces": False,
      "model_max_length": int(1e30),  # Hugging Face's "no limit".
      **special,
    },
  )
