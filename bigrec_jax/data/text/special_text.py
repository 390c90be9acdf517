"""Special-token text in data, encoded as the plain text it is.

A title such as "The <s>Old</s> Tale" (strike-through markup) holds what a
tokenizer takes for BOS and EOS: in a prompt it would end the text, in an
answer it would be skipped when decoded, and no beam could write the title. So
in texts of data nothing is special but what a template wrote, which is marked.

The mark is half a surrogate pair, which no text that was read from a file can
hold (raw_files.repaired). Everything else goes through the tokenizer as it
is, told to split special tokens. Where that is not enough, because a text has
both kinds, or because the model itself would put the pieces of a special
token together, a second tokenizer is made whose special tokens have names
that no text has.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import tokenizers

MARK = "\ud800"
_NAME = "qzkxwvspecial{}qzkxwv"  # Letters only: no normaliser changes them.


def pattern(names: Iterable[str], before: str = "") -> re.Pattern[str] | None:
  """Returns what finds any of some texts, longest first; None without any."""
  ordered = sorted(filter(None, names), key=len, reverse=True)
  if not ordered:
    return None
  return re.compile(f"{before}({'|'.join(map(re.escape, ordered))})")


def unmarked(text: str) -> str:
  """Returns a text without marks."""
  return text.replace(MARK, "")


def declared(settings: Mapping[str, Any]) -> set[str]:
  """Returns the tokens that tokenizer_config.json and the like call special."""
  found: list[Any] = []
  for key, value in settings.items():
    if key.endswith("_token"):
      found.append(value)
    elif key.endswith("special_tokens") and isinstance(value, (list, dict)):
      found += value.values() if isinstance(value, dict) else value
  found = [t.get("content") if isinstance(t, dict) else t for t in found]
  return {token for token in found if isinstance(token, str) and token}


class Special:
  """How the special tokens of a tokenizer read, and where they are meant."""

  def __init__(self, names: Iterable[str]):
    """Takes the tokens as they are written."""
    self._pattern = pattern(names)
    self._meant: dict[str, str] = {}  # Phrases, with their tokens marked.

  def mark(self, text: str) -> str:
    """Returns a template's text with its special tokens marked as such."""
    if self._pattern is None:
      return text
    return self._pattern.sub(MARK + r"\1", text)

  def mean(self, *phrases: str) -> None:
    """Says that these phrases mean it: instruction and history lead."""
    marked = {phrase: self.mark(phrase) for phrase in phrases if phrase}
    self._meant = {p: text for p, text in marked.items() if p != text}

  def marked(self, texts: Sequence[str]) -> Sequence[str]:
    """Returns texts with the phrases in them marked."""
    for phrase, marked in self._meant.items():
      texts = [text.replace(phrase, marked) for text in texts]
    return texts

  def found(self, text: str) -> list[str]:
    """Returns what in a text reads like a special token."""
    return [] if self._pattern is None else self._pattern.findall(text)


class Encoder:
  """Encodes texts of data with a tokenizer of the tokenizers library.

  Attributes:
    special: ids by text, of what decoding skips and of what was reserved.
  """

  def __init__(self, tokenizer: tokenizers.Tokenizer):
    self._tokenizer = tokenizer
    self._added = tokenizer.get_added_tokens_decoder()
    self.special: dict[str, int] = {
      token.content: i for i, token in self._added.items() if token.special
    }
    # Made when first needed, with what finds marked tokens, and their names.
    self._renamed: (
      tuple[tokenizers.Tokenizer, re.Pattern[str], dict[str, str]] | None
    ) = None

  def reserve(self, ids: Iterable[int | None]) -> None:
    """Says that these are special too, e.g. an EOS that decoding shows."""
    for i in ids:
      if i is not None and i in self._added:
        self.special[self._added[i].content] = i

  def encode(
    self,
    texts: Sequence[str],
    split: Callable[[Sequence[str]], list[list[int]]],
  ) -> list[list[int]]:
    """Returns the ids of each text; only marked tokens are special.

    Args:
      texts: of data, in part marked.
      split: the tokenizer, told to split special tokens.
    """
    rough = {n for n, text in enumerate(texts) if MARK in text}
    if not rough:  # Nearly always.
      rows = split(texts)
    else:
      rows = split(
        [text if n not in rough else "" for n, text in enumerate(texts)]
      )
    special = set(self.special.values())
    rough |= {n for n, row in enumerate(rows) if not special.isdisjoint(row)}
    if rough:
      chosen = sorted(rough)
      found = self._encode_renamed([texts[n] for n in chosen])
      for n, ids in zip(chosen, found, strict=True):
        rows[n] = ids
    return rows

  def _encode_renamed(self, texts: Sequence[str]) -> list[list[int]]:
    if self._renamed is None:
      names = {
        name: _NAME.format("".join(chr(97 + int(d)) for d in f"{i:07d}"))
        for name, i in self.special.items()
      }
      meant = pattern(names, f"{MARK}+") or re.compile("(?!)")
      self._renamed = renamed(self._tokenizer, names), meant, names
    tokenizer, meant, names = self._renamed
    encodings = tokenizer.encode_batch_fast(
      [
        unmarked(meant.sub(lambda match: names[match[1]], text))
        for text in texts
      ],
      add_special_tokens=False,
    )
    return [encoding.ids for encoding in encodings]


def renamed(
  tokenizer: tokenizers.Tokenizer, names: Mapping[str, str]
) -> tokenizers.Tokenizer:
  """Returns a tokenizer that calls some tokens by other names, by id alike.

  Args:
    tokenizer: with whatever around its model; it adds nothing to a text.
    names: new name by token.
  """
  content: dict[str, Any] = json.loads(tokenizer.to_str())
  for token in content["added_tokens"]:
    token["content"] = names.get(token["content"], token["content"])
  model = content["model"]
  vocabulary = model["vocab"]
  if isinstance(vocabulary, dict):
    model["vocab"] = {names.get(t, t): i for t, i in vocabulary.items()}
  else:  # Unigram: pairs of token and score, by id.
    model["vocab"] = [[names.get(t, t), score] for t, score in vocabulary]
  if model.get("unk_token") in names:
    model["unk_token"] = names[model["unk_token"]]
  if "merges" in model:
    model["merges"] = _other_merges(model, names)
  for key in ("post_processor", "truncation", "padding"):
    content[key] = None
  return tokenizers.Tokenizer.from_str(json.dumps(content, ensure_ascii=False))


def _other_merges(
  model: Mapping[str, Any], names: Mapping[str, str]
) -> list[list[str]]:
  """Returns the merges without those that make or use a renamed token."""
  prefix = len(model.get("continuing_subword_prefix") or "")
  kept = []
  for merge in model["merges"]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    if names.keys().isdisjoint((left, right, left + right[prefix:])):
      kept.append([left, right])
  return kept
