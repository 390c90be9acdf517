"""Tokenizers out of GGUF metadata: against those that they were written of."""

import gzip
import json

import pytest
import sentencepiece
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from bigrec_jax import errors
from bigrec_jax.data.text import gguf_tokenizer, tokenization
from tests.models import gguf_files

NASTY = [
  "Hello world",
  'The user has played: "A", "B"\n \n\n### Response:\n"C (2001)"',
  "tabs\tand\r\nlines\n\n\nand 12345 67.89 x²½",
  "Amélie 二つ の物語 – café naïve",
  "game 🎮 on 👩‍👩‍👧 \u200b done",
  "it's we'LL DON'T i'm",
  "a<|end|>b <|end|> c<think>d",
  "trailing   ",
  "",
]
BLANKS = ["  two before", " one before", "two  inside", "\n first", "x  7"]
CORPUS = [*NASTY, *BLANKS, "the game of games 2001", "we'll see the theme"] * 3


def byte_level(split, **changes):
  """A byte-level vocabulary trained on the corpus, as a file has it."""
  tokenizer = tokenizers.Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = gguf_tokenizer._splitter(split)
  trainer = trainers.BpeTrainer(
    vocab_size=600,
    special_tokens=["<|end|>", "<|start|>"],
    initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    show_progress=False,
  )
  tokenizer.train_from_iterator(CORPUS, trainer)
  model = json.loads(tokenizer.to_str())["model"]
  tokens = sorted(model["vocab"], key=model["vocab"].get)
  types = [gguf_files.CONTROL] * 2 + [gguf_files.NORMAL] * (len(tokens) - 2)
  return {
    "model": "gpt2",
    "pre": split,
    "tokens": [*tokens, "<think>", "[PAD99]"],
    "token_type": [*types, gguf_files.USER_DEFINED, gguf_files.UNUSED],
    "merges": [" ".join(pair) for pair in model["merges"]],
    "bos_token_id": 1,
    "eos_token_id": 0,
    **changes,
  }


def pieces(path):
  """A SentencePiece model, as a file has it."""
  model = sentencepiece.SentencePieceProcessor(model_file=str(path))
  ids = range(model.get_piece_size())

  def kind(i):
    if model.is_unknown(i):
      return gguf_files.UNKNOWN
    if model.is_control(i):
      return gguf_files.CONTROL
    return gguf_files.BYTE if model.is_byte(i) else gguf_files.NORMAL

  return model, {
    "model": "llama",
    "tokens": [model.id_to_piece(i) for i in ids],
    "scores": [model.get_score(i) for i in ids],
    "token_type": [kind(i) for i in ids],
    "bos_token_id": model.bos_id(),
    "eos_token_id": model.eos_id(),
    "unknown_token_id": model.unk_id(),
  }


@pytest.fixture(scope="module")
def trained_pieces(tmp_path_factory):
  folder = tmp_path_factory.mktemp("pieces")
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(text for text in CORPUS * 4 if text.strip()),
    model_prefix=str(folder / "m"),
    vocab_size=420,
    model_type="bpe",
    byte_fallback=True,
    normalization_rule_name="identity",
    remove_extra_whitespaces=False,
    character_coverage=0.98,
    minloglevel=2,
  )
  return folder / "m.model"


def load(directory, tokenizer, template=None):
  directory.mkdir(exist_ok=True)
  metadata = {f"tokenizer.ggml.{k}": v for k, v in tokenizer.items()}
  if template:
    metadata["tokenizer.chat_template"] = template
  gguf_tokenizer.write(directory, metadata, "x.gguf")
  return tokenization.load_tokenizer(directory)


def test_scores_encode_as_sentencepiece(trained_pieces, tmp_path):
  theirs, tokenizer = pieces(trained_pieces)
  ours = load(tmp_path, tokenizer)
  assert (ours.bos_id, ours.eos_ids, ours.add_bos) == (1, (2,), True)
  for text in NASTY + BLANKS:
    ids = theirs.encode(text)
    assert ours.encode(text) == [1, *ids], text
    assert ours.decode([1, *ids, 2]) == theirs.decode(ids) == text


def test_llama2s_pieces_encode_as_sentencepiece(shared_data, tmp_path):
  path = shared_data / "tokenizers" / "llama2_tokenizer.model"
  theirs, tokenizer = pieces(path)
  ours = load(tmp_path, tokenizer)
  with gzip.open(
    shared_data / "amazon-toys" / "test.json.gz", "rt", encoding="utf-8"
  ) as file:
    rows = json.load(file)[:150]
  texts = [row["instruction"] + row["input"] + row["output"] for row in rows]
  for text in NASTY + BLANKS + texts:
    assert ours.encode(text) == [1, *theirs.encode(text)], text


def test_no_blank_before_a_text_where_the_file_says_so(
  trained_pieces, tmp_path
):
  _, tokenizer = pieces(trained_pieces)
  tokenizer |= {"add_space_prefix": False, "add_bos_token": False}
  ours = load(tmp_path, tokenizer)
  for text in ["the game", " the game", ""]:
    ids = ours.encode(text)
    spelt = "".join(tokenizer["tokens"][i] for i in ids)
    assert spelt == text.replace(" ", "\u2581")
    assert ours.decode(ids) == text


