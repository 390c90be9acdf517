"""Which rows of an evaluation are compared, and the tests between them.

One family of tests, corrected together (Holm): on test,

- BIGRec against every other row;
- each row that combines something against its parts: BIGRec's own text, most
  popular items, CF scores, BM25 of the history's titles;
- each such row against the best of those that combine nothing, which valid
  chooses.

HR and NDCG at cutoffs 1, 5, 10 and 20, as far as they are reported. NDCG@1 is
HR@1 and asked once. What a made-up world's law reaches is no competitor.
"""

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np

from bigrec_jax.results import (
  clusters,
  comparisons,
  ground_file,
  rows,
  significance,
)

BIGREC = "bigrec"
CUTOFFS = (1, 5, 10, 20)
# Ranks of a baseline in ranks/<split>.npz: "cf" is an injection there.
BASELINE = "baseline:"
# Beside the ranks: equal for rows of one user.
OWNERS = "user"
_PARTS = {"popularity": "most_pop", "cf": "cf", "bm25": "bm25"}
_NO_COMPETITOR = ("random",)


def name_of(row: rows.MetricRow | rows.BaselineRow) -> str:
  """Returns how tests name a row."""
  if isinstance(row, rows.BaselineRow):
    return row.name
  if row.injection == "none":
    return BIGREC
  return f"{BIGREC}+{row.injection}:{row.protocol}"


@dataclasses.dataclass(frozen=True, eq=False)
class Ranked:
  """A row of the table of test, with its users' ranks.

  Attributes:
    name: of `name_of`.
    parts: names of the rows it combines, itself not among them.
    single: whether it combines nothing, and competes.
    row: its metrics.
    arrays: of ranks/<split>.npz.
    key: of a baseline's or a system's ranks there.
  """

  name: str
  parts: tuple[str, ...]
  single: bool
  row: rows.MetricRow | rows.BaselineRow
  arrays: Mapping[str, np.ndarray]
  key: str = ""

  def ranks(self, metric: str, k: int) -> np.ndarray | None:
    """Returns the ranks [N] that metric@k is of; None where not kept."""
    row = self.row
    if isinstance(row, rows.BaselineRow):
      return self.arrays.get(self.key)
    if row.injection == "none":
      return self.arrays.get("none")
    if row.protocol == "two_gammas":
      return self.arrays.get(f"{row.injection}:two_gammas")
    if isinstance(row.gamma, Mapping):
      gamma = row.gamma.get(metric, {}).get(str(k))
      gammas = self.arrays.get(f"{row.injection}:gammas")
      ranks = self.arrays.get(f"{row.injection}:ranks")
      if gamma is None or gammas is None or ranks is None:
        return None
      place = np.flatnonzero(gammas == gamma)
      return ranks[place[0]] if place.size else None
    return self.arrays.get(row.injection)


def ranked(
  found: ground_file.GroundFile,
  arrays: Mapping[str, np.ndarray],
  split: str = "test",
) -> dict[str, Ranked]:
  """Returns the rows of a split by name, without oracles.

  Args:
    found: the evaluation.
    arrays: of ranks/<split>.npz.
    split: valid or test.
  """
  listed: dict[str, Ranked] = {}
  for row in found.rows_of(split=split):
    own = name_of(row)
    parts: tuple[str, ...] = ()
    if row.injection != "none":
      injected = row.injection.split("+")
      parts = BIGREC, *(_PARTS[part] for part in injected)
    listed.setdefault(own, Ranked(own, parts, not parts, row, arrays))
  for other in found.baselines_of(split):
    if other.name.startswith("oracle"):
      continue
    names = other.name.split("+")
    parts = tuple(names) if len(names) > 1 else ()
    single = not parts and other.name not in _NO_COMPETITOR
    key = BASELINE + other.name
    listed[other.name] = Ranked(other.name, parts, single, other, arrays, key)
  for other in found.systems:
    if other.split == split:
      listed[other.name] = Ranked(
        other.name,
        _parts_of_system(found, other.name),
        False,
        other,
        arrays,
        other.name,
      )
  for own, one in listed.items():
    kept = tuple(part for part in one.parts if part in listed)
    listed[own] = dataclasses.replace(one, parts=kept)
  return listed


