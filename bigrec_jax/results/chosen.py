"""What valid likes best: chosen once, kept beside the adapter.

That is an injection as published, or a system beside it that knows new
histories as well.

`chosen.json` is what recommendations are made with where nobody says
otherwise.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from bigrec_jax import errors
from bigrec_jax.results import ground_file, rows
from bigrec_jax.workdir import fields, fingerprints as names, storage

ALL_BEAMS = "all beams"
LIKELIHOODS = ("likelihood", "likelihood ratio")
FUSIONS = ("calibrated fusion", "reciprocal-rank fusion")
# The name of ranks with a gamma for each part.
TWO_GAMMAS = "popularity+cf:two_gammas"
# Systems that make lists for new histories.
SYSTEMS = (ALL_BEAMS, *LIKELIHOODS, *FUSIONS)


@dataclasses.dataclass(frozen=True)
class Chosen:
  """What lists are made with.

  Attributes:
    injection: none, popularity, cf or popularity+cf: the best of them, which
      nothing follows where there is a `system`.
    gamma: the strength of each part by its name; empty where nothing is
      injected.
    cf_model: whose scores, "" where neither injection nor system needs any; of
      a system maybe several, "sasrec,item_knn", the injection's first.
    system: one of `SYSTEMS` that valid likes better; "" = the injection.
    fitted: what valid taught the system.
    confidence: what valid taught of how surely lists hold the target, by the
      name of the ranks (results/confidence.py); empty where nothing was
      evaluated.
  """

  injection: str
  gamma: Mapping[str, float]
  cf_model: str
  system: str = ""
  fitted: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  confidence: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def ranks(self) -> str:
    """The name of the ranks that lists go by."""
    if self.system or not isinstance(self.report, dict):
      return self.system or self.injection
    return TWO_GAMMAS

  @property
  def plain(self) -> "Chosen":
    """The injection alone."""
    model = self.models[0] if "cf" in self.parts else ""
    return Chosen(self.injection, self.gamma, model, confidence=self.confidence)

  @property
  def models(self) -> tuple[str, ...]:
    """The names in `cf_model`."""
    return tuple(filter(None, self.cf_model.split(",")))

  @property
  def models_in_use(self) -> tuple[str, ...]:
    """The CF models whose scores the lists are made from."""
    if self.system:
      return tuple(models_of(self.fitted))
    return self.models[:1] if "cf" in self.parts else ()

  @property
  def counts_popularity(self) -> bool:
    """Whether lists depend on how often items were had."""
    parts = self.fitted.get("parts", ()) if self.system else self.parts
    return "popularity" in parts

  @property
  def asks_the_model(self) -> bool:
    """Whether lists depend on the tuned model's own probability of titles."""
    return self.system in LIKELIHOODS or bool(
      self.system and self.fitted.get("likelihood")
    )

  @property
  def parts(self) -> tuple[str, ...]:
    """Popularity, cf, both or neither."""
    return parts_of(self.injection)

  @property
  def report(self) -> float | dict[str, float] | None:
    """The gamma as rows report it: none, one, or one for each part."""
    values = set(self.gamma.values())
    if len(values) > 1:
      return dict(self.gamma)
    return values.pop() if values else None


NOTHING = Chosen("none", {}, "")


def parts_of(injection: str) -> tuple[str, ...]:
  """Returns the parts of an injection: of popularity+cf both."""
  return tuple(part for part in injection.split("+") if part != "none")


def per_part(injection: str, gamma: rows.Gamma) -> dict[str, float]:
  """Returns the gamma of each part, where one is for all of them or not.

  Args:
    injection: its name.
    gamma: one, or one for each part; None where nothing is injected.
  """
  parts = parts_of(injection)
  if gamma is None:
    return {}
  if isinstance(gamma, Mapping):
    return {part: float(gamma[part]) for part in parts}
  return dict.fromkeys(parts, float(gamma))


@dataclasses.dataclass(frozen=True)
class Candidate:
  """An injection with the gammas that valid chose for it.

  Attributes:
    injection: its name.
    gamma: of each part.
    ndcg: on valid.
  """

  injection: str
  gamma: Mapping[str, float]
  ndcg: float


def candidates(found: ground_file.GroundFile) -> Iterator[Candidate]:
  """Yields what was tried on valid, the plainest first.

  Each injection comes with its single gamma; popularity+cf with its two
  gammas as well, where they were asked for.

  Raises:
    UserError: the file lacks what it says was chosen.
  """
  k = found.chosen_by
  for row in found.rows_of(split="valid", injection="none"):
    if k not in row.ndcg:
      raise _untried("none", None, k)
    yield Candidate("none", {}, row.ndcg[k])
    break  # Without gamma all protocols are one.
  for name, single in single_gammas(found.results).items():
    if not found.gamma_curves:  # A file of before there were any.
      break
    curve = found.gamma_curves.get(name)
    if curve is None or single not in curve.gamma or k not in curve.ndcg:
      raise _untried(name, single, k)
    ndcg = curve.ndcg[k][list(curve.gamma).index(single)]
    yield Candidate(name, per_part(name, single), ndcg)
  for row in found.rows_of(split="test", protocol="two_gammas"):
    pairs, own = found.gamma_pairs.get(row.injection), row.gamma_of_parts
    both = list(zip(pairs.popularity, pairs.cf, strict=True)) if pairs else []
    pair = (own.get("popularity"), own.get("cf"))
    if pairs is None or pair not in both or k not in pairs.ndcg:
      raise _untried(row.injection, row.gamma, k)
    yield Candidate(row.injection, own, pairs.ndcg[k][both.index(pair)])


