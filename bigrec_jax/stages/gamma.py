"""Which injection recommendations are made with, and how strong it is."""

from collections.abc import Iterator

from bigrec_jax import config as config_lib, errors
from bigrec_jax.results import chosen
from bigrec_jax.stages import graph, ground_eval, train_cf
from bigrec_jax.stages.session import Session, say


def check(config: config_lib.Config) -> None:
  """Raises UserError, before any work, for what can't be injected.

  CF needs a model that can score new histories, and a gamma that was chosen
  for that model's scores.
  """
  recommend, ground = config.recommend, config.ground
  wanted = recommend.injection
  given = ground.cf_scores.valid or ground.cf_scores.test
  if "cf" in wanted and given and recommend.gamma == "auto":
    raise errors.UserError(
      f"config.recommend.injection: {wanted} found with the scores of {given},"
      " whose gamma isn't that of config.ground.cf_model; a number in"
      " config.recommend.gamma, or no config.ground.cf_scores.*, expected"
    )
  if recommend.injection != "none" and recommend.gamma == "auto":
    if "single_gamma" not in ground.protocols:
      raise errors.UserError(
        f"config.ground.protocols: {', '.join(ground.protocols)} found,"
        " single_gamma too expected: recommend.gamma=auto takes its choice"
      )
  if "cf" in wanted and not config.ground.cf_model:
    raise errors.UserError(
      f"config.recommend.injection: {wanted} found, which needs a CF model that"
      " can score new histories: config.ground.cf_model expected"
      " (config.ground.cf_scores.* are of valid and test alone)"
    )


def needed(session: Session) -> Iterator[graph.Stage]:
  """Yields the evaluation where it chooses, and the CF model if injected."""
  config = session.config.recommend
  if config.injection != "none" and config.gamma == "auto":
    yield ground_eval.STAGE
    if not session.walk.look(ground_eval.STAGE).is_current:
      return
  if model := choose(session).cf_model:
    yield train_cf.stage(model)


def choose(session: Session) -> chosen.Chosen:
  """Returns what `recommend.injection` and `recommend.gamma` ask for.

  `auto` takes what metrics/ground_eval.json found on valid: the injection with
  the best NDCG@20 (the largest cutoff where 20 isn't one), and its gamma, or
  one for each part. A number is one gamma for all parts.

  Raises:
    UserError: gamma is to be chosen for an injection that isn't evaluated.
  """
  config = session.config.recommend
  wanted = config.injection
  if wanted == "none":
    return chosen.NOTHING
  model = session.config.ground.cf_model
  if config.gamma != "auto":
    gamma = chosen.per_part(wanted, float(config.gamma))
    return chosen.Chosen(wanted, gamma, model if "cf" in gamma else "")
  found = session.load(ground_eval.STAGE)
  if wanted == "auto":
    return ground_eval.best_on_valid(session, found, say)
  known = dict.fromkeys(one.injection for one in chosen.candidates(found))
  known.pop("none", None)
  if wanted not in known:
    raise errors.UserError(
      f"config.recommend.injection: {wanted} found, but"
      f" {session.paths.ground_eval} has a gamma for"
      f" {', '.join(known) or 'none'} only;"
      " config.ground.injections with it, or a number in"
      " config.recommend.gamma, expected"
    )
  return chosen.best(found, model, lambda name: name == wanted)
