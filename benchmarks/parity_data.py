"""Parity of files, samples, prompts and tokens."""

import gzip
import itertools
import json
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence

import datasets
import numpy as np
import pandas
import sentencepiece
import tokenizers
import transformers
from tokenizers import models, pre_tokenizers, processors, trainers
from transformers import tokenization_utils_sentencepiece as slow

from benchmarks.parity_row import Row
from bigrec_jax.data.prepared import prepare, splits
from bigrec_jax.data.text import encoding, prompts, tokenization
from bigrec_jax.tasks import next_title
from tests.data import published, raw, settings
from tests.peers import scripts

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"
# How often the tests' raw files are repeated with other users. Where it is
# many, valid has over 5,000 rows; few take the way of fewer.
_COPIES = {"utf-8": 78, "iso-8859-1": 6, "game": 242}
_NOTEBOOK = "notebook, reimplemented"


def prepare_files(root: pathlib.Path) -> Iterator[Row]:
  """Compares the exported JSON with what the notebooks write."""
  for encoding_name in ("utf-8", "iso-8859-1"):
    folder = _many_movies(root / f"movie-{encoding_name}", encoding_name)
    rows = published.movie_windows(folder)
    sections = settings.sections(
      "movie", format="movielens", raw_dir=folder, export_json=True
    )
    yield _export(folder, sections, rows, f"movies.dat {encoding_name}")
  folder = _many_games(root / "game")
  rows = published.game_windows(
    folder / "Video_Games_5.json", folder / "meta_Video_Games.json"
  )
  sections = settings.sections(
    format="amazon", raw_dir=folder, export_json=True
  )
  yield _export(folder, sections, rows, "Amazon")


def _many_movies(folder: pathlib.Path, encoding_name: str) -> pathlib.Path:
  """Writes the tests' odd MovieLens files with many more users."""
  lines = []
  for seed in range(_COPIES[encoding_name]):
    raw.movielens(folder, encoding=encoding_name, seed=seed)
    for line in (folder / "ratings.dat").read_text().splitlines():
      user, rest = line.split("::", 1)
      lines.append(f"{int(user) + 60 * seed}::{rest}\n")
  (folder / "ratings.dat").write_text("".join(lines))
  return folder


def _many_games(folder: pathlib.Path) -> pathlib.Path:
  """Writes the tests' odd Amazon files with many more users."""
  lines = []
  for seed in range(_COPIES["game"]):
    raw.amazon(folder, seed=seed)
    for line in (folder / "Video_Games_5.json").read_text().splitlines():
      review = json.loads(line)
      review["reviewerID"] += f"-{seed}"
      lines.append(json.dumps(review) + "\n")
  (folder / "Video_Games_5.json").write_text("".join(lines))
  return folder


def _export(
  folder: pathlib.Path, sections: tuple, rows: list[tuple], what: str
) -> Row:
  """Prepares, and counts the rows of the five files that differ."""
  kind = "game" if what == "Amazon" else "movie"
  paths = settings.workdir(folder / "run")
  prepare.prepare(*sections, paths)
  expected = folder / "expected.json"
  cases = wrong = 0
  for split, part in published.parts(rows).items():
    names = {f"{split}.json": 0}
    if split != "train":
      names[f"{split}_5000.json"] = 5000
    for name, sample in names.items():
      published.write_json(part, kind, expected, sample, kind == "game")
      found, wanted = (paths.root / name).read_bytes(), expected.read_bytes()
      cases += wanted.count(b'"instruction": ')
      wrong += _lines_that_differ(found, wanted)
  return Row(
    f"prepare, {what}: rows of the JSON files", _NOTEBOOK, cases, wrong, 0
  )


def _lines_that_differ(found: bytes, wanted: bytes) -> int:
  if found == wanted:
    return 0
  pairs = itertools.zip_longest(found.split(b"\n"), wanted.split(b"\n"))
  return sum(one != other for one, other in pairs)


