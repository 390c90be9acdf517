"""What the law of a made-up world reaches: no system can do better."""

import numpy as np

from bigrec_jax.data.formats import synthetic
from bigrec_jax.results import paired_tests
from bigrec_jax.stages import report_row, systems
from bigrec_jax.stages.session import Session
from bigrec_jax.workdir import parts

SPLITS = ("valid", "test")


def rows(session: Session, once: parts.Once) -> systems.Measured:
  """Returns what the world's own law reaches; only a made-up world has one.

  Ranks go by the names of baselines (results/paired_tests.py).

  Args:
    session: configuration and workdir.
    once: knows the ranks that were counted before a kill.
  """
  if session.config.data.format != "synthetic":
    return systems.Measured()
  from bigrec_jax.rankers import dense, engine

  world = synthetic.build(session.config.data.synthetic)
  config, found = session.config, systems.Measured()
  for split in SPLITS:
    examples = session.examples(split)
    ranks_of = engine.Ranks(
      examples.target,
      len(session.catalogue),
      session.mesh,
      most_users=config.ground.batch_size,
      groups=session.catalogue.groups,
    )
    for name, users in (("oracle", examples.user), ("oracle_mean_taste", None)):

      def law(part: slice, examples=examples, users=users) -> np.ndarray:
        known = None if users is None else users[part]
        return world.next_item_probabilities(examples.history[part], known)

      ranker = dense.Dense(law, len(session.catalogue))
      ranks = engine.ranks_once(once, f"{name} {split}", ranks_of, ranker)
      found.ranks[split][paired_tests.BASELINE + name] = ranks
      found.rows.append(report_row.of(session, name, split, ranks))
  return found
