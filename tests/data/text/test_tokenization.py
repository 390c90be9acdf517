"""Tokenizers against literals, and live against transformers."""

import gzip
import json
import shutil

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from bigrec_jax import errors
from bigrec_jax.data.text import tokenization

LINES = [
  "Hello world",
  'The user has played: "A", "B"\n \n\n### Response:\n"C (2001)"',
  "two  spaces\nand\ttabs",
  "Amélie 二つ の物語 – café",
  "game 🎮 on",
  "",
]
LEADING_BLANKS = ["  two before", " one before", "\n first"]


def _sentencepiece_dir(tmp_path, shared_data):
  source = shared_data / "tokenizers" / "llama2_tokenizer.model"
  shutil.copy(source, tmp_path / "tokenizer.model")
  return tmp_path


def _write(directory, name, value):
  (directory / name).write_text(json.dumps(value), encoding="utf-8")


@pytest.fixture(scope="module")
def bpe(tmp_path_factory):
  """A small BPE of ours; ids: <unk> 0, <s> 1, </s> 2, bytes 3..258."""
  directory = tmp_path_factory.mktemp("bpe")
  texts = ["the game of games", 'the user "played" the game'] * 5
  tokenization.train_bpe(texts, 270, directory)
  return directory


def test_sentencepiece_is_the_slow_legacy_llama_tokenizer(
  tmp_path, shared_data
):
  tokenizer = tokenization.load_tokenizer(
    _sentencepiece_dir(tmp_path, shared_data)
  )
  # Ids of the Llama-2 vocabulary: "▁Hello" 15043, "▁world" 3186, "▁" 29871,
  # "▁▁" 259, "▁two" 1023, newline byte 13, "▁x" 921.
  assert tokenizer.encode("Hello world") == [1, 15043, 3186]
  assert tokenizer.encode("  two") == [1, 259, 1023]
  assert tokenizer.encode(" x") == [1, 29871, 921]
  assert tokenizer.encode("x\n\nx") == [1, 921, 13, 13, 29916]
  assert tokenizer.encode("") == [1]
  # "🎮" is no piece: four bytes, id = byte + 3.
  utf8 = "🎮".encode()
  assert tokenizer.encode("🎮")[-4:] == [byte + 3 for byte in utf8]
  # Special tokens cut the text; what follows gets a prefix blank of its own.
  assert tokenizer.encode("x</s>x") == [1, 921, 2, 921]
  ids = (tokenizer.bos_id, tokenizer.eos_ids, tokenizer.pad_id)
  assert ids == (1, (2,), 0)
  assert tokenizer.vocab_size == 32000


def test_sentencepiece_round_trip(tmp_path, shared_data):
  tokenizer = tokenization.load_tokenizer(
    _sentencepiece_dir(tmp_path, shared_data)
  )
  for text in LINES + LEADING_BLANKS:
    assert tokenizer.decode(tokenizer.encode(text)) == text
  assert tokenizer.decode([0, 15043, 2, 2]) == "Hello"
  batch = tokenizer.encode_batch(LINES)
  assert batch == [tokenizer.encode(text) for text in LINES]


def test_empty_special_tokens_of_decapoda_read_as_llamas(tmp_path, shared_data):
  directory = _sentencepiece_dir(tmp_path, shared_data)
  empty = {"bos_token": "", "eos_token": "", "unk_token": ""}
  _write(directory, "tokenizer_config.json", empty)
  _write(directory, "special_tokens_map.json", {})
  _write(directory, "config.json", {"bos_token_id": 0, "eos_token_id": 1})
  tokenizer = tokenization.load_tokenizer(directory)
  assert tokenizer.encode("Hello") == [1, 15043]
  ids = (tokenizer.bos_id, tokenizer.eos_ids, tokenizer.pad_id)
  assert ids == (1, (2,), 0)


def test_sentencepiece_added_tokens_and_no_bos(tmp_path, shared_data):
  directory = _sentencepiece_dir(tmp_path, shared_data)
  _write(directory, "added_tokens.json", {"[PAD]": 32000})
  _write(
    directory,
    "tokenizer_config.json",
    {"pad_token": {"content": "[PAD]"}, "add_bos_token": False},
  )
  tokenizer = tokenization.load_tokenizer(directory)
  assert (tokenizer.pad_id, tokenizer.vocab_size) == (32000, 32001)
  assert tokenizer.encode("Hello[PAD]") == [15043, 32000]
  assert tokenizer.decode([15043, 32000]) == "Hello"


