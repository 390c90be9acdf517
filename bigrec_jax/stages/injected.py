"""What is injected into distances: CF scores and popularity."""

import dataclasses
import glob
import pathlib
from typing import Any

import numpy as np

from bigrec_jax.cf import scores as cf_scores
from bigrec_jax.data.prepared import popularity as popularity_lib
from bigrec_jax.stages.session import Session
from bigrec_jax.workdir import fingerprints


@dataclasses.dataclass(frozen=True, eq=False)
class Cf:
  """CF scores [N, I] of a split and what names them; None and "" for none."""

  name: str
  scores: Any
  fingerprint: str


def cf_of(session: Session, split: str, model: str = "") -> Cf:
  """Returns the scores of a CF model; of none named those to inject, if any."""
  ground = session.config.ground
  given = "" if model else ground.cf_scores.get(split)
  model = model or ground.injected_cf
  if not given and not model:
    return Cf("", None, "")
  if given:
    path = pathlib.Path(given)
  else:
    path = session.paths.cf_scores(model, split)
  found = cf_scores.load_scores(
    path, session.examples(split), session.catalogue
  )
  name = session.ledger.of_folder if given else fingerprints.of_folder
  content = name(path.parent, f"{glob.escape(path.stem)}*")
  return Cf(str(path), found, content)


def popularity(session: Session) -> np.ndarray:
  """Returns [I] counts: of the train split, or of `ground.popularity`."""
  path = session.config.ground.popularity
  return popularity_lib.counts(path, session.catalogue)
