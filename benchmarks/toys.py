"""Amazon Toys and tokenizers, for the benchmarks that read its prompts."""

import gzip
import json
import pathlib
import tempfile

import numpy as np

from bigrec_jax.data.prepared import catalogue as catalogue_lib
from bigrec_jax.data.prepared.examples import Examples
from bigrec_jax.data.text import gguf_tokenizer, prompts, tokenization
from bigrec_jax.models.gguf import reading

TOKENIZER_HELP = "a GGUF file whose tokenizer is used; empty = LLaMA-2's"
SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"


def load_tokenizer(data: pathlib.Path, name: str) -> tokenization.Tokenizer:
  """Returns a tokenizer.

  Args:
    data: the folder with `tokenizers` and `amazon-toys`.
    name: a GGUF file, whose tokenizer is read; empty = LLaMA-2's of `data`.
  """
  with tempfile.TemporaryDirectory() as made:
    folder = pathlib.Path(made)
    if name:
      metadata = reading.open_file(pathlib.Path(name)).metadata
      gguf_tokenizer.write(folder, metadata, name)
    else:
      model = data / "tokenizers" / "llama2_tokenizer.model"
      (folder / "tokenizer.model").symlink_to(model)
    return tokenization.load_tokenizer(folder)


def read_examples(
  data: pathlib.Path, count: int
) -> tuple[Examples, catalogue_lib.Catalogue]:
  """Returns the first rows of the published 5,000-row sample of Toys."""
  rows = _rows(data, "train_5000")[:count]
  outputs = [row["output"].strip('"\n ') for row in rows]
  titles = sorted(set(outputs))
  number = {title: i for i, title in enumerate(titles)}
  catalogue = catalogue_lib.Catalogue(
    tuple(map(str, range(len(titles)))),
    tuple(titles),
    np.zeros(len(titles), np.int64),
  )
  everyone = np.arange(len(rows), dtype=np.int64)
  examples = Examples(
    split="train",
    rows=everyone,
    history=np.full((len(rows), 1), -1, np.int32),
    target=np.array([number[title] for title in outputs], np.int32),
    user=everyone,
    timestamp=everyone,
    overrides={
      n: (row["instruction"], row["input"]) for n, row in enumerate(rows)
    },
  )
  return examples, catalogue


def read_prompts(
  data: pathlib.Path,
  tokenizer: tokenization.Tokenizer,
  count: int,
  seed: int,
) -> list[list[int]]:
  """Returns token ids of `count` test prompts, drawn with a seed."""
  rows = _rows(data, "test")
  chosen = np.random.default_rng(seed).permutation(len(rows))[:count]
  prompt = prompts.Prompt("consistent", "", "")
  texts = [
    prompt.inference_text(rows[row]["instruction"], rows[row]["input"])
    for row in chosen
  ]
  return tokenizer.encode_batch(texts)


def _rows(data: pathlib.Path, name: str) -> list[dict[str, str]]:
  path = data / "amazon-toys" / f"{name}.json.gz"
  with gzip.open(path, "rt", encoding="utf-8") as file:
    return json.load(file)