def _untried(name: str, gamma: rows.Gamma, k: str) -> errors.UserError:
  """Returns the error of a file without what it says was chosen."""
  return errors.UserError(
    f"ground_eval.json: {name} with gamma {gamma} found, whose NDCG@{k} on"
    " valid isn't there; --mode=ground_eval makes it again"
  )


def best(
  found: ground_file.GroundFile,
  injected: str,
  usable: Callable[[str], bool],
) -> Chosen:
  """Returns what valid likes best; the plainest of equals.

  Args:
    found: of ground_eval.
    injected: the CF model whose scores are injected; fused ones go by name.
    usable: whether an injection, or a system, of this name is wanted.
  """
  tried = [one for one in candidates(found) if usable(one.injection)]
  chosen, ndcg = NOTHING, -1.0
  if tried:
    first = max(tried, key=lambda one: one.ndcg)
    model = injected if "cf" in first.gamma else ""
    chosen, ndcg = Chosen(first.injection, first.gamma, model), first.ndcg
  for row in found.systems:
    known = row.name in SYSTEMS and row.name in found.fitted
    if row.split != "valid" or not known or not usable(row.name):
      continue
    own = row.ndcg.get(found.chosen_by, -1.0)
    if own > ndcg:
      fitted, ndcg = found.fitted[row.name], own
      fitted = fitted.get("parameters", fitted)
      needs = [injected] if "cf" in chosen.gamma else []
      needs = list(dict.fromkeys([*needs, *models_of(fitted)]))
      chosen = dataclasses.replace(
        chosen,
        cf_model=",".join(needs),
        system=row.name,
        fitted=fitted,
      )
  return dataclasses.replace(chosen, confidence=found.confidence)


def models_of(fitted: Mapping[str, Any]) -> list[str]:
  """Returns the CF models among the parts of a system."""
  return [
    part
    for part in fitted.get("parts", ())
    if part not in ("text", "popularity", "bm25")
  ]


def single_gammas(results: Iterable[rows.MetricRow]) -> dict[str, float]:
  """Returns {injection: the one gamma that `single_gamma` chose}."""
  return {
    row.injection: row.gamma
    for row in results
    if row.split == "test"
    and row.protocol == "single_gamma"
    and isinstance(row.gamma, (int, float))
  }


def write(
  path: pathlib.Path,
  chosen: Chosen,
  cutoff: str,
  fingerprints: Mapping[str, Any],
) -> None:
  """Writes chosen.json, unless it says the same already.

  Args:
    path: of the file.
    chosen: what valid chose.
    cutoff: of the NDCG that it was chosen by.
    fingerprints: of all that it was fitted on (recommend/fitted_on.py).
  """
  content = {
    "schema": fields.SCHEMA,
    "injection": chosen.injection,
    "gamma": dict(chosen.gamma),
    "cf_model": chosen.cf_model,
    "split": "valid",
    "metric": f"ndcg@{cutoff}",
    "fingerprints": fingerprints,
  }
  if chosen.system:  # A version that knows of none takes the injection.
    content |= {"system": chosen.system, "fitted": chosen.fitted}
  if chosen.confidence:
    content |= {"confidence": chosen.confidence}
  content["seal"] = names.of_value(content)
  if storage.read_json_if_whole(path) != content:
    storage.write_json(path, content)


def read(path: pathlib.Path) -> tuple[Chosen, Mapping[str, Any]]:
  """Returns what chosen.json holds: (the choice, fingerprints).

  Raises:
    UserError: it is missing, damaged or of a later version.
  """
  value = storage.read_json(path)
  file = fields.Fields(value, f"{path}:")
  fields.check_schema(file)
  gamma = file.get("gamma", fields.mapping(fields.number))
  injection = file.get("injection", fields.text)
  expected = set(parts_of(injection))
  if set(gamma) != expected:
    raise fields.refuse(
      fields.inside(file.where, "gamma"),
      gamma,
      f"one for each part of {injection}",
    )
  system = file.optional("system", fields.text, "")
  if system not in ("", *SYSTEMS):
    raise fields.refuse(
      fields.inside(file.where, "system"),
      system,
      f"one of {', '.join(SYSTEMS)}",
    )
  chosen = Chosen(
    injection,
    gamma,
    file.get("cf_model", fields.text),
    system,
    file.optional("fitted", fields.of_object, {}),
    file.optional("confidence", fields.of_object, {}),
  )
  made_from = file.get("fingerprints", fields.of_object)
  plain = {key: own for key, own in value.items() if key != "seal"}
  # Files of before have none.
  if value.get("seal") not in (None, names.of_value(plain)):
    raise errors.UserError(f"{path}: its content isn't what was written")
  return chosen, made_from
