"""The predictions that are evaluated: our own, or a file of somebody else's."""

import glob
import math
import pathlib
from typing import Any, NamedTuple

import numpy as np

from bigrec_jax import errors
from bigrec_jax.data.text import pipeline, prompts
from bigrec_jax.rankers import beam_texts
from bigrec_jax.recommend import beam_logs, decoder
from bigrec_jax.stages import generate, rows_of
from bigrec_jax.stages.session import Session
from bigrec_jax.workdir import fingerprints, storage

SPLITS = ("valid", "test")


class Beams(NamedTuple):
  """All beams of a split.

  Attributes:
    texts: the different titles of every user with their log-probabilities.
    by_order: whether these are made up from the order of the beams, because
      a row has no scores.
  """

  texts: beam_texts.BeamTexts
  by_order: bool


def titles(session: Session, split: str) -> list[str]:
  """Returns each user's predicted title, cleaned: their first hypothesis.

  Args:
    session: configuration and workdir; `ground.predictions.<split>` names a
      file, else the split was decoded.
    split: valid or test.

  Raises:
    UserError: the rows of a file are not those of the split.
  """
  rows = rows_as_made(session, split)
  return [prompts.extract_title(row["predict"][0]) for row in rows]


def first_scores(session: Session, split: str) -> np.ndarray:
  """Returns the score of each user's first hypothesis [N] float64.

  NaN where a row has none, as files of somebody else's may.

  Args:
    session: configuration and workdir.
    split: valid or test.
  """
  found = []
  for row in rows_as_made(session, split):
    scores = row.get("scores")
    first = scores[0] if isinstance(scores, list) and scores else None
    found.append(first if _is_number(first) else math.nan)
  return np.array(found, np.float64)


def made_from(session: Session) -> dict[str, Any]:
  """Returns what all beams, and their probabilities, depend on."""
  generate_options = session.config.to_dict()["generate"]
  norm = ("length_penalty", "length_norm_includes_prompt", "max_new_tokens")
  found = {key: generate_options[key] for key in norm}
  for split in SPLITS:
    rows = rows_as_made(session, split)
    found[split] = fingerprints.of_value(
      [[row["predict"], row.get("scores")] for row in rows]
    )
  return found | {"tokenizer": session.tokenizer.fingerprint}


def beams(session: Session, split: str) -> Beams:
  """Returns all beams of every user, cleaned, equal titles as one.

  A score is a sum of log-probabilities over a length norm (section
  `generate`), which is taken out: the length of a beam is that of its text as
  the tokenizer writes it behind a prompt. Where a row has no scores, beams of
  all rows weigh 1, 1/2, 1/3, ... in their order.

  Args:
    session: configuration and workdir.
    split: valid or test.

  Raises:
    UserError: the rows of a file are not those of the split; a beam is no
      text, or its score no number.
  """
  rows = rows_as_made(session, split)
  texts = [row["predict"] for row in rows]
  cleaned = [[prompts.extract_title(text) for text in own] for own in texts]
  by_order = not all(row.get("scores") for row in rows)
  if by_order:
    logs = beam_texts.from_order([len(own) for own in texts])
  else:
    logs = _logs(session, split, rows)
  return Beams(beam_texts.merged(cleaned, logs), by_order)


def rows_as_made(session: Session, split: str) -> list[dict[str, Any]]:
  """Returns the rows of a split's predictions."""
  given = session.config.ground.predictions.get(split)
  if not given:
    return session.load(generate.stage(split))
  path = pathlib.Path(given)
  name = glob.escape(path.name)  # It is no pattern.
  session.ledger.of_folder(path.parent, name)  # Says if it changed.
  rows = storage.read_json(path)
  rows_of.check(path, rows, session.task.samples(split), split)
  ground = session.config.ground
  if ground.beams == "all" or ground.likelihood:
    _check_beams(path, rows)
  return rows


def _check_beams(path: pathlib.Path, rows: list[dict[str, Any]]) -> None:
  """Raises UserError for beams that are no texts, or scores no numbers."""
  for n, row in enumerate(rows):
    odd = [text for text in row["predict"] if not isinstance(text, str)]
    if odd:
      raise errors.UserError(
        f'{path}: row {n}: {odd[0]!r} in "predict" found, texts expected'
      )
    scores = row.get("scores")
    if not scores:
      continue
    whole = isinstance(scores, list) and len(scores) == len(row["predict"])
    if not whole or not all(map(_is_number, scores)):
      raise errors.UserError(
        f'{path}: row {n}: "scores" are no list of a number for each of'
        f" {len(row['predict'])} beams, expected; without the key their order"
        " counts"
      )


def _is_number(value: Any) -> bool:
  number = isinstance(value, (int, float)) and not isinstance(value, bool)
  return number and math.isfinite(value)


def _logs(
  session: Session, split: str, rows: list[dict[str, Any]]
) -> list[list[float]]:
  """Returns the log-probability of every beam, its length norm taken out."""
  config, norm_lengths = session.config.generate, None
  if config.length_norm_includes_prompt:
    samples = session.task.samples(split)
    tokens = pipeline.question_tokens(samples, session.tokenizer)
    norm_lengths = decoder.norm_lengths(tokens, config)
  return beam_logs.of_rows(session, rows, norm_lengths)
