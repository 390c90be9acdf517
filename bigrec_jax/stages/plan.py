"""What fits which devices and what bounds it, of programs that aren't run."""

import pathlib

from bigrec_jax import config as config_lib
from bigrec_jax.stages import graph
from bigrec_jax.stages.session import Asked, Session, say
from bigrec_jax.workdir import locks, storage


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
  found = plan.Plan(session.config, session.paths, target, say).make()
  with locks.output(session.paths.plan, "plan"):
    storage.write_json(session.paths.plan, found)
  say(tables.render(found))
  say(f"plan: written to {session.paths.plan}")


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
