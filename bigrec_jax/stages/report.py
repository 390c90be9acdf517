"""One HTML page on everything that a workdir holds."""

import datetime
import pathlib

from bigrec_jax import config as config_lib, errors
from bigrec_jax.data.prepared import doctor
from bigrec_jax.stages import session
from bigrec_jax.workdir import (
  fingerprints,
  paths as paths_lib,
  processes,
  records,
  storage,
)

# What `run_data.load` reads.
_READ = (
  "data/*.json*",
  "metrics/*.json*",
  "predictions/*.json",
  "ranks/*.npz",
  "ranks/*.json",
)


def ensure(config: config_lib.Config, workdir: pathlib.Path) -> None:
  """Writes the page unless it shows what the workdir holds already.

  Raises:
    UserError: as `run`.
  """
  paths = paths_lib.Paths(workdir)
  made_from = {
    "config": config.to_dict(),
    "read": {p: fingerprints.of_folder(workdir, p) for p in _READ},
  }
  if records.is_current(paths.record("report"), made_from, paths.report):
    session.say(f"report: {paths.report} is current")
    return
  run(config, workdir)
  records.write_record(paths.record("report"), made_from)


def run(config: config_lib.Config, workdir: pathlib.Path) -> None:
  """Writes `report/index.html`; parts that are missing are said to be.

  Raises:
    UserError: the workdir holds nothing to report, or a damaged file.
  """
  processes.on_first(lambda: _write(config, workdir))


def _write(config: config_lib.Config, workdir: pathlib.Path) -> None:
  # Not at the top: a page that is current needs no matplotlib.
  from bigrec_jax.results import (
    gamma_sections,
    page,
    quality_sections,
    run_data,
    run_sections,
  )

  data = run_data.load(workdir)
  if data.is_empty:
    raise errors.UserError(
      f"{workdir}: no data, metrics or predictions found; run --mode=pipeline,"
      " or another mode that writes some, first"
    )
  made = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
  findings = doctor.summary(data.doctor) if data.doctor else []
  sections = (
    ("results", "Results", quality_sections.headline(data)),
    ("curves", "HR and NDCG by K", quality_sections.metric_curves(data)),
    ("gamma", "Gamma", gamma_sections.gamma_curves(data)),
    (
      "popularity",
      "Item popularity",
      quality_sections.popularity_groups(data),
    ),
    (
      "examples",
      "Examples",
      quality_sections.examples(data, config.report.num_examples),
    ),
    ("training", "Training", run_sections.losses(data)),
    ("speed", "Throughput", run_sections.throughput(data)),
    ("data", "Data", run_sections.data_summary(data, findings)),
    (
      "settings",
      "Configuration, fingerprints",
      run_sections.settings(data, config.to_dict()),
    ),
  )
  title = f"BIGRec report: {workdir.resolve().name}"
  html = page.document(title, run_sections.lead(workdir, data, made), sections)
  path = paths_lib.Paths(workdir).report
  with storage.atomic_path(path) as temporary:
    temporary.write_text(html, encoding="utf-8")
  print(f"report: {path}", flush=True)
