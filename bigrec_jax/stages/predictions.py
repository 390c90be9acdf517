"""The predictions that are evaluated: our own, or a file of somebody else's."""

import glob
import pathlib

from bigrec_jax.data.text import prompts
from bigrec_jax.stages import generate, rows_of
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
    path = pathlib.Path(given)
    name = glob.escape(path.name)  # It is no pattern.
    session.ledger.of_folder(path.parent, name)  # Says if it changed.
    rows = storage.read_json(path)
    rows_of.check(path, rows, session.task.samples(split), split)
  else:
    rows = session.load(generate.stage(split))
  return [prompts.extract_title(row["predict"][0]) for row in rows]
