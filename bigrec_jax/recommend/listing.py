"""What makes the lists: an injection, all beams, or a fused score."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bigrec_jax import errors
from bigrec_jax.data.text import prompts
from bigrec_jax.recommend import beam_logs, decoder, loaded as loaded_lib
from bigrec_jax.results import chosen as chosen_lib

if TYPE_CHECKING:
  from bigrec_jax.rankers import grounder
  from bigrec_jax.rankers.combine import candidates

_CHOSEN = "chosen.json: fitted"


class Texts(NamedTuple):
  """What was written for N users, as the lists are made of.

  Attributes:
    texts: [N][<= B] cleaned titles, best first; the first alone where no more
      are asked for.
    log_probs: [N, B] float64, -inf where there is no text; None of one text.
  """

  texts: list[list[str]]
  log_probs: np.ndarray | None

  def of(self, part: slice) -> "Texts":
    """Returns those of some users."""
    logs = None if self.log_probs is None else self.log_probs[part]
    return Texts(self.texts[part], logs)


# Users, what was written for them, hidden items [n, H], k.
_Lists = Callable[
  ["candidates.Users", Texts, np.ndarray, int], "grounder.Recommended"
]
_ReadPrompts = Callable[[], list[list[int]]]


class Listing:
  """What valid chose, ready for users.

  Attributes:
    models: the CF models whose scores are asked for.
    all_texts: whether it is made of all texts of a user.
  """

  def __init__(
    self,
    loaded: loaded_lib.Loaded,
    items: np.ndarray,
    popularity: np.ndarray,
    chosen: chosen_lib.Chosen,
  ):
    """Puts the catalogue in its place.

    Args:
      loaded: configuration and workdir.
      items: [I, D] float32, embeddings of the catalogue.
      popularity: [I] counts.
      chosen: what lists are made with.

    Raises:
      UserError: what valid taught a system isn't what it should be.
    """
    self._loaded = loaded
    make = _injected
    if chosen.system:
      make = _all_beams if chosen.system == chosen_lib.ALL_BEAMS else _fused
    made = make(loaded, items, popularity, chosen)
    self._lists, self.all_texts, self.models = made

  def texts(
    self, written: Sequence[Mapping[str, Any]], prompts_of: _ReadPrompts
  ) -> Texts:
    """Returns what counts of what was written.

    Args:
      written: {"predict", "scores"} of each user.
      prompts_of: returns the prompts' tokens, where their lengths count.
    """
    from bigrec_jax.rankers import beam_texts

    cleaned = [
      [prompts.extract_title(text) for text in own["predict"]]
      for own in written
    ]
    if not self.all_texts:
      return Texts([own[:1] for own in cleaned], None)
    config, lengths = self._loaded.config.generate, None
    if config.length_norm_includes_prompt:
      lengths = decoder.norm_lengths(prompts_of(), config)
    logs = beam_logs.of_rows(self._loaded, written, lengths)
    found = beam_texts.merged(cleaned, logs)
    return Texts(found.texts, found.logs)

  def queries(
    self, own: Texts, vectors: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns embeddings [N, B, D] and log-probabilities [N, B].

    Args:
      own: of N users.
      vectors: [T, D], of all texts, one user after the other.
    """
    if own.log_probs is None:
      return np.expand_dims(vectors, 1), None
    from bigrec_jax.rankers.combine import candidates

    there = np.zeros(own.log_probs.shape, bool)
    for row, texts in zip(there, own.texts, strict=True):
      row[: len(texts)] = True
    queries = np.zeros((*there.shape, vectors.shape[-1]), np.float32)
    queries[there] = vectors
    beams = self._loaded.config.generate.num_beams
    most = max(beams, own.log_probs.shape[-1])
    return candidates.repeated(queries, own.log_probs, most)

  def __call__(
    self,
    users: "candidates.Users",
    own: Texts,
    hidden: np.ndarray,
    k: int,
  ) -> "grounder.Recommended":
    """Returns the lists of users.

    Args:
      users: with the scores of `models`.
      own: what was written for them.
      hidden: [n, H] catalogue rows that aren't listed, padded with -1.
      k: items in a list.
    """
    return self._lists(users, own, hidden, k)


def _injected(
  loaded: loaded_lib.Loaded,
  items: np.ndarray,
  popularity: np.ndarray,
  chosen: chosen_lib.Chosen,
) -> tuple[_Lists, bool, Sequence[str]]:
  from bigrec_jax.rankers import grounder

  ground = grounder.Grounder(
    items,
    loaded.catalogue.groups,
    popularity if "popularity" in chosen.parts else None,
    chosen.gamma,
    loaded.config.ground,
    loaded.mesh,
    most_users=loaded.config.ground.batch_size,
  )

  def lists(
    users: "candidates.Users", own: Texts, hidden: np.ndarray, k: int
  ) -> "grounder.Recommended":
    del own
    read = users.cf.get(chosen.cf_model)
    return ground(users.queries[:, 0], hidden, read, k)

  return lists, False, (chosen.cf_model,) if "cf" in chosen.parts else ()


def _all_beams(
  loaded: loaded_lib.Loaded,
  items: np.ndarray,
  popularity: np.ndarray,
  chosen: chosen_lib.Chosen,
) -> tuple[_Lists, bool, Sequence[str]]:
  del popularity
  from bigrec_jax.rankers import all_beams, all_beams_lists
  from bigrec_jax.workdir import fields

  fitted = fields.Fields(chosen.fitted, _CHOSEN)
  names = all_beams.Settings._fields
  settings = all_beams.Settings(*(fitted.get(n, fields.number) for n in names))
  catalogue = loaded.catalogue
  make = all_beams_lists.AllBeamsLists(
    settings, items, catalogue.groups, loaded.mesh
  )

  def lists(
    users: "candidates.Users", own: Texts, hidden: np.ndarray, k: int
  ) -> "grounder.Recommended":
    assert users.log_probs is not None
    titles = np.full(users.log_probs.shape, -1, np.int32)
    for row, texts in zip(titles, own.texts, strict=True):
      found = map(catalogue.index_of_clean_title, texts)
      row[: len(texts)] = [-1 if at is None else at for at in found]
    return make(users.queries, users.log_probs, titles, hidden, k)

  return lists, True, ()


def _fused(
  loaded: loaded_lib.Loaded,
  items: np.ndarray,
  popularity: np.ndarray,
  chosen: chosen_lib.Chosen,
) -> tuple[_Lists, bool, Sequence[str]]:
  from bigrec_jax.rankers.combine import fused_lists, fusion

  fused = fusion.Fusion.from_json(chosen.fitted, _CHOSEN)
  make = fused_lists.FusedLists(
    fused,
    items,
    loaded.catalogue.groups,
    popularity,
    loaded.config.ground,
    loaded.mesh,
  )
  if set(make.models) - {chosen.cf_model}:
    raise errors.UserError(
      f"chosen.json: fused with {', '.join(make.models)} found,"
      f" {chosen.cf_model or 'no CF model'} expected; --mode=ground_eval writes"
      " it again"
    )

  def lists(
    users: "candidates.Users", own: Texts, hidden: np.ndarray, k: int
  ) -> "grounder.Recommended":
    del own
    return make(users, hidden, k)

  return lists, fused.texts == "all", make.models