def test_smollm_cuts_at_each_digit_before_all_else(tmp_path):
  tokenizer = byte_level("gpt-2", pre="smollm")
  ours = load(tmp_path, tokenizer)
  tokens = tokenizer["tokens"]
  assert "200" in tokens  # GPT-2's splitting would use it.
  spelt = [tokens[i] for i in ours.encode("the  2001")]
  assert spelt == ["the", "ĠĠ", "2", "0", "0", "1"]


def test_special_tokens_bos_and_defaults(tmp_path):
  ours = load(tmp_path / "a", byte_level("llama-bpe"), template="{{ x }}")
  assert ours.add_bos and ours.encode("a")[0] == ours.bos_id == 1
  assert ours.eos_ids == (0,) and ours.pad_id == 0
  settings = json.loads((tmp_path / "a" / "tokenizer_config.json").read_text())
  assert settings["chat_template"] == "{{ x }}"
  # The token for `<think>` is whole, and is kept in a decoded text.
  think = ours.encode("<think>")[1]
  assert ours.encode("x<think>")[-1] == think
  assert ours.decode([1, think, 0]) == "<think>"
  for pre in ("qwen2", "gpt-2", "smollm"):
    assert not load(tmp_path / pre, byte_level(pre)).add_bos
  qwen = load(tmp_path / "q", byte_level("qwen2", padding_token_id=1))
  assert qwen.pad_id == 1
  # As Qwen2's own tokenizer.json: composed characters.
  assert qwen.encode("cafe\u0301") == qwen.encode("caf\u00e9")


WRONG = {
  "model: 'bert' found, one of gpt2, llama": dict(model="bert"),
  "pre: 'nobody' found, one of gpt-2, default, smollm": dict(pre="nobody"),
  "tokens: 'a' twice found": dict(tokens=["a", "b", "a"]),
  "tokens: None found, an array": dict(tokens=None),
  "merges: 'ab' found, two tokens and a blank": dict(merges=["ab"]),
  "merges: .*out of vocabulary": dict(merges=["nobody knows"]),
  "eos_token_id: None found": dict(eos_token_id=None),
  "bos_token_id: 9999 found, one of 4": dict(bos_token_id=9999),
  "token_type: 2 values found": dict(token_type=[1, 1]),
}


@pytest.mark.parametrize("problem", WRONG)
def test_a_mistake_is_one_line(problem, tmp_path):
  with pytest.raises(errors.UserError, match=problem) as caught:
    load(tmp_path, byte_level("gpt-2", **WRONG[problem]))
  assert str(caught.value).startswith("x.gguf: tokenizer.ggml.")
  assert "\n" not in str(caught.value)


def of_transformers(path, tokenizer, arch="llama"):
  """transformers' own tokenizer of a GGUF file."""
  transformers = pytest.importorskip("transformers")
  gguf_files.write(path, arch, {}, {}, tokenizer)
  return transformers.AutoTokenizer.from_pretrained(
    path.parent, gguf_file=path.name
  )


@pytest.mark.torch
@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "llama-bpe", "qwen2"])
def test_byte_level_equals_transformers_loading(pre, tmp_path):
  tokenizer = byte_level(pre, add_bos_token=True)
  arch = "qwen2" if pre == "qwen2" else "llama"
  theirs = of_transformers(tmp_path / "m.gguf", tokenizer, arch)
  ours = load(tmp_path / "out", tokenizer)
  # transformers takes GPT-2's splitting for smollm: blanks before a digit
  # come out otherwise there.
  texts = [t for t in NASTY + BLANKS if pre != "smollm" or "  7" not in t]
  for text in texts:
    ids = theirs(text)["input_ids"]
    assert ours.encode(text) == ids, text
    decoded = theirs.decode(
      ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    assert ours.decode(ids) == decoded
  assert (theirs.bos_token_id, theirs.eos_token_id) == (1, 0)
  assert ours.eos_ids == (0,)


@pytest.mark.torch
def test_pieces_equal_transformers_loading(trained_pieces, tmp_path):
  _, tokenizer = pieces(trained_pieces)
  theirs = of_transformers(tmp_path / "m.gguf", tokenizer)
  ours = load(tmp_path / "out", tokenizer)
  # It puts no blank before a blank and after a special token, SentencePiece
  # and llama.cpp do.
  for text in [t for t in NASTY if t]:
    ids = theirs(text)["input_ids"]
    assert ours.encode(text) == ids, text
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


@pytest.mark.torch
def test_qwen2s_vocabulary_encodes_as_its_own_tokenizer(shared_data, tmp_path):
  transformers = pytest.importorskip("transformers")
  folder = shared_data / "tokenizers"
  source = tmp_path / "source"
  source.mkdir()
  for name in ("vocab.json", "merges.txt"):
    content = gzip.decompress((folder / f"qwen2.5_{name}.gz").read_bytes())
    (source / name).write_bytes(content)
  theirs = transformers.Qwen2Tokenizer.from_pretrained(source)
  vocabulary = theirs.get_vocab()
  tokens = sorted(vocabulary, key=vocabulary.get)
  special = set(theirs.all_special_tokens)
  merges = (source / "merges.txt").read_text().splitlines()
  ours = load(
    tmp_path / "out",
    {
      "model": "gpt2",
      "pre": "qwen2",
      "tokens": tokens,
      "token_type": [3 if token in special else 1 for token in tokens],
      "merges": [m for m in merges if m and not m.startswith("#version")],
      "eos_token_id": vocabulary["<|endoftext|>"],
    },
  )
  for text in [*NASTY, *BLANKS, "cafe\u0301 <|endoftext|> x"]:
    assert ours.encode(text) == theirs.encode(text), text
