"""One HTML page on everything that a workdir holds."""

import dataclasses
import datetime
import pathlib
from typing import TYPE_CHECKING

from absl import logging

from bigrec_jax import config as config_lib, errors
from bigrec_jax.data.prepared import doctor, examples
from bigrec_jax.stages import graph
from bigrec_jax.stages.session import Asked, Session, say
from bigrec_jax.workdir import (
  contents,
  fingerprints,
  locks,
  paths as paths_lib,
  processes,
  storage,
)

if TYPE_CHECKING:
  from bigrec_jax.results import page, run_data, segments

# What `run_data.load` reads.
_READ = (
  "data/*.json*",
  "recommendations.jsonl",
  "metrics/*.json*",
  "predictions/*.json",
  "ranks/*.npz",
  "ranks/*.json",
  "converted_base/gguf/*/origin.json",
)


def run(
  config: config_lib.Config, workdir: pathlib.Path, asked: Asked | None = None
) -> None:
  """Writes `report/index.html`; parts that are missing are said to be.

  Raises:
    UserError: the workdir holds nothing to report.
  """
  session = Session(config, workdir, asked)
  again = dataclasses.replace(STAGE, differs=lambda _: [graph.EVERY_TIME])
  session.make(again, reads=True)


def _inputs(session: Session) -> graph.Inputs:
  root = session.paths.root
  return {
    "config": session.config.to_dict(),
    "read": {p: fingerprints.of_folder(root, p) for p in _READ},
    **_compared(session),
  }


def _compared(session: Session) -> graph.Inputs:
  """Returns what names the runs that are set beside this one."""
  from bigrec_jax.results import other_runs

  found = {
    name: [
      fingerprints.of_folder(pathlib.Path(name), pattern)
      for pattern in ("config.json", "metrics/ground_eval.json", "ranks/*.npz")
    ]
    for name in other_runs.roots(session.config.report.compared)
  }
  return {"compared": found} if found else {}


def _check(session: Session) -> None:
  from bigrec_jax.results import other_runs

  for name in other_runs.roots(session.config.report.compared):
    other_runs.check(pathlib.Path(name), "report.compare")


def _build(session: Session, _: graph.Inputs) -> None:
  # Beside the folder, which isn't made where there is nothing to report.
  with locks.output(session.paths.report.parent, "report"):
    processes.on_first(lambda: _write(session))


def _grounded(
  session: Session, data: "run_data.RunData"
) -> "list[tuple[str, str, page.Html]]":
  """Returns the sections on titles that are grounded to the catalogue."""
  from bigrec_jax.results import (
    answer_section,
    fairness_sections,
    gamma_sections,
    list_sections,
    quality_sections,
    segment_sections,
    significance_sections,
  )

  return [
    (
      "answer",
      "Answer",
      answer_section.section(data, session.config.report.price_per_hour),
    ),
    ("results", "Results", quality_sections.results(data)),
    *_comparison(session),
    ("tests", "Paired tests", significance_sections.tests(data)),
    ("hits", "Where hits come from", segment_sections.where_from(data)),
    (
      "segments",
      "For whom",
      segment_sections.by_segment(data, _test_users(session)),
    ),
    ("lists", "Beyond accuracy", list_sections.beyond_accuracy(data)),
    (
      "item_fairness",
      "Groups of items",
      fairness_sections.of_items(data.item_fairness),
    ),
    ("curves", "HR and NDCG by K", quality_sections.metric_curves(data)),
    ("chosen", "Settings tried", significance_sections.chosen(data)),
    ("gamma", "Gamma", gamma_sections.gamma_curves(data)),
    (
      "popularity",
      "Item popularity",
      quality_sections.popularity_groups(data),
    ),
    (
      "examples",
      "Examples",
      quality_sections.examples(data, session.config.report.num_examples),
    ),
    (
      "contamination",
      "Contamination",
      significance_sections.probe(data.contamination),
    ),
  ]


def _comparison(session: Session) -> "list[tuple[str, str, page.Html]]":
  """Returns the section on other runs, where there are some."""
  from bigrec_jax.results import compare_sections, other_runs

  names = other_runs.roots(session.config.report.compared)
  if not names or not session.paths.ground_eval.exists():
    return []
  own = other_runs.read(session.paths.root, session.config.to_dict())
  others = [other_runs.read(pathlib.Path(name)) for name in names]
  found = other_runs.groups([own, *others])
  return [("compare", "Comparison of runs", compare_sections.runs(found))]


def _test_users(session: Session) -> "segments.Users | None":
  """Returns what the prepared data say of test's users, if they can be read."""
  from bigrec_jax.results import segments

  try:
    train = examples.load_examples(session.paths, "train", -1, 0)
    test, items = session.examples("test"), len(session.catalogue)
  except (errors.UserError, OSError) as error:
    logging.info("report: no groups of users: %s", error)
    return None
  return segments.users(test, train, items)


def _write(session: Session) -> None:
  # Not at the top: a page that is current needs no matplotlib.
  from bigrec_jax.results import (
    cost_sections,
    page,
    run_data,
    run_sections,
    task_sections,
  )

  config, workdir, task = session.config, session.paths.root, session.task
  name = "" if task.grounds else task.name
  data = run_data.load(workdir, name, contents.altered(session.paths))
  if data.is_empty:
    raise errors.UserError(
      f"{workdir}: no data, metrics or predictions found; run --mode=pipeline,"
      " or another mode that writes some, first"
    )
  for _, why in data.damaged:
    say(f"report: left out, because damaged: {why}")
  made = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
  findings = doctor.summary(data.doctor) if data.doctor else []
  if task.grounds:
    quality = _grounded(session, data)
  else:
    shown = task_sections.results(task.name, data.task_rows)
    quality = [("task", "Task results", shown)]
    if task.recommends:  # What makes its lists was evaluated before.
      quality += _grounded(session, data)
  sections = (
    *quality,
    ("training", "Training", run_sections.losses(data)),
    (
      "speed",
      "Time and cost",
      cost_sections.costs(data, config.report.price_per_hour),
    ),
    ("data", "Data", run_sections.data_summary(data, findings)),
    (
      "settings",
      "Configuration, fingerprints",
      run_sections.settings(data, config.to_dict()),
    ),
  )
  title = f"BIGRec report: {paths_lib.real(workdir).name}"
  html = page.document(title, run_sections.lead(workdir, data, made), sections)
  path = paths_lib.Paths(workdir).report
  with storage.atomic_path(path) as temporary:
    temporary.write_text(html, encoding="utf-8")
  say(f"report: {path}")


STAGE = graph.Stage(
  name="report",
  mode="report",
  where=lambda session: session.paths.report,
  inputs=_inputs,  # It shows what there is, and needs nothing of it.
  is_there=lambda session: session.paths.report.exists(),
  files=lambda session: ("report/index.html",),
  build=_build,
  check=_check,
  of_what_is_there=True,
  quiet=True,
)
