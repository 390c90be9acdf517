"""All stages in order, skipping what is current."""

import pathlib

from bigrec_jax import config as config_lib
from bigrec_jax.stages import (
  evaluate,
  prepare,
  pretrain,
  recommend,
  report,
  session,
  train,
  train_cf,
)


def run(config: config_lib.Config, workdir: pathlib.Path) -> None:
  """Prepare, pretrain, train, train_cf, evaluate, report.

  Generation and embedding are parts of the evaluation, which makes them. With
  histories to recommend for, their lists come before the report.
  """
  current = session.Session(config, workdir)
  prepare.ensure(current)
  pretrain.ensure(current)
  train.ensure(current)
  if config.ground.cf_model:
    train_cf.ensure(current)
  evaluate.ensure(current)
  if config.recommend.histories or config.recommend.history:
    recommend.ensure(current)
  report.ensure(config, workdir)