def test_trained_bpe_has_llamas_special_ids_and_round_trips(bpe):
  tokenizer = tokenization.load_tokenizer(bpe)
  ids = (tokenizer.bos_id, tokenizer.eos_ids, tokenizer.pad_id)
  assert ids == (1, (2,), 0)
  assert tokenizer.vocab_size == 270
  for text in LINES + LEADING_BLANKS:
    encoded = tokenizer.encode(text)
    assert encoded[0] == 1
    assert 2 not in encoded
    assert tokenizer.decode([*encoded, 2]) == text
  # "game" was seen often enough to be one token, whatever surrounds it.
  assert len(tokenizer.encode(" game")) == 2
  assert tokenizer.encode_batch(LINES) == [tokenizer.encode(t) for t in LINES]


def test_train_bpe_is_deterministic(bpe, tmp_path):
  texts = ["the game of games", 'the user "played" the game'] * 5
  tokenization.train_bpe(texts, 270, tmp_path)
  for name in ("tokenizer.json", "tokenizer_config.json"):
    assert (tmp_path / name).read_bytes() == (bpe / name).read_bytes()
  fingerprints = {
    tokenization.load_tokenizer(d).fingerprint for d in (bpe, tmp_path)
  }
  assert len(fingerprints) == 1


def test_fingerprint_tells_files_and_settings_apart(bpe, tmp_path):
  seen = {tokenization.load_tokenizer(bpe).fingerprint}
  shutil.copy(bpe / "tokenizer.json", tmp_path)
  for config in ({"eos_token": "</s>"}, {"eos_token": "<s>"}):
    _write(tmp_path, "tokenizer_config.json", config | {"pad_token": "<unk>"})
    seen.add(tokenization.load_tokenizer(tmp_path).fingerprint)
  tokenization.train_bpe(["other text"] * 3, 265, tmp_path)
  seen.add(tokenization.load_tokenizer(tmp_path).fingerprint)
  assert len(seen) == 3  # The first config changes nothing.


def _write_word_level(directory, post_processor=None):
  words = ["<bos>", "<eos>", "<end>", "a", "b"]
  tokenizer = tokenizers.Tokenizer(
    models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="a")
  )
  tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
  tokenizer.add_special_tokens(words[:3])
  if post_processor is not None:
    tokenizer.post_processor = post_processor
  # Left by somebody's last call; must not cut or fill our texts.
  tokenizer.enable_truncation(2)
  tokenizer.enable_padding(length=7)
  tokenizer.save(str(directory / "tokenizer.json"))


def test_fast_tokenizer_without_bos_and_several_eos(tmp_path):
  _write_word_level(tmp_path)
  _write(tmp_path, "tokenizer_config.json", {"eos_token": "<end>"})
  _write(tmp_path, "config.json", {"eos_token_id": [1, 2]})
  _write(tmp_path, "generation_config.json", {"eos_token_id": 4})
  tokenizer = tokenization.load_tokenizer(tmp_path)
  assert tokenizer.encode("a b a b") == [3, 4, 3, 4]
  assert tokenizer.bos_id is None
  assert (tokenizer.eos_id, tokenizer.eos_ids) == (2, (2, 1))
  assert tokenizer.pad_id == 2


def test_fast_tokenizer_takes_bos_from_the_post_processor(tmp_path):
  template = processors.TemplateProcessing(
    single="<bos> $A <eos>", special_tokens=[("<bos>", 0), ("<eos>", 1)]
  )
  _write_word_level(tmp_path, template)
  _write(tmp_path, "special_tokens_map.json", {"eos_token": "<eos>"})
  tokenizer = tokenization.load_tokenizer(tmp_path)
  assert tokenizer.encode("a b") == [0, 3, 4]  # EOS is the trainer's to add.


@pytest.mark.torch
@pytest.mark.parametrize("said", [None, True, False])
@pytest.mark.parametrize("template", ["<bos> $A", "<end> $A", None])
def test_add_bos_token_against_the_post_processor(
  said, template, tmp_path, caplog
):
  transformers = pytest.importorskip("transformers")
  names = {"<bos>": 0, "<eos>": 1, "<end>": 2}
  processor = template and processors.TemplateProcessing(
    single=template, special_tokens=list(names.items())
  )
  _write_word_level(tmp_path, processor)
  config = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "a"}
  config["tokenizer_class"] = "PreTrainedTokenizerFast"
  config |= {} if said is None else {"add_bos_token": said}
  _write(tmp_path, "tokenizer_config.json", config)
  theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
  tokenizer = tokenization.load_tokenizer(tmp_path)
  assert tokenizer.encode("a b") == theirs("a b", truncation=False).input_ids
  contradicts = said not in (None, template is not None)
  assert ("post-processor" in caplog.text) == contradicts


def _with_rows(directory, rows):
  _write(directory, "config.json", {"vocab_size": rows})
  return tokenization.load_tokenizer(directory, directory)


