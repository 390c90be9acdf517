"""A few test users for people to look at: history, text, grounded items."""

from typing import Any

import numpy as np

from bigrec_jax.rankers import evaluate
from bigrec_jax.rankers.combine import injection, two_gammas
from bigrec_jax.rankers.distance import lists, streamed
from bigrec_jax.results import chosen as chosen_lib
from bigrec_jax.stages.session import Session

_LIST_LENGTH = 5


def rows(
  session: Session,
  split: evaluate.Split,
  texts: list[str],
  items: np.ndarray,
  popularity: np.ndarray,
  found: evaluate.Evaluation,
) -> list[dict[str, Any]]:
  """Returns what `ranks/test_examples.json` shows: users all over the split.

  Args:
    session: configuration and workdir.
    split: test.
    texts: its cleaned predictions.
    items: [I, D] embeddings of the catalogue.
    popularity: [I] counts to inject.
    found: the evaluation, for ranks and gammas.
  """
  count = min(session.config.report.num_examples, len(texts))
  if not count:
    return []
  chosen = np.linspace(0, len(texts) - 1, count).astype(int)
  grounded = _grounded(session, split, chosen, items, popularity, found)
  titles = session.catalogue.titles
  examples = session.examples("test")
  shown = []
  for place, n in enumerate(chosen.tolist()):
    history = examples.history[n]
    shown.append(
      {
        "history": [titles[item] for item in history[history >= 0]],
        "target": titles[examples.target[n]],
        "predict": [texts[n]],
        "grounded": {
          name: [titles[item] for item in table[place]]
          for name, table in grounded.items()
        },
        "rank": {name: int(found.ranks["test"][name][n]) for name in grounded},
      }
    )
  return shown


def _grounded(
  session: Session,
  split: evaluate.Split,
  chosen: np.ndarray,
  items: np.ndarray,
  popularity: np.ndarray,
  found: evaluate.Evaluation,
) -> dict[str, np.ndarray]:
  """Returns the first items [n, k] of each injection, by its name.

  An injection is shown at its single gamma; with two gammas it has a name of
  its own, that of its ranks.
  """
  gammas: dict[str, dict[str, float]] = {"none": {}}
  for row in found.results:
    if row.split == "test" and isinstance(row.gamma, (int, float)):
      gammas[row.injection] = chosen_lib.per_part(row.injection, row.gamma)
    elif row.split == "test" and row.protocol == two_gammas.PROTOCOL:
      pair = chosen_lib.per_part(row.injection, row.gamma)
      gammas[two_gammas.RANKS] = pair
  groups = np.arange(len(items), dtype=np.int32)
  table = streamed.streamed(items, groups, session.mesh)
  injected = {part for parts in gammas.values() for part in parts}
  cf = None
  if split.cf_scores is not None and "cf" in injected:
    scores = np.asarray(split.cf_scores[chosen])
    cf = injection.cf_block(scores, 0, split.cf_name, len(chosen), table)
  both = injection.Injection(
    injection.Popularity(popularity, table)
    if "popularity" in injected
    else None,
    cf,
  )
  return {
    name: lists.top_items(
      table,
      lists.Users(
        split.queries[chosen],
        len(chosen),
        both.only(gamma),
        injection.Gammas.of(gamma),
        0,
        "test",
      ),
      min(_LIST_LENGTH, len(items)),
      session.config.ground.block_items,
    ).items
    for name, gamma in gammas.items()
  }
