"""The first items of test's users by every ranker of an evaluation.

Lists have each title once and keep what the history has, as ranks do.
"""

import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from absl import logging

from bigrec_jax.cf import scores as cf_scores
from bigrec_jax.data.text import pipeline
from bigrec_jax.recommend import list_inputs, listing, shelf, words_scorer
from bigrec_jax.results import (
  chosen as chosen_lib,
  ground_file,
  paired_tests,
)
from bigrec_jax.stages import embed, injected, predictions, train
from bigrec_jax.stages.session import Session
from bigrec_jax.workdir import parts as parts_lib

if TYPE_CHECKING:
  from bigrec_jax.rankers import protocol
  from bigrec_jax.rankers.combine import candidates

SPLIT = "test"
# A ranker's name, and what makes its lists [N, k].
Lists = tuple[str, Callable[[], np.ndarray]]


def cf_models(session: Session, found: ground_file.GroundFile) -> list[str]:
  """Returns the CF models in the report whose scores are there.

  The one whose scores are the row `cf` is not named a second time.
  """
  del found
  names = []
  for path in sorted(session.paths.root.glob("cf/*")):
    own = session.paths.cf_scores(path.name, SPLIT)
    has = any(own.parent.glob(f"{own.stem}*"))
    if has and path.name != session.config.ground.injected_cf:
      names.append(path.name)
  return names


def every(
  session: Session,
  found: ground_file.GroundFile,
  k: int,
  parts: parts_lib.Parts,
) -> Iterator[Lists]:
  """Yields every ranker of the rows of test.

  Not the rows with a gamma for each metric and K, which have no list of their
  own, nor what a made-up world's law reaches.

  Args:
    session: configuration and workdir.
    found: metrics/ground_eval.json.
    k: length of lists.
    parts: what was finished of this before a kill.
  """
  maker = _Maker(session, found, k, parts)
  # Without gamma all protocols are one.
  by_name = {
    paired_tests.name_of(row): row for row in found.rows_of(split=SPLIT)
  }
  for name, row in by_name.items():
    if row.injection == "none" or row.protocol != "bigrec":
      gamma = chosen_lib.per_part(row.injection, row.gamma)
      chosen = chosen_lib.Chosen(row.injection, gamma, maker.cf_name)
      yield name, functools.partial(maker.grounded, chosen)
  for other in found.systems:
    if other.split == SPLIT and other.name in chosen_lib.SYSTEMS:
      fitted = found.fitted[other.name]
      fitted = fitted.get("parameters", fitted)
      models = ",".join(chosen_lib.models_of(fitted))
      chosen = chosen_lib.Chosen("none", {}, models, other.name, fitted)
      yield other.name, functools.partial(maker.grounded, chosen)
  for baseline in found.baselines_of(SPLIT):
    ranker = maker.baseline(baseline.name)
    if ranker is not None:
      yield baseline.name, functools.partial(maker.ranked, ranker)
  for model in cf_models(session, found):
    yield model, functools.partial(maker.ranked, maker.cf_of(model))


class _Maker:
  """Makes lists of any ranker for the users of test."""

  def __init__(
    self,
    session: Session,
    found: ground_file.GroundFile,
    k: int,
    parts: parts_lib.Parts,
  ):
    self._session, self._found = session, found
    self._k, self._parts = min(k, len(session.catalogue)), parts
    self._examples = session.examples(SPLIT)
    self.cf_name = session.config.ground.injected_cf or "cf"

  def grounded(self, chosen: chosen_lib.Chosen) -> np.ndarray:
    """Returns the lists by an injection or a system, as recommend has them."""
    from bigrec_jax.rankers.combine import candidates

    session = self._session
    items = shelf.Shelf(session, session.load(embed.STAGE), 0)
    items.popularity = injected.popularity(session)
    given = list_inputs.Given(
      session,
      train.elsewhere(session) or session.paths.adapter,
      items,
      chosen,
    )
    make = listing.Listing(given)
    texts = make.texts(self._rows, self._prompts, as_evaluated=True)
    needed = make.embedded(texts)
    vectors = embed.embed_queries(
      session,
      [text for own in needed for text in own],
      session.load(embed.STAGE),
      f"embed {SPLIT}",
      self._parts,
    )
    queries, logs = make.queries(texts, vectors)
    history = self._examples.history
    reads = {model: self._reader(model) for model in make.models}
    if make.words is not None:
      score = words_scorer.load(session, make.words)
      reads["bm25"] = lambda part: score(history[part])
    users = candidates.Users(queries, logs, reads, history, SPLIT)
    wanted = list_inputs.Wanted(history[:, :0], self._k, None)
    return make(users, texts, wanted).items

  @functools.cached_property
  def _rows(self):
    return predictions.rows_as_made(self._session, SPLIT)

  def _prompts(self) -> list_inputs.Prompts:
    session = self._session
    samples = session.task.samples(SPLIT)
    return list_inputs.Prompts(
      pipeline.question_tokens(samples, session.tokenizer), None
    )

  @functools.cached_property
  def _cf(self):
    return injected.cf_of(self._session, SPLIT).scores

  def _reader(self, model: str) -> "candidates.ReadScores":
    scores = self._cf
    if model != self.cf_name:
      scores = injected.cf_of(self._session, SPLIT, model).scores
    return lambda part: np.asarray(scores[part], np.float32)

  def ranked(self, ranker: "protocol.Ranker") -> np.ndarray:
    """Returns the lists by a ranker."""
    from bigrec_jax.rankers import title_lists

    session = self._session
    return title_lists.title_lists(
      ranker,
      len(self._examples),
      session.catalogue.groups,
      session.mesh,
      k=self._k,
      most_users=session.config.ground.batch_size,
    )

  def cf_of(self, model: str) -> "protocol.Ranker":
    """Returns the ranker of a CF model that was trained here."""
    from bigrec_jax.rankers import cf as cf_rankers

    session = self._session
    path = session.paths.cf_scores(model, SPLIT)
    scores = cf_scores.load_scores(path, self._examples, session.catalogue)
    return cf_rankers.of_scores(scores)

  def baseline(self, name: str) -> "protocol.Ranker | None":
    """Returns the ranker of a baseline's row; None where it has none."""
    from bigrec_jax.rankers import baselines, cf as cf_rankers
    from bigrec_jax.rankers.combine import weighted_sum

    session, found = self._session, self._found
    if name.startswith("oracle"):
      return None
    if name == "most_pop":
      return baselines.MostPopular(injected.popularity(session))
    if name == "random":
      return baselines.Random(len(session.catalogue), session.config.seed)
    if name == "cf":
      return cf_rankers.of_scores(self._cf)
    if name == "bm25":
      return self._words()
    if name == "bm25+cf" and "bm25+cf" in found.fitted:
      weights = found.fitted["bm25+cf"]["weights"]
      both = weighted_sum.WeightedSum(
        session.mesh,
        most_users=session.config.ground.batch_size,
        groups=session.catalogue.groups,
        weights=[weights["bm25"], weights["cf"]],
      )
      return both([self._words(), cf_rankers.of_scores(self._cf)])
    logging.warning("item fairness: no lists of row %s are known", name)
    return None

  def _words(self) -> "protocol.Ranker":
    from bigrec_jax.rankers import bm25, dense

    session, history = self._session, self._examples.history
    settings = bm25.Settings(self._found.bm25["k1"], self._found.bm25["b"])
    score = words_scorer.load(session, settings)
    items = len(session.catalogue)
    return dense.Dense(lambda part: score(history[part]), items)