def test_more_tokens_than_the_model_has_rows(tmp_path):
  _write_word_level(tmp_path)
  config = {"eos_token": "<eos>", "pad_token": "<end>"}
  _write(tmp_path, "tokenizer_config.json", config)
  plain = tokenization.load_tokenizer(tmp_path)
  for rows in (5, 64):  # Rows beyond the tokens are for speed.
    assert _with_rows(tmp_path, rows).fingerprint == plain.fingerprint
  with pytest.raises(errors.UserError) as caught:
    _with_rows(tmp_path, 4)
  message = str(caught.value)
  assert "5 tokens found" in message and "vocab_size 4" in message
  _write(tmp_path, "config.json", {"vocab_size": "5"})
  with pytest.raises(errors.UserError, match="vocab_size: '5' found, a whole"):
    tokenization.load_tokenizer(tmp_path, tmp_path)


def test_a_padding_token_without_a_row_is_never_fed(bpe, tmp_path, caplog):
  shutil.copytree(bpe, tmp_path, dirs_exist_ok=True)
  file = tmp_path / "tokenizer.json"
  loaded = tokenizers.Tokenizer.from_file(str(file))
  rows = loaded.get_vocab_size()
  loaded.add_special_tokens(["[PAD]"])
  loaded.save(str(file))
  config = json.loads((bpe / "tokenizer_config.json").read_text())
  _write(tmp_path, "tokenizer_config.json", config | {"pad_token": "[PAD]"})
  tokenizer = _with_rows(tmp_path, rows)
  assert tokenizer.pad_id == tokenizer.eos_id
  assert f"padding token {rows} is beyond" in caplog.text
  assert max(tokenizer.encode_data(["the [PAD] game"])[0]) < rows
  with pytest.raises(errors.UserError, match="padding token found in a text"):
    tokenizer.encode("the [PAD] game")
  with pytest.raises(errors.UserError, match="vocab_size"):
    _with_rows(tmp_path, rows - 1)


def test_ids_beyond_the_pieces_are_skipped(tmp_path, shared_data):
  tokenizer = tokenization.load_tokenizer(
    _sentencepiece_dir(tmp_path, shared_data)
  )
  assert tokenizer.decode([15043, 32000, 32063, 3186]) == "Hello world"


@pytest.mark.parametrize(
  ("name", "value", "words"),
  [
    ("tokenizer_config.json", [], "an object"),
    ("tokenizer_config.json", {"eos_token": 3}, "eos_token: 3 found, a text"),
    (
      "tokenizer_config.json",
      {"pad_token": {"content": ["x"]}},
      "pad_token.content: ",
    ),
    ("tokenizer_config.json", {"bos_token": "\ud83d"}, "whole characters"),
    ("tokenizer_config.json", {"add_bos_token": "false"}, "'false' found"),
    ("tokenizer_config.json", {"added_tokens_decoder": []}, "decoder: "),
    (
      "tokenizer_config.json",
      {"added_tokens_decoder": {"x": {"content": "y"}}},
      "decoder.x: 'x' found, the id of a token",
    ),
    ("special_tokens_map.json", {"bos_token": 1.5}, "bos_token: 1.5 found"),
    ("added_tokens.json", {"<x>": "5"}, "<x>: '5' found"),
    ("added_tokens.json", {"<x>": 2**60}, "the id of a token"),
    ("config.json", {"eos_token_id": ["2"]}, "eos_token_id: '2' found"),
    ("config.json", 3, "an object"),
  ],
)
def test_wrong_types_name_file_and_key(name, value, words, bpe, tmp_path):
  shutil.copytree(bpe, tmp_path, dirs_exist_ok=True)
  _write(tmp_path, name, value)
  with pytest.raises(errors.UserError) as caught:
    tokenization.load_tokenizer(tmp_path)
  assert str(caught.value).startswith(str(tmp_path / name))
  assert words in str(caught.value)


@pytest.mark.parametrize(
  "change",
  [
    lambda t: t | {"model": None},
    lambda t: t | {"model": {"type": "BPE", "vocab": [], "merges": 3}},
    lambda t: t | {"model": t["model"] | {"merges": [["x", "y", "z"]]}},
    lambda t: t | {"model": t["model"] | {"vocab": {"a": -1}}},
    lambda t: t | {"added_tokens": [{"id": "0"}]},
    lambda t: t | {"post_processor": {"type": "none such"}},
    lambda t: t | {"decoder": 3, "normalizer": "x"},
    lambda t: [t],
  ],
)
def test_damaged_tokenizer_files_are_one_line(change, bpe, tmp_path):
  shutil.copytree(bpe, tmp_path, dirs_exist_ok=True)
  content = json.loads((bpe / "tokenizer.json").read_text())
  _write(tmp_path, "tokenizer.json", change(content))
  with pytest.raises(errors.UserError, match="tokenizer.json: ") as caught:
    tokenization.load_tokenizer(tmp_path)
  assert str(caught.value).isprintable()


