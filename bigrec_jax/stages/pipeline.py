"""All stages in order, skipping what is current."""

import pathlib

from bigrec_jax import config as config_lib
from bigrec_jax.stages import (
  contamination,
  evaluate,
  item_fairness,
  prepare,
  pretrain,
  recommend,
  report,
  train,
  train_cf,
)
from bigrec_jax.stages.session import Asked, Session


def run(
  config: config_lib.Config, workdir: pathlib.Path, asked: Asked | None = None
) -> None:
  """Prepare, pretrain, train, train_cf, evaluate, report.

  Generation and embedding are parts of the evaluation, which makes them; a
  probe for contamination comes after it, where one is asked for. With
  histories to recommend for, their lists come before the report.
  """
  session = Session(config, workdir, asked)
  stages = [prepare.STAGE, *pretrain.needed(session)]
  if session.task.trains:
    stages += train.stages(session)
  if config.ground.cf_model:
    stages += [train_cf.stage(model) for model in train_cf.models(config)]
  ends = {evaluate.stage(session): evaluate.finish}
  if item_fairness.is_asked_for(session):
    ends[item_fairness.STAGE] = item_fairness.finish
  if contamination.is_asked_for(session):
    ends[contamination.STAGE] = contamination.finish
  asked_for = config.recommend
  if asked_for.histories or asked_for.history or asked_for.users:
    ends[recommend.STAGE] = recommend.finish
  if not session.begin(*stages, *ends, report.STAGE):
    return
  for stage in stages:
    session.walk.make(stage)
  train_cf.tell(session, session.walk.built)
  for stage, finish in ends.items():
    session.walk.make(stage)
    finish(session)
  session.walk.make(report.STAGE)
