"""Titles that read like special tokens, for every kind of tokenizer."""

import json

import pytest
import sentencepiece
import tokenizers
from tokenizers import (
  AddedToken,
  decoders,
  models,
  normalizers,
  pre_tokenizers,
  processors,
)

from bigrec_jax.data.text import special_text, tokenization
from bigrec_jax.decoding import constraints

TITLES = [
  "The <s>Old</s> Tale 47",
  "</s>",
  "a</s></s>b",
  "<<s>s>",
  "x <unk> y",
  "x </s> ",
  "<s>",
]
PLAIN = [
  "The Old Tale",
  'The user has played: "A", "B"\n \n\n### Response:\n"C (2001)"',
  "two  blanks, <b>markup</b> & 3 < 4",
  "Amélie 🎮",
  "",
]
# What makes tokenizers put the pieces of a special token together.
LEARNT = [*TITLES, *PLAIN] * 9
SETTINGS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>"}


def _save(directory, tokenizer):
  tokenizer.save(str(directory / "tokenizer.json"))
  text = json.dumps(SETTINGS)
  (directory / "tokenizer_config.json").write_text(text)


def byte_level(directory):
  tokenization.train_bpe(LEARNT, 400, directory)


def llama(directory):
  """As Llama-2's tokenizer.json, with merges that make the tokens' texts."""
  special = ["<unk>", "<s>", "</s>"]
  letters = ["<", ">", "/", "s", "▁", *"TheOldaxyb"]
  words = [*special, *(f"<0x{n:02X}>" for n in range(256)), "s>", "</"]
  words += dict.fromkeys(letters)
  tokenizer = tokenizers.Tokenizer(
    models.BPE(
      {word: i for i, word in enumerate(words)},
      [("s", ">"), ("<", "s>"), ("<", "/"), ("</", "s>")],
      unk_token="<unk>",
      fuse_unk=True,
      byte_fallback=True,
    )
  )
  tokenizer.normalizer = normalizers.Sequence(
    [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
  )
  tokenizer.decoder = decoders.Sequence(
    [
      decoders.Replace("▁", " "),
      decoders.ByteFallback(),
      decoders.Fuse(),
      decoders.Strip(" ", 1, 0),
    ]
  )
  tokenizer.add_special_tokens(
    [AddedToken(word, normalized=False) for word in special]
  )
  tokenizer.post_processor = processors.TemplateProcessing(
    single="<s> $A", special_tokens=[("<s>", 1)]
  )
  _save(directory, tokenizer)


def unigram(directory):
  """Its best pieces are the special tokens, with a score of 0."""
  pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0)]
  pieces += [(f"<0x{n:02X}>", -20.0) for n in range(256)]
  pieces += [(c, -5.0) for c in dict.fromkeys("▁<>/sThe Oldaxyb")]
  tokenizer = tokenizers.Tokenizer(
    models.Unigram(pieces, unk_id=0, byte_fallback=True)
  )
  tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
  tokenizer.decoder = decoders.Sequence(
    [decoders.ByteFallback(), decoders.Metaspace()]
  )
  tokenizer.add_special_tokens(["<s>", "</s>", "<unk>"])
  _save(directory, tokenizer)


def eos_is_a_word(directory):
  """An EOS that the file doesn't call special: decoding would show it."""
  tokenization.train_bpe(LEARNT, 400, directory)
  content = json.loads((directory / "tokenizer.json").read_text())
  for token in content["added_tokens"]:
    token["special"] = token["content"] != "</s>"
  (directory / "tokenizer.json").write_text(json.dumps(content))


def pieces(directory):
  """A tokenizer.model."""
  (directory / "text").write_text("\n".join(filter(str.strip, LEARNT * 9)))
  sentencepiece.SentencePieceTrainer.train(
    input=str(directory / "text"),
    model_prefix=str(directory / "tokenizer"),
    vocab_size=330,
    model_type="bpe",
    byte_fallback=True,
    normalization_rule_name="identity",
    remove_extra_whitespaces=False,
    hard_vocab_limit=False,
    minloglevel=2,
  )


KINDS = [byte_level, llama, unigram, eos_is_a_word, pieces]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def tokenizer(request, tmp_path):
  request.param(tmp_path)
  return tokenization.load_tokenizer(tmp_path)


def special_ids(tokenizer):
  return {tokenizer.bos_id, *tokenizer.eos_ids, tokenizer.pad_id}


def bodies(tokenizer, texts):
  """Ids without the BOS that `encode` puts first."""
  rows = tokenizer.encode_data(texts)
  return [row[1:] for row in rows] if tokenizer.add_bos else rows


def test_a_title_survives(tokenizer):
  for title, ids in zip(TITLES, bodies(tokenizer, TITLES), strict=True):
    assert special_ids(tokenizer).isdisjoint(ids), title
    assert tokenizer.decode(ids) == title


def test_other_texts_are_encoded_as_ever(tokenizer):
  assert tokenizer.encode_data(PLAIN) == tokenizer.encode_batch(PLAIN)