def _parts_of_system(
  found: ground_file.GroundFile, name: str
) -> tuple[str, ...]:
  """Returns what a system is compared with as its parts.

  BIGRec, popularity and CF for each, and BM25 for what was fitted with it.
  """
  own = found.fitted.get(name, {})
  fitted = own.get("parameters", own).get("parts", ())
  words = ["bm25"] if "bm25" in fitted else []
  return BIGREC, *(_PARTS[part] for part in ("popularity", "cf", *words))


def best_single(found: ground_file.GroundFile) -> str | None:
  """Returns the row that valid likes best of those that combine nothing.

  By NDCG at the cutoff that injections are chosen by; the first of equals,
  BIGRec before all.
  """
  valid = ranked(found, {}, "valid")
  k, best, name = found.chosen_by, -1.0, None
  for one in valid.values():
    value = one.row.ndcg.get(k)
    if one.single and value is not None and value > best:
      best, name = value, one.name
  return name


def pairs(
  listed: Mapping[str, Ranked], single: str | None
) -> dict[tuple[str, str], list[str]]:
  """Returns {(a, b): why}, each pair once.

  Args:
    listed: of `ranked`.
    single: of `best_single`.
  """
  found: dict[tuple[str, str], list[str]] = {}

  def ask(a: str, b: str, reason: str) -> None:
    if a == b or a not in listed or b not in listed:
      return
    key = (b, a) if (b, a) in found else (a, b)
    reasons = found.setdefault(key, [])
    if reason not in reasons:
      reasons.append(reason)

  for name, one in listed.items():
    if one.parts:
      ask(name, BIGREC, "bigrec")
    else:
      ask(BIGREC, name, "bigrec")
  for name, one in listed.items():
    for part in one.parts:
      ask(name, part, "part")
    if single is not None and one.parts:
      ask(name, single, "best_single")
  return found


def tests(
  found: ground_file.GroundFile,
  arrays: Mapping[str, np.ndarray],
  effort: significance.Effort,
) -> list[comparisons.Comparison]:
  """Returns the tests of an evaluation, corrected as one family.

  Args:
    found: its rows.
    arrays: of ranks/test.npz.
    effort: samples and seed.
  """
  listed = ranked(found, arrays)
  users = clusters.of_owners(arrays.get(OWNERS))
  wanted = pairs(listed, best_single(found))
  done: list[comparisons.Comparison] = []
  for (a, b), reasons in wanted.items():
    asked, differences = [], []
    for question in _questions(listed[a], listed[b]):
      place = question.metric, question.k
      one, other = listed[a].ranks(*place), listed[b].ranks(*place)
      if one is not None and other is not None:
        asked.append(question)
        differences.append(
          significance.gains(one, question)
          - significance.gains(other, question)
        )
    measured = significance.paired(differences, effort, users) if asked else []
    done += [
      comparisons.Comparison(
        a=a,
        b=b,
        because=reasons,
        split="test",
        metric=question.metric,
        k=question.k,
        difference=own.difference,
        ci95=list(own.ci95),
        p=own.p,
        p_holm=1.0,
        n=own.n,
      )
      for question, own in zip(asked, measured, strict=True)
    ]
  corrected = significance.holm([test.p for test in done])
  return [
    dataclasses.replace(test, p_holm=p)
    for test, p in zip(done, corrected, strict=True)
  ]


def why_none(found: ground_file.GroundFile) -> str:
  """Returns why an evaluation has no tests, and what makes them."""
  reported = {int(k) for row in found.results for k in row.hr}
  if reported and not reported & set(CUTOFFS):
    listed = ", ".join(map(str, CUTOFFS))
    return f"one of {listed} among config.ground.cutoffs makes them."
  return (
    "--mode=ground_eval makes them; of an evaluation of before there were any"
    " remove metrics/ground_eval.json first."
  )


def _questions(a: Ranked, b: Ranked) -> Iterator[significance.Question]:
  """Yields the metrics that both rows have."""
  for metric in ("hr", "ndcg"):
    own, other = getattr(a.row, metric), getattr(b.row, metric)
    for k in CUTOFFS:
      if str(k) in own and str(k) in other and (metric, k) != ("ndcg", 1):
        yield significance.Question(metric, k)
