"""What a line of recommendations says, what is printed, what is counted."""

import collections
import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from bigrec_jax import errors
from bigrec_jax.recommend import filters, recommendations
from bigrec_jax.results import table
from bigrec_jax.stages.session import say

_DIGITS = 6  # Of scores and distances in the file.


def answer(found: recommendations.Recommendations) -> dict[str, Any]:
  """Returns what a line says beside the row's own keys."""
  provenance = dataclasses.asdict(found.provenance)
  # What is as usual: the base embeds, an injection orders, CF knows the user.
  for name in ("encoder", "system", "cold", "fallback", "nearest"):
    if not provenance[name]:
      del provenance[name]
  return {
    "predict": list(found.written),
    "scores": list(found.written_scores),
    "confidence": None
    if found.confidence is None
    else round(found.confidence, _DIGITS),
    "recommendations": [_entry(item) for item in found],
    "provenance": provenance,
  }


def _entry(item: recommendations.Recommendation) -> dict[str, Any]:
  entry = {
    "external_id": item.external_id,
    "title": item.title,
    "score": round(item.score, _DIGITS),
    "distance": None
    if item.distance is None
    else round(item.distance, _DIGITS),
    "popularity": item.popularity,
  }
  if item.cf_rank is not None:
    entry["cf_rank"] = item.cf_rank
  if item.attributes:
    entry["attributes"] = dict(item.attributes)
  if item.why is not None:
    entry["why"] = dict(item.why)
  return entry


def show(path: pathlib.Path) -> None:
  """Prints the first history's list."""
  with open(path, encoding="utf-8") as file:
    row = json.loads(file.readline())
  say(errors.one_line(f"written: {row['predict'][0].strip()}"))
  headers = ["title", "id", "score", "distance", "popularity"]
  keys = ["title", "external_id", "score", "distance", "popularity"]
  if row["provenance"]["cf_model"]:
    headers, keys = [*headers, "CF rank"], [*keys, "cf_rank"]
  say(
    table.format_table(
      headers,
      [[e.get(key) for key in keys] for e in row["recommendations"]],
    )
  )
  for entry in row["recommendations"]:
    if why := entry.get("why"):
      say(errors.one_line(f"{entry['title']}: {why['words']}"))
  if (sure := row["confidence"]) is not None:
    count = len(row["recommendations"])
    say(f"confidence: {sure:.3f} that the next item is one of these {count}")
  if by := row["provenance"].get("fallback"):
    say(
      f"fallback: the text names nothing of the catalogue; the list is {by}'s"
    )


class Tally:
  """What is told of many lists once they are made."""

  def __init__(self) -> None:
    self._users = 0
    self._counts: collections.Counter[str] = collections.Counter()

  def add(self, lists: Sequence[recommendations.Recommendations]) -> None:
    """Counts some lists."""
    self._users += len(lists)
    for own in lists:
      self._counts["cold"] += own.provenance.cold
      self._counts["short"] += not own.items
      if own.provenance.fallback:
        self._counts[own.provenance.fallback] += 1
      self._counts["nearest"] += bool(own.provenance.nearest)

  def tell(self, seconds: float) -> None:
    """Prints how many users were unlike the others, and how fast it was."""
    counts, users = self._counts, f"{self._users:,}"
    far = counts["cf"] + counts["popularity"]
    for count, text in (
      (counts["cold"], "are cold: CF knows nothing of them"),
      (
        far,
        "got lists without the text, which names nothing of the catalogue: of"
        f" CF {counts['cf']:,}, of popularity {counts['popularity']:,}"
        " (provenance.fallback)",
      ),
      (counts["nearest"], "have titles that were taken for the nearest ones"),
      (counts["short"], "got an empty list"),
    ):
      if count:
        say(f"recommend: {count:,} of {users} users {text}")
    if self._users and seconds > 0:
      say(
        f"recommend: {users} users in {seconds:.1f} s,"
        f" {self._users / seconds:.2f} users/s"
      )


def tell_unknown(shown: filters.Filter) -> None:
  """Prints how many ids of allow and deny the catalogue lacks."""
  if shown.unknown:
    say(
      f"recommend: {len(shown.unknown):,} ids of config.recommend.allow and"
      " .deny aren't in the catalogue and count for nothing, e.g."
      f" {shown.unknown[0]!r}"
    )
