"""The makers of lists: an injection, all beams, likelihood, a fused score.

Letters: N users, n some of them, B texts of a user, D width, I items.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from bigrec_jax import errors
from bigrec_jax.recommend import likely
from bigrec_jax.recommend.list_inputs import Given, Texts, Wanted
from bigrec_jax.workdir import fields

if TYPE_CHECKING:
  from bigrec_jax.rankers import bm25, grounder
  from bigrec_jax.rankers.combine import candidates
  from bigrec_jax.rankers.distance import streamed

FITTED = "chosen.json: fitted"


class Lists(Protocol):
  """Makes lists; attributes say what it is made of.

  Attributes:
    models: CF models whose scores are read.
    words: what the words of histories' titles are scored with; None = nobody
      reads these scores.
    all_texts: whether all texts of a user count.
    asks: whether the model is asked of titles, and so prompts are read.
    table: the catalogue on the mesh; None = there is none of this kind.
  """

  table: "streamed.Streamed | None"
  models: Sequence[str]
  words: "bm25.Settings | None"
  all_texts: bool
  asks: bool

  def __call__(
    self,
    users: "candidates.Users",
    own: Texts,
    wanted: Wanted,
  ) -> "grounder.Recommended":
    """Returns the lists of n users; see `Listing.__call__`."""


class Injected:
  """The published form: distances, and what shrinks them."""

  all_texts = asks = False
  words = None

  def __init__(self, given: Given):
    from bigrec_jax.rankers import grounder

    loaded, chosen = given.loaded, given.chosen
    self._shelf = given.shelf
    self._weighs = "popularity" in chosen.parts
    self.models = chosen.models_in_use
    self._ground = grounder.Grounder(
      given.items,
      given.groups,
      given.shelf.weighed if self._weighs else None,
      chosen.gamma,
      loaded.config.ground,
      loaded.mesh,
      most_users=loaded.config.ground.batch_size,
      real=given.shelf.real,
    )
    self.table = self._ground.table

  def rewritten(self, rows: slice) -> None:
    """Takes rows and popularity from the shelf as it is now."""
    weighed = self._shelf.weighed if self._weighs else None
    self._ground.rewritten(rows, weighed)
    self.table = self._ground.table

  def warm_up(
    self, users: "candidates.Users", own: Texts, wanted: Wanted
  ) -> None:
    """Compiles every pass of lists like these."""
    del own
    read = users.cf[self.models[0]] if self.models else None
    self._ground.warm_up(users.queries[:, 0], wanted.hidden, read, wanted.k)

  def __call__(
    self,
    users: "candidates.Users",
    own: Texts,
    wanted: Wanted,
  ) -> "grounder.Recommended":
    """Returns the lists of n users; see `Listing.__call__`."""
    del own
    read = users.cf[self.models[0]] if self.models else None
    return self._ground(
      users.queries[:, 0], wanted.hidden, read, wanted.k, wanted.allowed
    )


class AllBeams:
  """The mixture over all beams."""

  all_texts, asks, models, words = True, False, (), None
  table = None

  def __init__(self, given: Given):
    from bigrec_jax.rankers import all_beams, all_beams_lists

    fitted = fields.Fields(given.chosen.fitted, FITTED)
    names = all_beams.Settings._fields
    settings = (fitted.get(name, fields.number) for name in names)
    self._loaded = given.loaded
    self._lists = all_beams_lists.AllBeamsLists(
      all_beams.Settings(*settings),
      given.items,
      given.groups,
      given.loaded.mesh,
    )

  def __call__(
    self,
    users: "candidates.Users",
    own: Texts,
    wanted: Wanted,
  ) -> "grounder.Recommended":
    """Returns the lists of n users; see `Listing.__call__`."""
    assert users.log_probs is not None
    titles = np.full(users.log_probs.shape, -1, np.int32)
    found = likely.written(self._loaded, own.texts)
    titles[:, : found.shape[1]] = found
    return self._lists(users.queries, users.log_probs, titles, *wanted)


def _models(given: Given) -> tuple[str, ...]:
  """Returns the CF models that a system was fitted with.

  Raises:
    UserError: another one is at hand.
  """
  chosen = given.chosen
  found = chosen.models_in_use
  if set(found) - set(chosen.models):
    raise errors.UserError(
      f"chosen.json: {chosen.system} with the scores of {', '.join(found)}"
      f" found, of {chosen.cf_model or 'no CF model'} expected;"
      " --mode=ground_eval writes it again"
    )
  return found


def _judge(given: Given, most: int) -> likely.LikelyTitles:
  return likely.LikelyTitles(given.loaded, given.adapter, given.items, most)


def _ask(
  judge: likely.LikelyTitles,
  users: "candidates.Users",
  own: Texts,
  models: Sequence[str],
) -> likely.Likely:
  """Returns what the model makes of a few titles of users."""
  from bigrec_jax.rankers import dense

  assert own.prompts is not None
  cf = None
  for model in models[:1]:  # The one that candidates came from on valid.
    cf = dense.Dense(users.cf[model], judge.num_items)
  return judge(own.texts, users.queries[:, 0], *own.prompts, cf)


class Likelihood:
  """A few titles in the order of the model's own probability of them."""

  all_texts, asks, words = False, True, None

  def __init__(self, given: Given):
    from bigrec_jax.rankers import reranked_lists

    fitted, loaded = fields.Fields(given.chosen.fitted, FITTED), given.loaded
    self._weight = fitted.get("weight_without_history", fields.number)
    self._judge = _judge(given, fitted.get("candidates", fields.count))
    self.models = _models(given)
    self._lists = reranked_lists.RerankedLists(
      given.items, given.groups, loaded.config.ground, loaded.mesh
    )
    self.table = self._lists.table

  def __call__(
    self,
    users: "candidates.Users",
    own: Texts,
    wanted: Wanted,
  ) -> "grounder.Recommended":
    """Returns the lists of n users; see `Listing.__call__`."""
    found = _ask(self._judge, users, own, self.models)
    queries, scores = users.queries[:, 0], found.scores(self._weight)
    return self._lists(found.titles, scores, queries, *wanted)


class Fused:
  """A fused score of candidates from every part."""

  def __init__(self, given: Given):
    from bigrec_jax.rankers.combine import fused_lists, fusion

    loaded, self._shelf = given.loaded, given.shelf
    fused = fusion.Fusion.from_json(given.chosen.fitted, FITTED)
    self.models, self.words = _models(given), fused.words
    self.all_texts, self.asks = fused.texts == "all", fused.likelihood > 0
    self._judge = _judge(given, fused.likelihood) if self.asks else None
    self._lists = fused_lists.FusedLists(
      fused,
      given.items,
      given.groups,
      given.shelf.popularity,
      loaded.config.ground,
      loaded.mesh,
      real=given.shelf.real,
    )
    self.table = self._lists.table

  def rewritten(self, rows: slice) -> None:
    """Takes rows and popularity from the shelf as it is now."""
    if self.asks:
      raise ValueError("whoever asks the model of titles knows them all before")
    self._lists.rewritten(rows, self._shelf.popularity)
    self.table = self._lists.table

  def __call__(
    self,
    users: "candidates.Users",
    own: Texts,
    wanted: Wanted,
  ) -> "grounder.Recommended":
    """Returns the lists of n users; see `Listing.__call__`."""
    asked = None
    if self._judge is not None:
      asked = _ask(self._judge, users, own, self.models)
    return self._lists(users, wanted.hidden, wanted.k, asked, wanted.allowed)
