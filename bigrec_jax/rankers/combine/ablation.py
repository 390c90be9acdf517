"""A calibrated fusion without one of its parts: what that part is worth.

All that the part knows is gone: its columns, its gates, the candidates that
it alone found, and its order of the others. What the other parts know stays.
"""

from collections.abc import Sequence

import numpy as np

from bigrec_jax.rankers.combine import candidates, features, fused_ranks

CF = "cf"  # All CF models.


def is_there(part: str, items: features.Items) -> bool:
  """Returns whether a part is one of a fusion's.

  Args:
    part: of `config.ground.PARTS`.
    items: what the fusion knows of the catalogue.
  """
  return bool(_models(part, items)) or part in items.parts


def without(
  part: str,
  found: candidates.Candidates,
  users: candidates.Users,
  items: features.Items,
) -> tuple[candidates.Candidates, candidates.Users, features.Items]:
  """Returns candidates, users and catalogue of which a part is gone.

  Of the text its lists alone are gone: distances are numbers of candidates
  still, until `forget_text`.

  Args:
    part: of `config.ground.PARTS`.
    found: candidates of n users.
    users: n.
    items: of the catalogue.
  """
  gone = _models(part, items)
  kept = [n for n, name in enumerate(items.models) if name not in gone]
  listed = found.cf_places[:, :, kept] < candidates.CF
  lists = [listed.any(axis=2)]
  if part != features.TEXT:
    lists.append(found.is_near)
  if part != features.POPULARITY and items.popularity is not None:
    places = candidates.popular_places(items.popularity)
    lists.append(places[np.maximum(found.items, 0)] < candidates.POPULAR)
  stays = np.logical_or.reduce(lists) & found.real
  order = np.argsort(~stays, axis=1, kind="stable")  # Items stay ascending.

  def moved(own: np.ndarray) -> np.ndarray:
    at = order.reshape(*order.shape, *[1] * (own.ndim - 2))
    return np.take_along_axis(own, at, axis=1)

  found = found._replace(
    items=moved(np.where(stays, found.items, -1)),
    distances=moved(found.distances),
    places=moved(found.places),
    cf=moved(found.cf[:, :, kept]),
    cf_places=moved(found.cf_places[:, :, kept]),
    cf_range=found.cf_range[:, kept],
  )
  cf = {name: read for name, read in users.cf.items() if name not in gone}
  users = candidates.Users(
    users.queries, users.log_probs, cf, users.history, users.name
  )
  counts = None if part == features.POPULARITY else items.popularity
  models = tuple(items.models[n] for n in kept)
  words = items.words if features.WORDS in models else None
  return found, users, features.Items(counts, models, words)


def forget_text(
  known: features.Features, judged: fused_ranks.Judged
) -> tuple[features.Features, fused_ranks.Judged]:
  """Returns features and orders without those of what was written.

  Args:
    known: features of candidates.
    judged: where targets are.
  """

  def is_of_text(name: str) -> bool:
    return features.is_of(name, features.TEXT) or features.is_agreement(name)

  columns = {k: v for k, v in known.columns.items() if not is_of_text(k)}
  gates = {k: v for k, v in known.gates.items() if not is_of_text(k)}
  alone = {k: v for k, v in judged.alone.items() if k != features.TEXT}
  return features.Features(columns, gates), judged._replace(alone=alone)


def _models(part: str, items: features.Items) -> Sequence[str]:
  """Returns the models that a part stands for."""
  own = [name for name in items.models if name != features.WORDS]
  return own if part == CF else [n for n in items.models if n == part]