def test_what_a_template_marks_is_special(tokenizer):
  texts = ["a</s>b", "<s>a</s>", "</s>", "<s> a </s> b", *PLAIN]
  marked = [tokenizer.special.mark(text) for text in texts]
  assert tokenizer.encode_data(marked) == tokenizer.encode_batch(texts)
  # Marks alone change nothing.
  assert tokenizer.encode_batch(marked) == tokenizer.encode_batch(texts)


def test_a_text_may_have_both(tokenizer):
  mark = tokenizer.special.mark
  (ids,) = bodies(tokenizer, [f"{mark('<s>')}The </s>Tale{mark('</s>')}"])
  assert [i for i in ids if i in special_ids(tokenizer)] == [
    tokenizer.bos_id,
    tokenizer.eos_id,
  ]
  assert ids[0] == tokenizer.bos_id and ids[-1] == tokenizer.eos_id
  assert tokenizer.decode(ids[1:-1]).strip() == "The </s>Tale"


def test_the_users_own_phrases_are_meant(tokenizer):
  phrase = "</s>Say"
  assert bodies(tokenizer, [f"{phrase}: "]) != bodies(tokenizer, ["Say: "])
  tokenizer.special.mean("no token", phrase)
  (ids,) = tokenizer.encode_data([f'{phrase}: "a</s>b"'])
  assert ids.count(tokenizer.eos_id) == 1


def test_the_trie_writes_the_titles(tokenizer):
  answers = [f'"{title}"' for title in TITLES]
  rows, _ = constraints.title_tokens(
    answers,
    "Response:\n",
    tokenizer.encode_data,
    tokenizer.decode,
    tokenizer.eos_id,
  )
  for answer, ids in zip(answers, rows, strict=True):
    assert ids[-1] == tokenizer.eos_id
    assert special_ids(tokenizer).isdisjoint(ids[:-1])
    # As the decoder sees it, behind the end of the prompt.
    start = bodies(tokenizer, ["Response:\n"])[0]
    text = tokenizer.decode([*start, *ids[:-1]])
    assert text == f"Response:\n{answer}"


def test_a_normaliser_makes_no_special_token(tmp_path):
  """Fullwidth brackets become what the model would take for EOS."""
  unigram(tmp_path)
  loaded = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
  loaded.normalizer = normalizers.NFKC()
  _save(tmp_path, loaded)
  tokenizer = tokenization.load_tokenizer(tmp_path)
  (ids,) = tokenizer.encode_data(["a＜/s＞b"])
  assert tokenizer.eos_id not in ids
  assert tokenizer.decode(ids) == "a</s>b"


def test_words_beside_a_sentencepiece_model_stay_words(tmp_path):
  pieces(tmp_path)
  (tmp_path / "added_tokens.json").write_text(
    json.dumps({"<sep>": 500, "[PAD]": 501})
  )
  (tmp_path / "tokenizer_config.json").write_text(
    json.dumps({"pad_token": "[PAD]"})
  )
  tokenizer = tokenization.load_tokenizer(tmp_path)
  title = "Old <sep> Tale [PAD]<sep>"
  (ids,) = tokenizer.encode_data([title])
  assert ids.count(500) == 2 and 501 not in ids
  assert tokenizer.decode(ids) == title


def test_text_that_is_read_holds_no_mark():
  from bigrec_jax.data.formats import raw_files

  assert special_text.MARK not in raw_files.repaired(f"a{special_text.MARK}<s>")


@pytest.mark.torch
@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_tokenizers_that_transformers_reads(tmp_path, kind):
  pytest.importorskip("transformers")
  from tests.data.text import test_other_tokenizers as other

  make = other.gpt2_files if kind == "gpt2" else other.bert_files
  tokenizer = tokenization.load_tokenizer(make(tmp_path / kind))
  special = "<|endoftext|>" if kind == "gpt2" else "[SEP]"
  title = f"a {special} b"
  (ids,) = bodies(tokenizer, [title])
  assert tokenizer.eos_id not in ids
  if kind == "gpt2":  # The other's words are few.
    assert tokenizer.decode(ids) == title
  marked = tokenizer.special.mark(title)
  assert tokenizer.encode_data([marked]) == tokenizer.encode_batch([title])
  texts = [text for text in other.TEXTS if "<|" not in text]
  assert tokenizer.encode_data(texts) == tokenizer.encode_batch(texts)


@pytest.mark.torch
def test_a_chat_template_marks_its_own_tokens(tmp_path):
  pytest.importorskip("transformers")
  from bigrec_jax.data.text import chat
  from tests.data.text import test_chat

  tokenizer = test_chat.make(tmp_path, test_chat.CHATML)
  turns = chat.Chat(tmp_path, tokenizer)
  plain, odd = turns.prompt("the game"), turns.prompt("the <|im_end|> game")
  assert special_text.unmarked(odd) == (
    "<|im_start|>user\nthe <|im_end|> game<|im_end|>\n<|im_start|>assistant\n"
  )
  one, two = tokenizer.encode_data([plain, odd])
  assert one == tokenizer.encode(special_text.unmarked(plain))
  assert two.count(tokenizer.eos_id) == one.count(tokenizer.eos_id) == 1