def samples(root: pathlib.Path) -> Iterator[Row]:
  """Compares which rows are drawn, and in which order."""
  del root
  cases = wrong = 0
  for available in (5000, 5001, 14_980, 930_127):
    frame = pandas.DataFrame({"row": range(available)})
    drawn = frame.sample(n=5000, random_state=42)["row"].to_numpy()
    ours = splits.evaluation_rows(available, 5000, 42)
    cases, wrong = cases + 5000, wrong + np.count_nonzero(ours != drawn)
  peer = f"pandas {pandas.__version__}"
  yield Row("5,000 rows of valid and test", peer, cases, int(wrong), 0)
  cases = wrong = 0
  for available, count, seed in itertools.product(
    (1024, 14_980), (1024, -1), (0, 1, 2)
  ):
    data = datasets.Dataset.from_dict({"row": range(available)})
    drawn = data.shuffle(seed=seed)
    if count != -1:
      drawn = drawn.select(range(count))
    drawn = np.array(drawn.shuffle(seed=seed)["row"])
    ours = splits.train_rows(available, count, seed)
    cases, wrong = cases + len(ours), wrong + np.count_nonzero(ours != drawn)
  peer = f"datasets {datasets.__version__}"
  yield Row("few-shot rows of train", peer, cases, int(wrong), 0)


def prompt_texts(root: pathlib.Path) -> Iterator[Row]:
  """Compares prompts with what train.py and inference.py render."""
  del root
  prompt = prompts.Prompt("bigrec", "", "")
  rows = [*_rows(), {"instruction": "Say one.", "input": "", "output": '"A"'}]
  wrong = 0
  for row in rows:
    instruction, text, output = row.values()
    wrong += prompt.training_text(instruction, text, output) != (
      scripts.training_text(instruction, text, output)
    )
    wrong += prompt.inference_text(instruction, text) != (
      scripts.inference_text(instruction, text)
    )
  peer = "train.py, inference.py, reimplemented"
  yield Row("prompts, style bigrec", peer, 2 * len(rows), wrong, 0)


def _rows() -> list[dict[str, str]]:
  """Returns rows with histories of 0 to 10 odd or plain titles."""
  rng = np.random.default_rng(3)
  titles = raw.titles(60)
  rows = []
  for n in range(120):
    history = rng.choice(titles, n % 11).tolist()
    quoted = ", ".join(f'"{title}"' for title in history)
    instruction, lead = published.SENTENCES[("movie", "game")[n % 2]]
    text, output = f"{lead}{quoted}\n ", f'"{rng.choice(titles)}"'
    rows.append({"instruction": instruction, "input": text, "output": output})
  return rows


_ODD = [
  "",
  "  two before",
  " one before",
  "\n first",
  "two  spaces\nand\ttabs",
  "Amélie 二つ の物語 – café",
  "game 🎮 on",
  "3.14 and 12345 don't",
]


def tokens(root: pathlib.Path) -> Iterator[Row]:
  """Compares token ids, decoded texts, and labels of training rows."""
  texts = [scripts.training_text(**row) for row in _rows()] + _ODD
  for name, make in _TOKENIZERS.items():
    directory = root / "tokenizer" / name
    directory.mkdir(parents=True)
    theirs = make(directory, texts)
    if theirs is None:
      continue  # Needs a vocabulary of ../shared/data.
    ours = tokenization.load_tokenizer(directory)
    bos = [] if ours.bos_id is None else [ours.bos_id]
    add_bos = bos if isinstance(theirs, slow.SentencePieceBackend) else []

    def encode(text: str, theirs=theirs, add_bos=add_bos) -> list[int]:
      special = not isinstance(theirs, slow.SentencePieceBackend)
      return [*add_bos, *theirs.encode(text, add_special_tokens=special)]

    wrong = 0
    for text, ids in zip(texts, ours.encode_batch(texts), strict=True):
      wrong += ids != encode(text)
      wrong += ours.decode([*ids, ours.eos_id]) != text
    peer = type(theirs).__name__
    if peer == "TokenizersBackend":
      peer = "AutoTokenizer"
    yield Row(f"tokens, {name}", peer, 2 * len(texts), wrong, 0)
    yield _labels(ours, encode, f"training tokens and labels, {name}", peer)


