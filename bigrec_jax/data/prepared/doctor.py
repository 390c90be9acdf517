"""What was found in the raw data and what was removed from it.

`prepare` writes the findings as doctor.json and prints them shortly. Five
kinds of entries: what was understood of the files, rules (something was
removed: before, removed, after, and how to keep it), findings (something to
know, kept), checks (hold or don't), and notes.
"""

import pathlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import logging

from bigrec_jax import errors
from bigrec_jax.data.text import prompts

if TYPE_CHECKING:
  from bigrec_jax.data.text import tokenization

_MOST_EXAMPLES = 5
_MOST_ENCODED = 20_000  # Titles; more of them tell nothing new.
_LONG_TITLE = 200  # Characters; more than 50 tokens or so.
_TAG = re.compile(r"</?[A-Za-z][^<>]*>|<!--")
_ENTITY = re.compile(r"&(?:[A-Za-z]\w+|#\d+|#x[0-9A-Fa-f]+);")
# What pandas.read_csv takes for a missing value. The published notebooks read
# their own CSV files back with it, so such a title becomes "nan" (quirk 35).
MISSING = frozenset(
  "|#N/A|#N/A N/A|#NA|-1.#IND|-1.#QNAN|-NaN|-nan|1.#IND|1.#QNAN|<NA>|N/A|NA"
  "|NULL|NaN|None|n/a|nan|null".split("|")
)


class Doctor:
  """Collects findings while raw data are read and windows are made."""

  def __init__(self, data_format: str):
    self._format = data_format
    self._rules: list[dict[str, Any]] = []
    self._findings: list[dict[str, Any]] = []
    self._checks: list[dict[str, Any]] = []
    self._notes: list[str] = []
    self._understood: list[str] = []

  def understood(self, text: str) -> None:
    """Records what a file was taken for."""
    self._understood.append(text)

  def removed(
    self,
    rule: str,
    unit: str,
    before: int,
    after: int,
    examples: Iterable[str] = (),
    keep: str = "",
  ) -> None:
    """Records a rule and how many of `unit` it left of how many.

    Args:
      rule: what those that were removed have in common.
      unit: what is counted.
      before: how many there were.
      after: how many are left.
      examples: of those that were removed.
      keep: what a user does who wants to keep them; "" = nothing is to be done.
    """
    self._rules.append(
      {
        "rule": rule,
        "unit": unit,
        "before": int(before),
        "removed": int(before - after),
        "after": int(after),
        "examples": list(examples)[:_MOST_EXAMPLES],
        **({"keep": keep} if keep else {}),
      }
    )

  def found(self, what: str, count: int, examples: Iterable[str] = ()) -> None:
    """Records something worth knowing that was kept as it is."""
    self._findings.append(
      {
        "what": what,
        "count": int(count),
        "examples": list(examples)[:_MOST_EXAMPLES],
      }
    )

  def check(self, what: str, holds: bool, detail: str) -> None:
    """Records whether something holds."""
    self._checks.append({"check": what, "holds": bool(holds), "detail": detail})

  def note(self, text: str) -> None:
    """Records a choice that was made for the user."""
    self._notes.append(text)

  def to_dict(self) -> dict[str, Any]:
    """Returns what doctor.json holds."""
    return {
      "format": self._format,
      **({"understood": self._understood} if self._understood else {}),
      "rules": self._rules,
      "findings": self._findings,
      "checks": self._checks,
      "notes": self._notes,
    }


class Aloud(Doctor):
  """Of a file that is no part of the data: what is found is said at once."""

  def __init__(self, path: pathlib.Path):
    super().__init__(path.name)
    self._path = path

  def removed(
    self,
    rule: str,
    unit: str,
    before: int,
    after: int,
    examples: Iterable[str] = (),
    keep: str = "",
  ) -> None:
    """Warns where something was removed."""
    if before > after:
      shown = _shown(list(examples)[:_MOST_EXAMPLES])
      logging.warning(
        "%s: left out %d of %d %s: %s%s%s",
        self._path,
        before - after,
        before,
        unit,
        rule,
        shown,
        f" (to keep them: {keep})" if keep else "",
      )

  def found(self, what: str, count: int, examples: Iterable[str] = ()) -> None:
    """Warns where anything was found."""
    if count:
      shown = _shown(list(examples)[:_MOST_EXAMPLES])
      logging.warning("%s: %d %s%s", self._path, count, what, shown)


def summary(report: dict[str, Any]) -> list[str]:
  """Returns the content of a doctor.json as lines for a terminal."""
  lines = [f"data of format {report['format']}"]
  lines.extend(f"  read {text}" for text in report.get("understood", ()))
  for rule in report["rules"]:
    if rule["removed"]:
      lines.append(
        f"  removed {rule['removed']:,} of {rule['before']:,} {rule['unit']}:"
        f" {rule['rule']}{_shown(rule['examples'])}{_to_keep(rule)}"
      )
  for finding in report["findings"]:
    if finding["count"]:
      lines.append(
        f"  found {finding['count']:,} {finding['what']}"
        f"{_shown(finding['examples'])}"
      )
  for check in report["checks"]:
    mark = "ok" if check["holds"] else "NOT SO"
    lines.append(f"  {mark}: {check['check']} ({check['detail']})")
  lines.extend(f"  note: {note}" for note in report["notes"])
  return [errors.one_line(line) for line in lines]


