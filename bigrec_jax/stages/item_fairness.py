"""Groups of items in the lists of every ranker that ground_eval ranked."""

import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from bigrec_jax.data.formats import raw_files
from bigrec_jax.data.prepared import item_groups
from bigrec_jax.results import ground_file, item_fairness, table
from bigrec_jax.stages import every_list, graph, ground_eval, systems
from bigrec_jax.stages.session import Session, say
from bigrec_jax.workdir import fingerprints, processes


def is_asked_for(session: Session) -> bool:
  """Returns whether lists are to be measured."""
  return any(session.config.ground.item_fairness)


def _needed(session: Session) -> Iterator[graph.Stage]:
  yield ground_eval.STAGE
  yield from ground_eval.needed(session)


def _check(session: Session) -> None:
  if given := session.config.ground.item_groups:
    raw_files.given("ground.item_groups", given)
  systems.check(session)


def _groupings(session: Session) -> list[item_groups.Grouping]:
  found = [item_groups.by_popularity(session.catalogue.popularity)]
  if given := session.config.ground.item_groups:
    found.append(item_groups.of_file(given, session.catalogue))
  columns = [name for name in session.config.ground.item_columns if name]
  path, count = session.paths.attributes, len(session.catalogue)
  return found + item_groups.of_columns(columns, path, count)


def _inputs(session: Session) -> graph.Inputs:
  ground, root = session.config.ground, session.paths.root
  found = session.load(ground_eval.STAGE)
  groupings = {
    own.name: [*own.groups, fingerprints.of_value(own.members.tobytes())]
    for own in _groupings(session)
  }
  return {
    "ground_eval": fingerprints.of_value(found.to_json()),
    "cutoffs": sorted(ground.item_fairness),
    "groups": groupings,
    "lists": "with quality",  # Once there were groups alone.
    "cf": {
      model: fingerprints.of_folder(root / "cf" / model, f"{every_list.SPLIT}*")
      for model in every_list.cf_models(session, found)
    },
  }


def _build(
  session: Session, inputs: graph.Inputs
) -> item_fairness.FairnessFile:
  """Makes the lists of every ranker and counts; a kill costs one ranker."""
  found: ground_file.GroundFile = session.load(ground_eval.STAGE)
  cutoffs = sorted(session.config.ground.item_fairness)
  history = session.examples(every_list.SPLIT).history
  groupings = _groupings(session)
  had = {g.name: item_fairness.counts(history, g.members) for g in groupings}
  rows: list[item_fairness.Row] = []
  quality: list[item_fairness.Quality] = []
  with session.parts(STAGE.name, inputs) as parts:
    every = list(every_list.every(session, found, cutoffs[-1], parts))
    with session.stage("lists", len(every), "rankers") as bar:
      for ranker, make in every:
        lists = parts.once(ranker, functools.partial(_named, make))["lists"]
        quality += [_quality(session, ranker, lists[:, :k]) for k in cutoffs]
        rows += [
          item_fairness.row(
            ranker,
            grouping.name,
            grouping.groups,
            lists[:, :k],
            had[grouping.name],
            grouping.members,
            session.config.ground.bootstrap_samples,
            session.config.seed,
            session.users(every_list.SPLIT),
          )
          for grouping in groupings
          for k in cutoffs
        ]
        bar.update(1)
  histories = {
    g.name: dict(
      zip(
        g.groups,
        item_fairness.shares(had[g.name].sum(axis=0)).tolist(),
        strict=True,
      )
    )
    for g in groupings
  }
  result = item_fairness.FairnessFile(
    every_list.SPLIT, len(history), histories, rows, quality
  )
  path = session.paths.item_fairness
  processes.on_first(lambda: item_fairness.write(path, result))
  return result


def _quality(
  session: Session, ranker: str, lists: np.ndarray
) -> item_fairness.Quality:
  from bigrec_jax.results import list_quality  # Slow to import.

  catalogue = session.catalogue
  found = list_quality.measures(lists, catalogue.popularity, catalogue.titles)
  known = {name: own for name, own in found.items() if not math.isnan(own)}
  return item_fairness.Quality(ranker, lists.shape[1], known)


def _named(make: Any) -> Mapping[str, np.ndarray]:
  return {"lists": make().astype(np.int32)}


def finish(session: Session) -> None:
  """Prints MGU and DGU at the longest lists."""
  found = session.load(STAGE)
  most = max(row.k for row in found.rows)
  names = list(found.histories)
  headers = [
    "item fairness",
    *(f"{m}@{most}, {g}" for g in names for m in ("MGU", "DGU")),
  ]
  lines: dict[str, list[object]] = {}
  for row in found.rows:
    if row.k == most:
      lines.setdefault(row.ranker, [row.ranker]).extend([row.mgu, row.dgu])
  say(table.format_table(headers, list(lines.values())))


STAGE = graph.Stage(
  name="item_fairness",
  mode="ground_eval",
  where=lambda session: session.paths.item_fairness,
  needs=_needed,
  inputs=_inputs,
  is_there=lambda session: session.paths.item_fairness.exists(),
  files=lambda session: ("metrics/item_fairness.json",),
  build=_build,
  load=lambda session: item_fairness.read(session.paths.item_fairness),
  check=_check,
  batches=(),
)
