"""Why an item is in a list: its place by each part, and who else had it.

Letters: n users, I items, k list size.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bigrec_jax.cf import rows
from bigrec_jax.recommend import cf_scorer, list_inputs, loaded as loaded_lib

if TYPE_CHECKING:
  from bigrec_jax.rankers import grounder
  from bigrec_jax.rankers.combine import candidates
  from bigrec_jax.rankers.distance import streamed

_NEAREST = 200  # Items whose place by the text alone is told.
_FEWEST = 2  # Users who say anything of what goes together.


class Explainer:
  """What explains lists: the catalogue, and who had what in train."""

  def __init__(
    self,
    loaded: loaded_lib.Loaded,
    table: "streamed.Streamed",
    popularity: np.ndarray,
  ):
    """Sorts the train part by items.

    Args:
      loaded: configuration and workdir.
      table: the catalogue on the mesh.
      popularity: [I] counts.
    """
    self._loaded, self._table = loaded, table
    order = np.argsort(-popularity, kind="stable")
    self._popular = np.empty(len(order), np.int64)  # [I] places, from 1.
    self._popular[order] = np.arange(1, len(order) + 1)
    self._counts = popularity
    pairs = rows.interactions(cf_scorer.train_examples(loaded))
    pairs = pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))]
    self._users = pairs[:, 0]
    items = np.arange(len(popularity) + 1)
    self._starts = np.searchsorted(pairs[:, 1], items)  # [I + 1]

  def __call__(
    self,
    users: "candidates.Users",
    texts: list_inputs.Texts,
    history: np.ndarray,
    found: "grounder.Recommended",
    by: Sequence[str | None],
  ) -> list[list[dict[str, Any]]]:
    """Returns the explanation of each item of n lists.

    Args:
      users: their queries.
      texts: what was written for them.
      history: [n, H] catalogue rows, padded with -1.
      found: their lists.
      by: what orders each list in place of the text; None = nothing.
    """
    near, words = self._nearest(users), _by_words(users)
    result = []
    for n, items in enumerate(found.items):
      own = history[n][history[n] >= 0]
      order = {item: place for place, item in enumerate(near[n].tolist(), 1)}
      ranks = None if found.cf_ranks is None else found.cf_ranks[n]
      result.append(
        [
          self._of(
            item,
            texts.texts[n][0],
            order.get(item),
            None if ranks is None else int(ranks[place]),
            None if words is None else words[n],
            own,
            by[n],
          )
          for place, item in enumerate(items[items >= 0].tolist())
        ]
      )
    return result

  def _nearest(self, users: "candidates.Users") -> np.ndarray:
    """Returns the items that are nearest to the texts, [n, <= 200]."""
    from bigrec_jax.devices import blocks
    from bigrec_jax.rankers.combine import injection
    from bigrec_jax.rankers.distance import lists

    ground = self._loaded.config.ground
    count = min(_NEAREST, len(self._table.host))
    rows_at_once = min(ground.batch_size, 1 << (len(users) - 1).bit_length())
    found = []
    for part in blocks.user_blocks(len(users), rows_at_once):
      block = lists.Users(
        users.queries[part, 0],
        rows_at_once,
        injection.Injection(None, None),
        injection.Gammas.of(0.0),
        part.start,
        users.name,
      )
      found.append(
        lists.top_items(self._table, block, count, ground.block_items).items
      )
    return np.concatenate(found)

  def _of(
    self,
    item: int,
    text: str,
    near: int | None,
    by_cf: int | None,
    by_words: np.ndarray | None,
    history: np.ndarray,
    by: str | None,
  ) -> dict[str, Any]:
    """Returns the explanation of one item, with the words for people."""
    catalogue = self._loaded.offered
    places = {
      "text": near,
      "cf": by_cf,
      "popularity": int(self._popular[item]) if self._counts[item] else None,
    }
    if by_words is not None:
      places["words"] = _place(by_words, item)
    if by is not None:
      places["text"] = None
    known = {part: place for part, place in places.items() if place is not None}
    decided = min(known, key=lambda part: known[part]) if known else None
    same = catalogue.index_of_clean_title(text)
    if same is not None and catalogue.groups[same] == catalogue.groups[item]:
      words = ["this is what was written"]
    else:
      words = []
    words += [f"place {place} by {part}" for part, place in known.items()]
    together = self._together(item, history)
    if together is not None:
      words.append(
        f"{together['users']} of the {together['of']} who had"
        f" {together['title']!r} had it, too"
      )
    return {
      "places": places,
      "decided": decided,
      "together": together,
      "words": "; ".join(words),
    }

  def _together(self, item: int, history: np.ndarray) -> dict[str, Any] | None:
    """Returns the item of the history whose users had this one most often."""
    own = self._of_item(item)
    best: tuple[float, int, int, int] | None = None
    for other in history.tolist():
      users = self._of_item(other)
      both = len(np.intersect1d(own, users, assume_unique=True))
      share = both / max(len(users), 1)
      if both >= _FEWEST and (best is None or share > best[0]):
        best = share, both, len(users), other
    if best is None:
      return None
    _, both, of, other = best
    catalogue = self._loaded.offered
    return {
      "external_id": catalogue.external_ids[other],
      "title": catalogue.titles[other],
      "users": both,
      "of": of,
    }

  def _of_item(self, item: int) -> np.ndarray:
    """Returns the train users who had an item, ascending."""
    return self._users[self._starts[item] : self._starts[item + 1]]


def _by_words(users: "candidates.Users") -> np.ndarray | None:
  """Returns BM25 of the histories' titles [n, I]; None where it isn't asked."""
  from bigrec_jax.rankers.combine import features

  read = users.cf.get(features.WORDS)
  return None if read is None else read(slice(0, len(users)))


def _place(scores: np.ndarray, item: int) -> int | None:
  """Returns an item's place by scores [I]; None where it shares no word."""
  own = scores[item]
  return int((scores > own).sum()) + 1 if own > 0 else None