def _to_keep(rule: dict[str, Any]) -> str:
  return f"; to keep them: {rule['keep']}" if rule.get("keep") else ""


def _shown(examples: Sequence[str]) -> str:
  if not examples:
    return ""
  first = examples[0]
  return f", e.g. {first if len(first) <= 60 else first[:57] + '...'}"


def examine_titles(doctor: Doctor, titles: Sequence[str]) -> None:
  """Records what is odd about the catalogue's titles; nothing is changed."""
  cleaned = [prompts.clean_title(title) for title in titles]
  counts = Counter(cleaned)
  shared = [title for title, count in counts.items() if count > 1]
  doctor.found(
    "items whose title another item has too (they tie when ranked)",
    sum(counts[title] for title in shared),
    shared,
  )
  for what, test in (
    ("titles that read as a missing value", lambda t: t.strip() in MISSING),
    ("titles with nothing but quotes and blanks", lambda t: not t.strip(' "')),
    (
      "titles with control characters or overrides of direction, kept",
      lambda t: errors.one_line(t) != t,
    ),
    ("titles with U+FFFD, a broken character", lambda t: "\ufffd" in t),
    ("titles with markup", _TAG.search),
    ("titles with HTML entities, kept as published", _ENTITY.search),
    (
      f"titles longer than {_LONG_TITLE} characters",
      lambda t: len(t) > _LONG_TITLE,
    ),
    ("titles that begin or end with a blank", lambda t: t != t.strip()),
    ("titles with non-ASCII characters", lambda t: not t.isascii()),
  ):
    odd = [title for title in titles if test(title)]
    doctor.found(what, len(odd), odd)


def examine_tokens(
  doctor: Doctor, titles: Sequence[str], tokenizer: "tokenization.Tokenizer"
) -> None:
  """Records titles that a tokenizer takes for something else.

  Args:
    doctor: where to record.
    titles: of the catalogue.
    tokenizer: the model's.
  """
  special = [title for title in titles if tokenizer.special.found(title)]
  doctor.found(
    "titles with text that is a special token to the tokenizer, encoded as"
    " plain text",
    len(special),
    special,
  )
  some = titles[:_MOST_ENCODED]
  changed = [
    title
    for title, ids in zip(some, tokenizer.encode_data(some), strict=True)
    if tokenizer.decode(ids) != title
  ]
  doctor.found(
    "titles that the tokenizer gives back changed, so that no generated text"
    " equals them",
    len(changed),
    changed,
  )


def examine_users(
  doctor: Doctor, user: np.ndarray, item: np.ndarray, max_history: int
) -> None:
  """Records short users and repeated items.

  Args:
    doctor: where to record.
    user: [n] user numbers.
    item: [n] catalogue rows.
    max_history: length of a full history.
  """
  lengths = np.bincount(user)
  lengths = lengths[lengths > 0]
  doctor.found("users", len(lengths))
  doctor.found("users with one interaction", int(np.sum(lengths == 1)))
  doctor.found(
    f"users with fewer than {max_history + 1} interactions",
    int(np.sum(lengths <= max_history)),
  )
  pairs = user.astype(np.int64) * (int(item.max()) + 1) + item
  doctor.found(
    "interactions that repeat an earlier one of the user and item",
    len(pairs) - len(np.unique(pairs)),
  )


def examine_split(
  doctor: Doctor,
  split: str,
  columns: Iterable[dict[str, np.ndarray]],
  in_train: np.ndarray,
) -> None:
  """Records empty histories, repeats and cold targets of a split.

  Args:
    doctor: where to record.
    split: its name.
    columns: blocks of history [B, H] and target [B].
    in_train: [I] how often each item is in the train part.
  """
  empty = repeats = same = cold = 0
  for block in columns:
    history, target = block["history"], block["target"]
    size = (history >= 0).sum(axis=1)  # [B]
    last = history[np.arange(len(size)), np.maximum(size - 1, 0)]
    empty += np.sum(size == 0)
    repeats += np.sum((history == target[:, None]).any(axis=1))
    same += np.sum(last == target)
    cold += np.sum(in_train[target] == 0)
  doctor.found(f"{split} rows with an empty history", empty)
  doctor.found(f"{split} targets that are in their own history", repeats)
  doctor.found(f"{split} targets equal to the item right before", same)
  if split != "train":
    doctor.found(f"{split} targets that are never in the train part", cold)


def examine_times(doctor: Doctor, times: dict[str, np.ndarray]) -> None:
  """Checks that no split holds a target later than one of the next split.

  Args:
    doctor: where to record.
    times: target times by split, in the order of the splits.
  """
  names = list(times)
  for before, after in zip(names, names[1:], strict=False):
    last, first = times[before].max(), times[after].min()
    shared = int(np.sum(times[after] == last))
    doctor.check(
      f"no {before} target is later than a {after} target",
      last <= first,
      f"last {before} time {last}, first {after} time {first}, {shared:,}"
      f" {after} rows share the last {before} time",
    )
