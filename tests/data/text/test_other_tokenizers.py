"""Directories without tokenizer.json, read through transformers."""

import json
import subprocess
import sys

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from bigrec_jax import errors
from bigrec_jax.data.text import tokenization

TEXTS = [
  "Hello world",
  'The user has played: "A (2001)", "B"\n \n\n### Response:\n',
  "Amélie 二つ 🎮  two  blanks",
  "a<|endoftext|>b",
  "",
]


def gpt2_files(directory):
  """vocab.json and merges.txt, as older checkpoints have them."""
  directory.mkdir(exist_ok=True)
  tokenizer = tokenizers.Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  trainer = trainers.BpeTrainer(
    vocab_size=400,
    special_tokens=["<|endoftext|>"],
    initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    show_progress=False,
  )
  tokenizer.train_from_iterator(TEXTS * 3, trainer)
  tokenizer.model.save(str(directory))
  write(directory, "config.json", {"model_type": "gpt2", "eos_token_id": 0})
  return directory


def bert_files(directory):
  """vocab.txt of an encoder."""
  directory.mkdir(exist_ok=True)
  words = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "hello",
    "world",
    "##s",
  ]
  letters = [*"abcdefgh", *(f"##{c}" for c in "abcdefgh")]
  (directory / "vocab.txt").write_text("\n".join(words + letters) + "\n")
  write(directory, "config.json", {"model_type": "bert"})
  return directory


def write(directory, name, value):
  (directory / name).write_text(json.dumps(value), encoding="utf-8")


@pytest.mark.torch
def test_vocab_and_merges_are_read_as_transformers_does(tmp_path):
  transformers = pytest.importorskip("transformers")
  directory = gpt2_files(tmp_path / "gpt2")
  theirs = transformers.AutoTokenizer.from_pretrained(directory)
  ours = tokenization.load_tokenizer(directory)
  assert not ours.add_bos and ours.eos_ids == (0,)
  assert ours.pad_id == 0 and ours.vocab_size == 1 + max(
    theirs.get_vocab().values()
  )
  batch = ours.encode_batch(TEXTS)
  for text, ids in zip(TEXTS, batch, strict=True):
    assert ids == theirs.encode(text, add_special_tokens=False), text
    assert ours.decode([*ids, 0]) == text.replace("<|endoftext|>", "")
  assert ours.encode_batch([]) == []
  # What was changed in a file is another tokenizer.
  again = tokenization.load_tokenizer(gpt2_files(tmp_path / "again"))
  assert again.fingerprint == ours.fingerprint
  write(directory, "tokenizer_config.json", {"add_bos_token": True})
  changed = tokenization.load_tokenizer(directory)
  assert changed.fingerprint != ours.fingerprint
  assert changed.encode("Hello")[0] == changed.bos_id == 0


@pytest.mark.torch
def test_vocab_of_an_encoder(tmp_path):
  transformers = pytest.importorskip("transformers")
  directory = bert_files(tmp_path / "bert")
  theirs = transformers.AutoTokenizer.from_pretrained(directory)
  ours = tokenization.load_tokenizer(directory)
  assert ours.encode("Hello worlds") == theirs.encode("Hello worlds")[:-1]
  assert (ours.bos_id, ours.eos_id, ours.pad_id) == (2, 3, 0)
  assert ours.decode(theirs.encode("Hello worlds")) == "hello worlds"


@pytest.mark.torch
def test_what_transformers_cannot_read_is_one_line(tmp_path):
  pytest.importorskip("transformers")
  (tmp_path / "vocab.txt").write_text("a\nb\n")
  with pytest.raises(errors.UserError, match="no tokenizer that transf") as e:
    tokenization.load_tokenizer(tmp_path)
  assert str(tmp_path) in str(e.value) and "\n" not in str(e.value)
  # Code that comes with a checkpoint is not run.
  auto = {"AutoTokenizer": ["own.Own", None]}
  write(tmp_path, "tokenizer_config.json", {"auto_map": auto})
  (tmp_path / "own.py").write_text("raise SystemExit('was run')\n")
  with pytest.raises(errors.UserError, match="no tokenizer that transformers"):
    tokenization.load_tokenizer(tmp_path)
  # A file of another model's: transformers makes an empty tokenizer of it.
  directory = bert_files(tmp_path / "bert")
  write(directory, "config.json", {"model_type": "gpt2"})
  with pytest.raises(errors.UserError, match="no tokenizer that transformers"):
    tokenization.load_tokenizer(directory)


def test_without_any_file_the_line_names_what_is_read(tmp_path):
  names = "tokenizer.json, tokenizer.model or one of vocab.json, vocab.txt"
  with pytest.raises(errors.UserError, match=names):
    tokenization.load_tokenizer(tmp_path)


def test_a_tokenizer_json_needs_no_transformers(tmp_path):
  tokenization.train_bpe(["the game of games"] * 3, 270, tmp_path)
  code = (
    "import sys\n"
    "from bigrec_jax.data.text import tokenization\n"
    f"tokenizer = tokenization.load_tokenizer({str(tmp_path)!r})\n"
    "assert tokenizer.decode(tokenizer.encode('the game')) == 'the game'\n"
    "heavy = ('transformers', 'torch', 'jax', 'gguf')\n"
    "print([name for name in heavy if name in sys.modules])\n"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert done.stdout.strip() == "[]"
