"""One mode once for each of several seeds, in workdirs beside each other.

`<workdir>/seed-<n>` is a workdir like any other. What does not depend on the
seed (prepared data, a converted base, the catalogue's embeddings, digests of
given files) is put into the later ones as hard links to the first's files, and
their own walk compares it with what they would make it from, as it does with
whatever lies there: what isn't of equal inputs is made again. Files are
replaced and never changed, so a link costs the first nothing.
"""

import contextlib
import dataclasses
import functools
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator

from bigrec_jax import config as config_lib, errors
from bigrec_jax.stages.session import Asked, Session, say
from bigrec_jax.workdir import (
  contents,
  leftovers,
  locks,
  paths as paths_lib,
  processes,
  storage,
)

MAKING = (
  "prepare",
  "pretrain",
  "train",
  "train_cf",
  "generate",
  "embed",
  "ground_eval",
  "evaluate",
  "contamination",
  "pipeline",
)
MODES = (*MAKING, "report")
# They read and write nothing that a seed changes.
ANY = ("plan", "selfcheck")
_MEASURING = ("ground_eval", "evaluate", "pipeline")
# (configuration, workdir, what the command asked for)
Mode = Callable[[config_lib.Config, pathlib.Path, Asked], object]


def check(config: config_lib.Config, workdir: pathlib.Path, mode: str) -> None:
  """Raises UserError for what can't be done with several seeds."""
  if mode not in MODES:
    one = paths_lib.Paths(workdir).seed(config.seeds[0])
    raise errors.UserError(
      f"config.seeds: {', '.join(map(str, config.seeds))} found with"
      f" --mode={mode}, the workdir of a single seed expected (--workdir={one})"
    )
  if config.recommend.output:
    raise errors.UserError(
      f"config.recommend.output: {config.recommend.output} found with several"
      " seeds, which would all write it; none expected: each has"
      " recommendations.jsonl in its workdir"
    )


def run(
  config: config_lib.Config,
  workdir: pathlib.Path,
  asked: Asked,
  mode: str,
  one: Mode,
) -> None:
  """Runs a mode for each seed; what measures ends with the table over them.

  Args:
    config: whose `seeds` there are.
    workdir: holds theirs, and what is said of all of them.
    asked: of the command.
    mode: its name.
    one: runs it on one workdir.

  Raises:
    UserError: as the mode does.
  """
  paths = paths_lib.Paths(workdir)
  first = paths.seed(config.seeds[0])
  for seed in config.seeds:
    own, root = (
      dataclasses.replace(config, seed=seed, seeds=()),
      paths.seed(seed),
    )
    say(f"seed {seed}: {mode} in {root}")
    with _held(root, mode, asked):
      if root != first and mode in MAKING and not asked.dry_run:
        processes.on_first(functools.partial(_share, config, first, root))
      one(own, root, asked)
  if asked.dry_run:
    return
  task = Session(config, workdir).task
  if mode in _MEASURING:
    processes.on_first(lambda: _measure(config, paths, task.name, task.grounds))
  if mode in ("pipeline", "report"):
    processes.on_first(lambda: _report(config, paths))


@contextlib.contextmanager
def _held(root: pathlib.Path, mode: str, asked: Asked) -> Iterator[None]:
  writes = mode in MAKING or asked.make
  with contextlib.ExitStack() as stack:
    if writes and not asked.dry_run:
      stack.enter_context(locks.writer(root, mode))
    yield


def _share(
  config: config_lib.Config, first: pathlib.Path, root: pathlib.Path
) -> None:
  """Links what the first seed has and another one lacks and can use."""
  source, own = paths_lib.Paths(first), paths_lib.Paths(root)
  if source.manifest.exists() and not own.manifest.exists():
    _link_artefact(source, own, "data")
  # Else each seed pretrains a base, and embeds with it.
  if not (config.model.path or config.embed.model.path):
    return
  if not own.record("embeddings").exists():
    _link_artefact(source, own, "embeddings")
  if config.model.path:
    for name in ("converted_base", "given.json"):
      _link_all(first / name, root / name)


def _link_artefact(
  source: paths_lib.Paths, own: paths_lib.Paths, stage: str
) -> None:
  """Links the files of an artefact; those that say it is whole come last."""
  record = source.record(stage)
  content = contents.read(record)
  if content is None:
    return
  names = [source.root / name for name in content.files]
  for path in sorted(names, key=lambda path: path == source.manifest):
    if path.is_file():
      _link(path, own.root / path.relative_to(source.root))
  if not own.record(stage).exists():
    _link(record, own.record(stage))


def _link_all(source: pathlib.Path, target: pathlib.Path) -> None:
  """Links a file, or a folder's files, where there is nothing yet."""
  if target.exists() or not source.exists():
    return
  if source.is_file():
    _link(source, target)
    return
  temporary = leftovers.unique(target)
  shutil.copytree(source, temporary, copy_function=_link_or_copy)
  os.replace(temporary, target)


def _link(source: pathlib.Path, target: pathlib.Path) -> None:
  with storage.atomic_path(target) as temporary:
    _link_or_copy(source, temporary)


def _link_or_copy(source: str | os.PathLike, target: str | os.PathLike) -> None:
  try:
    os.link(source, target)
  except OSError:  # Not every file system has hard links.
    shutil.copy2(source, target)


def _measure(
  config: config_lib.Config, paths: paths_lib.Paths, task: str, grounds: bool
) -> None:
  """Writes metrics/seeds.json and prints the table of test."""
  from bigrec_jax.results import seeds as results

  found = results.over(
    [results.measured(paths.seed(n), task, grounds) for n in config.seeds]
  )
  results.write(paths.seeds, config.seeds, found)
  say(results.of_terminal(config.seeds, found))
  say(f"seeds: {paths.seeds}")


def _report(config: config_lib.Config, paths: paths_lib.Paths) -> None:
  """Writes the page over all seeds, which leads to theirs."""
  from bigrec_jax.results import page, seeds as results

  seeds, found = results.read(paths.seeds)
  names = results.metrics_of(found)
  shown = page.table(
    ["test", *names],
    results.cells(found, names),
    f"Mean ± standard deviation over seeds {', '.join(map(str, seeds))}, of the"
    " same test users; each seed's page has intervals over users.",
  )
  links = page.listing(
    page.link(f"../{root.name}/report/index.html", root.name)
    for root in map(paths.seed, config.seeds)
  )
  lead = page.paragraph(f"{len(seeds)} runs that differ in their seed alone.")
  title = f"BIGRec report: {paths_lib.real(paths.root).name}"
  sections = (("seeds", "Results", shown), ("runs", "Runs", links))
  with (
    locks.output(paths.report.parent, "report"),
    storage.atomic_path(paths.report) as temporary,
  ):
    html = page.document(title, lead, sections)
    temporary.write_text(html, encoding="utf-8")
  say(f"report: {paths.report}")
