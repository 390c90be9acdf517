"""An evaluation as tables for the terminal: the rows, and what tests say."""

from collections.abc import Iterator, Sequence

from bigrec_jax.results import (
  comparisons,
  ground_file,
  paired_tests,
  rows,
  table,
)


def of_rows(result: ground_file.GroundFile) -> str:
  """Returns the test rows as a table for people."""
  cutoffs = list(result.results[0].hr) if result.results else []
  headers = ["test", "gamma by"]
  headers += [f"NDCG@{k}" for k in cutoffs] + [f"HR@{k}" for k in cutoffs]
  cells = [
    [name, protocol]
    + [row.ndcg.get(k) for k in cutoffs]
    + [row.hr.get(k) for k in cutoffs]
    for name, protocol, row in _listed(result)
  ]
  return table.format_table(headers, cells)


def _listed(
  result: ground_file.GroundFile,
) -> list[tuple[str, str, rows.BaselineRow | rows.MetricRow]]:
  """Returns (name, protocol, row) of test, oracles last."""
  others = list(result.baselines_of("test"))
  oracles = [row for row in others if row.name.startswith("oracle")]
  found: list[tuple[str, str, rows.BaselineRow | rows.MetricRow]] = [
    (row.name, "", row) for row in others if row not in oracles
  ]
  plain = next(result.rows_of(split="test", injection="none"), None)
  if plain is not None:  # Without gamma all protocols are one.
    found.append(("BIGRec", "", plain))
  for injected in result.rows_of(split="test"):
    if injected.injection != "none":
      name = f"BIGRec + {injected.injection}"
      found.append((name, injected.protocol, injected))
  found += [(r.name, "", r) for r in result.systems if r.split == "test"]
  found += [(row.name, "", row) for row in oracles]
  return found


def of_oracle(result: ground_file.GroundFile) -> Iterator[str]:
  """Yields lines: which shares of a made-up world's oracle are reached."""
  found: dict[str, rows.BaselineRow | rows.MetricRow] = {
    row.name: row for row in result.baselines_of("test")
  }
  plain = next(result.rows_of(split="test", injection="none"), None)
  if "oracle" not in found or plain is None:
    return
  found["BIGRec"] = plain
  for k in ("1", "10"):
    best = found["oracle"].hr.get(k)
    if best:
      shares = (
        f"{name} {found[name].hr[k] / best:.0%}"
        for name in ("BIGRec", "most_pop", "random")
        if name in found and k in found[name].hr
      )
      yield f"HR@{k} of the oracle's {best:.4f}: {', '.join(shares)}"


def of_tests(result: ground_file.GroundFile) -> str:
  """Returns what the tests say at one cutoff, "" where there are none.

  A row of test a line: its NDCG less BIGRec's, and less that of the best
  single model. All other tests are in the file.
  """
  k = comparisons.headline_cutoff(result.tests)
  if k is None:
    return ""
  metric = "ndcg" if k > 1 else "hr"
  single = paired_tests.best_single(result)
  others = [paired_tests.BIGREC]
  others += [single] if single and single not in others else []
  headers: list[str] = ["paired tests", "gamma by"]
  for other in others:
    label = "BIGRec" if other == paired_tests.BIGREC else other
    headers += [f"{metric.upper()}@{k} - {label}", "95 %", "p (Holm)"]
  lines = []
  for name, protocol, row in _listed(result):
    cells: list[object] = [name, protocol]
    for other in others:
      own = paired_tests.name_of(row)
      cells += _cells(comparisons.between(result.tests, own, other, metric, k))
    if any(cells[2:]):
      lines.append(cells)
  note = (
    f"{len(result.tests)} tests in metrics/ground_eval.json, corrected together"
  )
  if single:
    label = "BIGRec" if single == paired_tests.BIGREC else single
    note += f"; best single model on valid: {label}"
  return f"{table.format_table(headers, lines)}\n{note}"


def _cells(test: comparisons.Comparison | None) -> Sequence[object]:
  if test is None:
    return ["", "", ""]
  low, high = test.ci95
  return [
    f"{test.difference:+.4f}",
    f"{low:+.4f} {high:+.4f}",
    comparisons.in_words(test.p_holm),
  ]
