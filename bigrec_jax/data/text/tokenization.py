"""Text to token ids and back, for Hugging Face tokenizer directories.

Two kinds of files are read: `tokenizer.json` (Llama-3, Qwen2, ours), and
`tokenizer.model` alone (SentencePiece LLaMA), which is encoded exactly as the
slow legacy LlamaTokenizer does. A directory with neither goes to transformers
(other_tokenizers.py), which nothing else needs.
"""

import os
import pathlib
from collections.abc import Iterable, Sequence

import sentencepiece
import tokenizers
from absl import logging
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from bigrec_jax import errors
from bigrec_jax.data.text import (
  fast_file,
  other_tokenizers,
  protocol,
  sentencepiece_file,
  special_text,
  tokenizer_settings,
)
from bigrec_jax.data.text.tokenizer_settings import Settings
from bigrec_jax.workdir import fields, fingerprints, storage

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
    source: pathlib.Path,
  ):
    """Makes a tokenizer; `content` is the fingerprint of the file `source`."""
    self._backend = backend
    self._source = source
    self._rows: int | None = None  # Of the model, if a text may be beyond.
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

  def fit(self, config: pathlib.Path) -> None:
    """Checks that a model has a row of its embedding for every token.

    A padding token alone may have none (LLaMA's has often been added like
    that): rows are filled with EOS then, which is never attended to either.

    Args:
      config: the model's config.json; nothing is checked where there is none.

    Raises:
      UserError: another token has no row.
    """
    if not config.is_file():
      return
    values = fields.Fields(storage.read_json(config), f"{config}:")
    rows = values.get("vocab_size", fields.whole)
    if self.vocab_size <= rows:
      return
    if self.vocab_size - 1 != self.pad_id or self.pad_id != rows:
      raise errors.UserError(
        f"{self._source}: {self.vocab_size} tokens found, ids up to"
        f" {self.vocab_size - 1}, but {config} has vocab_size {rows}: at most"
        " as many tokens expected (config.model.tokenizer may name the"
        " tokenizer of this model)"
      )
    logging.warning(
      "%s: padding token %d is beyond the model's vocab_size %d; rows are"
      " filled with %d instead",
      self._source,
      self.pad_id,
      rows,
      self.eos_id,
    )
    self.pad_id, self._rows = self.eos_id, rows
    self.fingerprint = fingerprints.of_value([self.fingerprint, self.pad_id])

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
    if self._rows is not None:
      for ids in encoded:
        if ids and max(ids) >= self._rows:
          raise errors.UserError(
            f"{self._source}: the padding token found in a text, which the"
            " model has no embedding of; texts without it expected"
          )
    if not self.add_bos or self.bos_id is None:
      return encoded
    return [[self.bos_id, *ids] for ids in encoded]

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text of ids; special tokens are skipped.

    Spaces before punctuation stay: Hugging Face's clean-up of them would
    corrupt titles.
    """
    return self._backend.decode([int(i) for i in ids])


def load_tokenizer(
  directory: str | os.PathLike, model: str | os.PathLike | None = None
) -> Tokenizer:
  """Loads the tokenizer of a Hugging Face model directory.

  BOS, EOS and padding come from tokenizer_config.json, else from
  special_tokens_map.json, else from config.json. A generation_config.json
  changes nothing. Names that are empty, as in decapoda-research/llama-7b-hf,
  where all three ids would read as 0 (quirk 5), fall back to the ids of the
  SentencePiece model: 1, 2, and 0 for padding. Whether a BOS goes before a
  text is the post-processor's to say where there is a tokenizer.json, as in
  transformers 5, and add_bos_token's elsewhere.

  Args:
    directory: of the tokenizer's files.
    model: directory of the model that reads its tokens, if they are to be
      compared; without a config.json there they aren't.

  Raises:
    UserError: no tokenizer, a damaged one, one without EOS, or one with
      tokens that the model has no embedding of.
  """
  directory = pathlib.Path(directory)
  found = _load(directory, tokenizer_settings.read(directory))
  if model is not None:
    found.fit(pathlib.Path(model) / "config.json")
  return found


def _load(directory: pathlib.Path, settings: Settings) -> Tokenizer:
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


def _eos_ids(
  eos: int | None, bos: int | None, declared_ids: Sequence[int], size: int
) -> list[int]:
  """Returns the tokenizer's EOS first, then those of config.json.

  decapoda's config.json gives LLaMA's BOS as EOS, so BOS is left out.
  """
  declared = [] if eos is None else [eos]
  others = [i for i in declared_ids if 0 <= i < size and i != bos]
  return list(dict.fromkeys(declared + others))


def _load_fast(path: pathlib.Path, settings: Settings) -> Tokenizer:
  backend = fast_file.Fast(path)

  def declared(key: str) -> int | None:
    name = settings.names[key]
    found = backend.token_id(name) if name else None
    if name and found is None:
      logging.warning("%s: %s_token %r: no such token in it", path, key, name)
    return found

  first, bos = backend.first_special_id(), declared("bos")
  if settings.add_bos not in (None, first is not None):
    logging.warning(
      "%s: add_bos_token %s: the post-processor of %s says otherwise, and goes"
      " before it, as in transformers",
      path.parent,
      settings.add_bos,
      path.name,
    )
  return _finish(
    path.parent,
    settings,
    backend,
    ids=(bos if first is None else first, declared("eos"), declared("pad")),
    add_bos=first is not None,
    content=fingerprints.of_file(path),
  )


def _load_other(directory: pathlib.Path, settings: Settings) -> Tokenizer:
  backend = other_tokenizers.Other(directory)
  said = settings.add_bos
  add_bos = backend.adds_bos if said is None else said
  ids, content = backend.special_ids, backend.content
  return _finish(directory, settings, backend, ids, add_bos, content)


def _finish(
  directory: pathlib.Path,
  settings: Settings,
  backend: protocol.Backend,
  ids: tuple[int | None, int | None, int | None],
  add_bos: bool,
  content: str,
) -> Tokenizer:
  """Makes the tokenizer; `ids` are of BOS, EOS and padding, as declared."""
  bos, eos, pad = ids
  eos_ids = _eos_ids(eos, bos, settings.model_eos, backend.size)
  if not eos_ids:
    raise errors.UserError(
      f"{directory}: no end-of-sequence token found, eos_token in"
      " tokenizer_config.json or eos_token_id in config.json expected"
    )
  return Tokenizer(
    backend,
    bos_id=bos,
    eos_ids=eos_ids,
    pad_id=eos_ids[0] if pad is None else pad,
    add_bos=add_bos,
    content=content,
    source=directory,
  )


def _load_sentencepiece(path: pathlib.Path, settings: Settings) -> Tokenizer:
  added = dict(settings.added)
  words = set(added)
  for i, (name, special) in settings.decoder.items():
    added[name] = i
    (words.add if special is False else words.discard)(name)
  words -= settings.special
  backend = sentencepiece_file.SentencePiece(path, added, words)
  processor = sentencepiece.SentencePieceProcessor(model_file=str(path))

  def declared(key: str, fallback: int) -> int:
    if name := settings.names[key]:
      found = backend.token_id(name)
      if found is not None:
        return found
    elif key == "eos":
      logging.info("%s: no EOS declared, the model's own is used", path)
    return fallback

  bos = declared("bos", processor.bos_id())
  eos = declared("eos", processor.eos_id())
  if eos < 0:
    raise errors.UserError(f"{path}: a model with an EOS token expected")
  return Tokenizer(
    backend,
    bos_id=None if bos < 0 else bos,
    eos_ids=_eos_ids(eos, bos, settings.model_eos, backend.size),
    pad_id=declared("pad", 0),
    add_bos=settings.add_bos is not False,
    content=fingerprints.of_value([fingerprints.of_file(path), added]),
    source=path,
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
