"""What fits which devices and what bounds it, of programs that aren't run."""

import pathlib
from typing import TYPE_CHECKING

from bigrec_jax import config as config_lib, errors
from bigrec_jax.recommend import decoder, loaded as loaded_lib
from bigrec_jax.stages import graph
from bigrec_jax.stages.session import Asked, Session, say
from bigrec_jax.workdir import locks, storage

if TYPE_CHECKING:
  from bigrec_jax.planning import titles as titles_lib


def run(
  config: config_lib.Config, workdir: pathlib.Path, asked: Asked | None = None
) -> None:
  """Writes plan.json and prints its tables; needs no weights and no data.

  A topology that cannot hold the run is an answer, not a mistake: the plan is
  written, the line says by how much, and the exit status is 0.

  Raises:
    UserError: the topology, the mesh, config.json or a batch is unusable.
  """
  Session(config, workdir, asked).make(STAGE, reads=True)


def _build(session: Session, _: graph.Inputs) -> None:
  # Not at the top: --dry_run needs no JAX.
  from bigrec_jax.planning import plan, tables, topology

  target = topology.resolve(session.config.plan.topology)
  # Which makes nothing, not even a base out of a GGUF file.
  read = loaded_lib.Loaded(session.config, session.paths.root)
  found = plan.Plan(
    session.config,
    session.paths,
    target,
    say,
    _titles(read),
    read.task,
  ).make()
  with locks.output(session.paths.plan, "plan"):
    storage.write_json(session.paths.plan, found)
  say(tables.render(found))
  say(f"plan: written to {session.paths.plan}")


def _titles(read: loaded_lib.Loaded) -> "titles_lib.Titles":
  """Returns what the catalogue's titles make, as far as they are known."""
  import jax

  from bigrec_jax.planning import titles as titles_lib

  config, found = read.config, titles_lib.NONE
  if not read.paths.catalogue.exists():
    return found
  try:
    if "generate" in config.plan.parts and config.generate.constrained:
      trie, masses = decoder.legal_titles(read)
      ranges = 0 if masses is None else masses.count
      found = found._replace(trie=trie, ranges=ranges)
    told = config.train.objective != "language_model" or read.task.cf_model
    if "train" in config.plan.parts and told:
      tables = jax.tree.leaves(dict(read.task.objective().tables))
      found = found._replace(train=sum(table.nbytes for table in tables))
  except (errors.UserError, OSError) as error:
    say(f"plan: tables of the catalogue's titles: not known: {error}")
  return found


STAGE = graph.Stage(
  name="plan",
  mode="plan",
  where=lambda session: session.paths.plan,
  differs=lambda session: [graph.EVERY_TIME],
  build=_build,
  cost=lambda session: graph.Cost(
    len(session.config.plan.parts), "parts to compile", "plan"
  ),
)
