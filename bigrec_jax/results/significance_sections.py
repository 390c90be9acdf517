"""Sections of the report on what is certain, and what it was chosen from."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bigrec_jax.results import (
  comparisons,
  contamination,
  main_rows,
  page,
  paired_tests,
  plots,
  run_data,
)

_BECAUSE = {
  "bigrec": "with BIGRec",
  "part": "with parts other than BIGRec",
  "best_single": "with the best single model",
}
_ALPHA = 0.01


def tests(data: run_data.RunData) -> page.Html:
  """Returns the paired tests between rows of test."""
  ground = data.ground
  k = comparisons.headline_cutoff(ground.tests) if ground else None
  if ground is None or k is None:
    how = "--mode=ground_eval makes them."
    if ground is not None:
      how = paired_tests.why_none(ground)
    return page.missing("paired tests", how)
  single = paired_tests.best_single(ground)
  metric = "ndcg" if k > 1 else "hr"
  shown = [t for t in ground.tests if (t.metric, t.k) == (metric, k)]
  count = len(ground.tests)
  lead = (
    f"{count:,} tests between {len(shown):,} pairs of rows on the same"
    f" {ground.who('test')}: two-sided, by flipping the signs of the"
    " users' differences. p is corrected for all of them together (Holm), so"
    " the chance of even one false finding below .01 is below 1 %. Users are"
    " what is drawn: what another training seed would give is not in it."
  )
  if ground.num_users.get("test") is None:
    lead += (
      " Which rows are of one user is not known here: each counts as a user's"
      " only one, and where a user has several the intervals are too narrow."
    )
  if single:
    lead += (
      f" Best single model, by valid NDCG@{ground.chosen_by}:"
      f" {main_rows.label(single)}."
    )
  parts: list[object] = [page.paragraph(lead)]
  drawn = [t for t in shown if {"bigrec", "best_single"} & set(t.because)]
  parts.append(_forest(drawn or shown, f"{metric.upper()}@{k}"))
  tables = [
    _tests_table(own, name)
    for reason, name in _BECAUSE.items()
    if (own := [t for t in ground.tests if t.because[0] == reason])
  ]
  parts.append(page.details("All tests", page.join(tables)))
  return page.join(parts)


def _forest(shown: Sequence[comparisons.Comparison], name: str) -> page.Html:
  """Returns intervals of the differences at the headline cutoff."""
  marks = [
    plots.Interval(
      f"{main_rows.label(test.a)} − {main_rows.label(test.b)}",
      test.difference,
      test.ci95[0],
      test.ci95[1],
      test.p_holm < _ALPHA,
    )
    for test in shown
  ]
  svg = plots.intervals(
    "tests",
    f"Differences of {name} between rows",
    marks,
    f"difference in {name}",
  )
  caption = (
    f"Differences of {name} on test with their 95 % intervals (bootstrap over"
    " users). Filled: p < .01 after Holm. To the right of 0 the first named is"
    " better."
  )
  return page.figure(svg, caption)


def _tests_table(
  found: Sequence[comparisons.Comparison], name: str
) -> page.Html:
  """Returns tests of one reason, a pair a row and a metric a column."""
  places = sorted({(t.metric, t.k) for t in found})
  pairs = dict.fromkeys((t.a, t.b) for t in found)
  rows = []
  for a, b in pairs:
    line: list[object] = [f"{main_rows.label(a)} − {main_rows.label(b)}"]
    for metric, k in places:
      test = comparisons.between(found, a, b, metric, k)
      line.append(_cell(test) if test else None)
    rows.append(line)
  return page.table(
    ["", *(f"{metric.upper()}@{k}" for metric, k in places)],
    rows,
    f"Comparisons {name}: difference and, small, p after Holm; bold where it is"
    " below .01.",
  )


def _cell(test: comparisons.Comparison) -> page.Html:
  bold = "best" if test.p_holm < _ALPHA else ""
  value = page.element("span", f"{test.difference:+.4f}", bold)
  small = page.element("span", f"p {comparisons.in_words(test.p_holm)}", "ci")
  return page.join([value, small])


def chosen(data: run_data.RunData) -> page.Html:
  """Returns what valid chose, from how much, and with what weights."""
  tried = list(_tried(data))
  if not tried:
    return page.missing("what was tried", "--mode=ground_eval makes it.")
  ground = data.ground
  parts: list[object] = [
    page.table(
      ["", "settings tried", "chosen by"],
      tried,
      "What was tried, and on what it was chosen: never on test.",
    )
  ]
  if ground is not None:
    rows = len(paired_tests.ranked(ground, {}))
    parts.append(
      page.paragraph(
        f"Measured on test: {rows:,} rows, each once, with what was chosen."
        " Whoever runs other configurations and keeps the best by its test"
        " figures has chosen on test, which no test here corrects."
      )
    )
    for name, facts in ground.fitted.items():
      parts.append(_weights(name, facts))
  return page.join(parts)


def _tried(data: run_data.RunData) -> Iterator[tuple[object, object, object]]:
  """Yields (what, how many settings, by what) of every choice on record."""
  epochs = sum("eval_loss" in line for line in data.train)
  if epochs:
    yield "epochs of the adapter", epochs, "loss on valid"
  for name, record in data.records.items():
    if name.startswith("cf_"):
      yield from _cf_tried(
        name.removeprefix("cf_").removesuffix(".json"), record
      )
  ground = data.ground
  if ground is None:
    return
  for name, curve in ground.gamma_curves.items():
    yield (
      f"gamma of {run_data.INJECTIONS.get(name, name)}",
      len(curve.gamma),
      "valid: each metric and K, and NDCG@20",
    )
  for name, pairs in ground.gamma_pairs.items():
    label = run_data.INJECTIONS.get(f"{name}:two_gammas", name)
    yield f"gammas of {label}", len(pairs.popularity), "valid NDCG@20"
  if "tried" in ground.bm25:
    yield "BM25, k1 and b", int(ground.bm25["tried"]), "valid NDCG@20"
  for name, facts in ground.fitted.items():
    tried = facts.get("tried") if isinstance(facts, Mapping) else None
    if isinstance(tried, int):
      yield run_data.label(name), tried, "valid"


def _cf_tried(
  model: str, record: Mapping[str, Any]
) -> Iterator[tuple[object, object, object]]:
  """Yields the grid of a CF model, where it had one."""
  options = record.get("cf")
  if not isinstance(options, Mapping):
    return
  grids = [
    options.get(f"grid_{key}") for key in ("learning_rate", "weight_decay")
  ]
  points = math.prod(len(g) for g in grids if isinstance(g, list) and g)
  if options.get("num_epochs"):
    yield (
      f"{run_data.label(model)}, learning rates and weight decays",
      points,
      "valid NDCG, as its epoch",
    )


def _weights(name: str, facts: Any) -> page.Html:
  """Returns what valid taught a system: its own sentences, else its facts."""
  if not isinstance(facts, Mapping):
    return page.join([])
  says = facts.get("says")
  if isinstance(says, list) and says:
    body = page.listing(str(line) for line in says)
  else:
    plain = {k: v for k, v in facts.items() if k != "tried"}
    if not plain:
      return page.join([])
    body = page.listing(
      f"{key.replace('_', ' ')}: {run_data.stable_json(value)}"
      for key, value in plain.items()
    )
  heading = page.element("h3", f"{run_data.label(name)}: what valid taught it")
  return page.join([heading, body])


def probe(found: contamination.Probe | None) -> page.Html:
  """Returns whether the base alone completes titles."""
  if found is None:
    return page.missing(
      "a probe for contamination",
      "--mode=contamination with --config.report.contamination=200 makes one.",
    )
  rows: list[Sequence[object]] = []
  for name, measure in (
    ("second halves written exactly", found.exact),
    ("tokens of second halves in place", found.agreement),
    ("log-probability of a token, nats", found.log_probability),
  ):
    low, high = measure.ci95
    small = page.element("span", f"{low:+.4f}–{high:+.4f}", "ci")
    change = page.join([f"{measure.difference:+.4f}", small])
    p = comparisons.in_words(measure.p)
    rows.append([name, measure.own, measure.exchanged, change, p])
  parts: list[object] = [
    page.paragraph(
      f"The base without adapter and history was given the first half of"
      f" {found.num_titles:,} titles ({found.eligible:,} are long enough) and"
      " wrote on. The control is the second half of another title of the same"
      " length: what a base knows of words and style helps both, what it has"
      " read of this title only one. Titles that make sense (a series and its"
      " next word) are easier to complete for a base that never saw them, so a"
      " difference is an upper bound of recitation; exact completions are its"
      " plain sign."
    ),
    page.table(
      ["", "its own half", "exchanged", "difference", "p"],
      rows,
      "Means over titles; small: 95 % interval by bootstrap over pairs.",
    ),
  ]
  if found.recited:
    listed = page.listing(found.recited)
    parts.append(page.details("Titles that were completed exactly", listed))
  return page.join(parts)
