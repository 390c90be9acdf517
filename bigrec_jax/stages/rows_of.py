"""Whether rows of predictions are those of a split, in its order.

A row says what it is of: its answer, and its prompt. Files of others may have
been made with other words or another encoding, so a prompt counts against a
row only where it is that of another row.
"""

import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from absl import logging

from bigrec_jax import errors
from bigrec_jax.data.text import prompts, source


def check(
  path: pathlib.Path, rows: Any, samples: source.TextSource, split: str
) -> None:
  """Refuses a file whose rows are not those of the split, in order.

  Args:
    path: for messages.
    rows: content of the file.
    samples: of the split.
    split: valid or test.

  Raises:
    UserError: a row has no prediction, or is of another user.
  """
  if not isinstance(rows, list):
    raise errors.UserError(
      f"{path}: {type(rows).__name__} found, rows expected"
    )
  if len(rows) != len(samples):
    raise errors.UserError(
      f"{path}: {len(rows)} rows found, the {len(samples)} of split {split}"
      " expected"
    )
  for n, row in enumerate(rows):
    predict = row.get("predict") if isinstance(row, dict) else None
    first = predict[0] if isinstance(predict, list) and predict else None
    if not isinstance(first, str):
      raise errors.UserError(
        f'{path}: row {n}: no text in "predict" found, a list of texts, best'
        " first, expected"
      )
  own = [samples.content(n) for n in range(len(samples))]
  _refuse(path, split, "output", _other_answers(rows, own))
  _refuse(path, split, "input", _other_prompts(rows, own))
  if not any("output" in row or "input" in row for row in rows):
    logging.warning(
      "%s: its rows have neither output nor input: that row n is row n of split"
      " %s is taken on trust",
      path,
      split,
    )


def _other_answers(
  rows: Sequence[dict[str, Any]], own: Sequence[dict[str, str]]
) -> Iterable[tuple[int, str, str]]:
  for n, (row, expected) in enumerate(zip(rows, own, strict=True)):
    if "output" in row:
      found = prompts.clean_title(str(row["output"]))
      wanted = prompts.clean_title(expected["output"])
      if found != wanted:
        yield n, found, wanted


def _other_prompts(
  rows: Sequence[dict[str, Any]], own: Sequence[dict[str, str]]
) -> Iterable[tuple[int, str, str]]:
  known = {_plain(expected.get("input")) for expected in own}
  for n, (row, expected) in enumerate(zip(rows, own, strict=True)):
    found, wanted = _plain(row.get("input")), _plain(expected.get("input"))
    if found and found != wanted and found in known:
      yield n, found, wanted


def _plain(text: Any) -> str:
  return " ".join(text.split()) if isinstance(text, str) else ""


def _refuse(
  path: pathlib.Path,
  split: str,
  field: str,
  wrong: Iterable[tuple[int, str, str]],
) -> None:
  found = list(wrong)
  if not found:
    return
  n, first, expected = found[0]
  places = ", ".join(str(place) for place, _, _ in found[:5])
  raise errors.UserError(
    f"{path}: row {n}: {field} {_short(first)} found, {_short(expected)} of"
    f" split {split} expected ({len(found)} rows differ: {places}"
    f"{', ...' if len(found) > 5 else ''})"
  )


def _short(text: str) -> str:
  shown = repr(text)
  return shown if len(shown) <= 120 else f"{shown[:56]} ... {shown[-56:]}"
