"""The predictions that are evaluated: our own, or a file of somebody else's."""

import pathlib
from typing import Any

from bigrec_jax import errors
from bigrec_jax.data.text import prompts
from bigrec_jax.stages import generate
from bigrec_jax.stages.session import Session
from bigrec_jax.workdir import storage


def titles(session: Session, split: str) -> list[str]:
  """Returns each user's predicted title, cleaned: their first hypothesis.

  Args:
    session: configuration and workdir; `ground.predictions.<split>` names a
      file, else the split was decoded.
    split: valid or test.

  Raises:
    UserError: the rows of a file are not those of the split.
  """
  given = session.config.ground.predictions.get(split)
  if given:
    rows = storage.read_json(given)
    _check(session, split, pathlib.Path(given), rows)
  else:
    rows = session.load(generate.stage(split))
  return [prompts.extract_title(row["predict"][0]) for row in rows]


def _check(session: Session, split: str, path: pathlib.Path, rows: Any) -> None:
  """Refuses a file whose rows are not those of the split, in order."""
  examples = session.examples(split)
  if not isinstance(rows, list):
    raise errors.UserError(
      f"{path}: {type(rows).__name__} found, rows expected"
    )
  if len(rows) != len(examples):
    raise errors.UserError(
      f"{path}: {len(rows)} rows found, the {len(examples)} of split {split}"
      " expected"
    )
  titles = session.catalogue.titles
  wrong = []
  for n, (row, target) in enumerate(zip(rows, examples.target, strict=True)):
    predict = row.get("predict") if isinstance(row, dict) else None
    first = predict[0] if isinstance(predict, list) and predict else None
    if not isinstance(first, str):
      raise errors.UserError(
        f'{path}: row {n}: no text in "predict" found, a list of texts, best'
        " first, expected"
      )
    found = prompts.clean_title(str(row.get("output", titles[target])))
    if found != prompts.clean_title(titles[target]):
      wrong.append((n, found, titles[target]))
  if wrong:
    n, found, expected = wrong[0]
    places = ", ".join(str(place) for place, _, _ in wrong[:5])
    raise errors.UserError(
      f"{path}: row {n}: output {found!r} found, {expected!r} of split {split}"
      f" expected ({len(wrong)} rows differ: {places}"
      f"{', ...' if len(wrong) > 5 else ''})"
    )