def _labels(
  ours: tokenization.Tokenizer,
  encode: Callable[[str], list[int]],
  what: str,
  peer: str,
) -> Row:
  """Compares ids and labels, whole and cut, with and without the prompt."""
  rows = _rows()
  prompt = prompts.Prompt("bigrec", "", "")
  texts = [
    next_title.text_of(next_title.Parts(*row.values()), prompt) for row in rows
  ]
  cases = wrong = 0
  for cutoff, on_inputs in itertools.product((4096, 150), (True, False)):
    encoder = encoding.Encoder(
      ours,
      max_length=cutoff,
      train_on_inputs=on_inputs,
    )
    found = encoder.encode_batch(texts)
    for row, example in zip(rows, found, strict=True):
      ids, labels = scripts.labelled(
        row, encode, ours.eos_id, cutoff, on_inputs
      )
      # Nothing predicts the first token, so whether it is a label is moot.
      first = [t >= example.first_label for t in range(1, len(ids))]
      wrong += example.tokens.tolist() != ids
      wrong += first != [label != -100 for label in labels[1:]]
      cases += 2
  return Row(what, peer, cases, wrong, 0)


def _llama_slow(directory: pathlib.Path) -> slow.SentencePieceBackend:
  return slow.SentencePieceBackend(
    vocab_file=str(directory / "tokenizer.model"),
    legacy=True,
    unk_token="<unk>",
    bos_token="<s>",
    eos_token="</s>",
  )


def _sentencepiece(
  directory: pathlib.Path, texts: Iterable[str]
) -> slow.SentencePieceBackend:
  """Trains a SentencePiece BPE of LLaMA's kind on the texts."""
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=(line for text in texts for line in text.split("\n")),
    model_prefix=str(directory / "tokenizer"),
    model_type="bpe",
    vocab_size=700,
    byte_fallback=True,
    character_coverage=0.99,
    split_digits=True,
    normalization_rule_name="identity",
    remove_extra_whitespaces=False,
    allow_whitespace_only_pieces=True,
    minloglevel=2,
  )
  return _llama_slow(directory)


def _llama2(
  directory: pathlib.Path, texts: Sequence[str]
) -> slow.SentencePieceBackend | None:
  del texts
  source = SHARED / "tokenizers" / "llama2_tokenizer.model"
  if not source.exists():
    return None
  shutil.copy(source, directory / "tokenizer.model")
  return _llama_slow(directory)


def _qwen2(
  directory: pathlib.Path, texts: Sequence[str]
) -> transformers.PreTrainedTokenizerBase | None:
  del texts
  folder = SHARED / "tokenizers"
  if not folder.is_dir():
    return None
  for name in ("vocab.json", "merges.txt"):
    packed = (folder / f"qwen2.5_{name}.gz").read_bytes()
    (directory / name).write_bytes(gzip.decompress(packed))
  theirs = transformers.Qwen2Tokenizer.from_pretrained(directory)
  theirs.save_pretrained(directory)
  return theirs


def _llama3(
  directory: pathlib.Path, texts: Sequence[str]
) -> transformers.PreTrainedTokenizerBase:
  """Trains a byte-level BPE with Llama-3's word rule, BOS and two ends."""
  special = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
  rule = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
  )
  tokenizer = tokenizers.Tokenizer(models.BPE(ignore_merges=True))
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Split(tokenizers.Regex(rule), "isolated"),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
  )
  tokenizer.decoder = tokenizers.decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=700,
    special_tokens=special,
    initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    show_progress=False,
  )
  tokenizer.train_from_iterator(texts, trainer)
  tokenizer.post_processor = processors.TemplateProcessing(
    single=f"{special[0]} $A", special_tokens=[(special[0], 0)]
  )
  theirs = transformers.PreTrainedTokenizerFast(
    tokenizer_object=tokenizer, bos_token=special[0], eos_token=special[1]
  )
  theirs.save_pretrained(directory)
  return theirs


def _own(
  directory: pathlib.Path, texts: Sequence[str]
) -> transformers.PreTrainedTokenizerBase:
  tokenization.train_bpe(texts, 500, directory)
  return transformers.AutoTokenizer.from_pretrained(directory)


_TOKENIZERS = {
  "SentencePiece, trained here": _sentencepiece,
  "Llama-2": _llama2,
  "Qwen2.5": _qwen2,
  "Llama-3's kind": _llama3,
  "pretrain's own": _own,
}