def test_mistakes_are_user_errors(tmp_path):
  with pytest.raises(errors.UserError, match="no tokenizer found"):
    tokenization.load_tokenizer(tmp_path)
  _write_word_level(tmp_path)
  with pytest.raises(errors.UserError, match="no end-of-sequence token"):
    tokenization.load_tokenizer(tmp_path)
  text = (tmp_path / "tokenizer.json").read_text()
  (tmp_path / "tokenizer.json").write_text(text[: len(text) // 2])
  with pytest.raises(errors.UserError, match="tokenizer.json: not valid JSON"):
    tokenization.load_tokenizer(tmp_path)
  (tmp_path / "tokenizer.json").unlink()
  (tmp_path / "tokenizer.model").write_bytes(b"half a mod")
  with pytest.raises(errors.UserError, match="SentencePiece model expected"):
    tokenization.load_tokenizer(tmp_path)


def _toys_texts(shared_data, count):
  path = shared_data / "amazon-toys" / "test.json.gz"
  with gzip.open(path, "rt", encoding="utf-8") as file:
    rows = json.load(file)[:count]
  return [r["instruction"] + "\n" + r["input"] + r["output"] for r in rows]


@pytest.mark.torch
def test_sentencepiece_equals_transformers_slow_tokenizer(
  tmp_path, shared_data
):
  pytest.importorskip("transformers")
  from transformers import tokenization_utils_sentencepiece as slow

  directory = _sentencepiece_dir(tmp_path, shared_data)
  theirs = slow.SentencePieceBackend(
    vocab_file=str(directory / "tokenizer.model"),
    legacy=True,
    unk_token="<unk>",
    bos_token="<s>",
    eos_token="</s>",
  )
  ours = tokenization.load_tokenizer(directory)
  texts = LINES + LEADING_BLANKS + ["a</s> b<s>c", "x<unk>"]
  for text in texts + _toys_texts(shared_data, 40):
    ids = theirs.encode(text, add_special_tokens=False)
    assert ours.encode(text) == [1, *ids]


@pytest.mark.torch
def test_sentencepiece_equals_transformers_fast_where_that_is_defined(
  tmp_path, shared_data
):
  """transformers 5 differs from the slow one at a leading or a double blank.

  There it prepends no blank, and merges two blanks that SentencePiece keeps
  apart; elsewhere all is equal.
  """
  transformers = pytest.importorskip("transformers")
  directory = _sentencepiece_dir(tmp_path, shared_data)
  theirs = transformers.LlamaTokenizer.from_pretrained(directory)
  ours = tokenization.load_tokenizer(directory)
  texts = LINES + _toys_texts(shared_data, 40)
  for text in (text for text in texts if "  " not in text):
    ids = theirs.encode(text, add_special_tokens=False)
    assert ours.encode(text) == [1, *ids]
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


@pytest.mark.torch
@pytest.mark.parametrize("with_config", [False, True])
def test_auto_tokenizer_reads_our_bpe(bpe, tmp_path, with_config, shared_data):
  transformers = pytest.importorskip("transformers")
  directory = tmp_path / "base"
  shutil.copytree(bpe, directory)
  if with_config:
    _write(directory, "config.json", {"model_type": "llama"})
  theirs = transformers.AutoTokenizer.from_pretrained(directory)
  ours = tokenization.load_tokenizer(directory)
  assert theirs.eos_token_id == ours.eos_id
  assert theirs.pad_token_id == ours.pad_id
  for text in LINES + LEADING_BLANKS + _toys_texts(shared_data, 10):
    ids = theirs.encode(text)
    assert ours.encode(text) == ids
    ids = [*ids, ours.eos_id]
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


@pytest.mark.torch
def test_qwen_equals_transformers(tmp_path, shared_data):
  transformers = pytest.importorskip("transformers")
  folder = shared_data / "tokenizers"
  for name in ("vocab.json", "merges.txt"):
    content = gzip.decompress((folder / f"qwen2.5_{name}.gz").read_bytes())
    (tmp_path / name).write_bytes(content)
  theirs = transformers.Qwen2Tokenizer.from_pretrained(tmp_path)
  directory = tmp_path / "saved"
  theirs.save_pretrained(directory)
  ours = tokenization.load_tokenizer(directory)
  assert ours.eos_id == theirs.eos_token_id
  assert ours.bos_id is None
  for text in LINES + LEADING_BLANKS + _toys_texts(shared_data, 40):
    ids = theirs.encode(text)
    assert ours.encode(text) == ids
    ids = [*ids, ours.eos_id]
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
