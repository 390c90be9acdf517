"""What a recommender answers: a list for each history, and what it rests on."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, overload


@dataclasses.dataclass(frozen=True)
class Provenance:
  """What a list was made from.

  Attributes:
    injection: none, popularity, cf or popularity+cf.
    gamma: its strength, or one for each part by name; None = nothing is
      injected.
    cf_model: whose scores are injected, or fused; None = no CF is.
    base: fingerprint of weights, precision and tokenizer.
    encoder: fingerprint of the text encoder; None = it is the base.
    adapter: fingerprint of the adapter.
    catalogue: fingerprint of ids and titles.
    unknown: what of the history the catalogue lacks.
    nearest: title that was taken for a text of the history that is none.
    system: what valid likes better than any injection, and orders the list;
      None = the injection does.
    cold: CF knows nothing of the user, so it has no part in the list.
    fallback: what orders the list because the text names nothing of the
      catalogue: cf or popularity; None = the text has its part.
  """

  injection: str
  gamma: float | Mapping[str, float] | None
  cf_model: str | None
  base: str
  encoder: str | None
  adapter: str
  catalogue: str
  unknown: tuple[str, ...] = ()
  system: str | None = None
  cold: bool = False
  fallback: str | None = None
  nearest: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Recommendation:
  """One item of a list.

  Attributes:
    external_id: the user's own id of it.
    title: as the user gave it.
    score: of an injection 1 minus the geometric mean of the normalised
      distance and, gamma times, of 1 / (1 + w): 1 for the item nearest to the
      text, 0 for the farthest that nothing favours. Of a system its own: the
      probability of a calibrated fusion, the sum of reciprocal places, or the
      share in the mixture over all beams, that of the best item being 1. Of a
      fallback
      from 1, what CF or popularity has first, to 0, what it has last.
    distance: L2 distance of the text's embedding, 0 for the exact title; None
      where nothing was written.
    popularity: purchases in train, or its count of `ground.popularity`.
    attributes: what else the file of items says of it.
    why: its place by each part, the part that has it first ("decided"), which
      item of the history its buyers had most often ("together") and all that
      in words; None where nobody asked.
    cf_rank: its place by the CF model alone, from 1; None where no CF is
      injected, or it knows nothing of the user.
    provenance: what the list was made from.
  """

  external_id: str
  title: str
  score: float
  distance: float | None
  popularity: float
  cf_rank: int | None
  provenance: Provenance
  attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  why: Mapping[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class Recommendations(Sequence[Recommendation]):
  """The list of one history, best first; a sequence of its items.

  Attributes:
    items: the list itself; shorter than k where the catalogue has no more
      titles.
    written: what the model wrote, best first; the first text is grounded.
    written_scores: of each text, the sum of its log-probabilities over its
      length norm.
    provenance: what the list was made from.
    confidence: chance that what the user takes next is in the list, as valid
      has it of lists like this one, of the whole catalogue; None where nothing
      was evaluated for what lists are made with.
  """

  items: tuple[Recommendation, ...]
  written: tuple[str, ...]
  written_scores: tuple[float, ...]
  provenance: Provenance
  confidence: float | None = None

  def __len__(self) -> int:
    return len(self.items)

  @overload
  def __getitem__(self, place: int) -> Recommendation: ...

  @overload
  def __getitem__(self, place: slice) -> tuple[Recommendation, ...]: ...

  def __getitem__(
    self, place: int | slice
  ) -> Recommendation | tuple[Recommendation, ...]:
    """Returns the item at a place, from 0, or those of a slice."""
    return self.items[place]
