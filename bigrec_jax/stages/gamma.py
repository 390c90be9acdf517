"""Which injection recommendations are made with, and how strong it is."""

import dataclasses

from bigrec_jax import config as config_lib, errors
from bigrec_jax.rankers.combine import calibrate
from bigrec_jax.stages import ground_eval, session
from bigrec_jax.workdir import storage

_CUTOFF = str(calibrate.SINGLE_CUTOFF)


@dataclasses.dataclass(frozen=True)
class Chosen:
  """What is injected.

  Attributes:
    injection: none, popularity, cf or popularity+cf.
    gamma: its strength; None where nothing is injected.
    cf_model: whose scores, "" where no CF is injected.
  """

  injection: str
  gamma: float | None
  cf_model: str

  @property
  def parts(self) -> tuple[str, ...]:
    """Popularity, cf, both or neither."""
    return tuple(p for p in self.injection.split("+") if p != "none")


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


def choose(run: session.Session) -> Chosen:
  """Returns what `recommend.injection` and `recommend.gamma` ask for.

  `auto` takes what metrics/ground_eval.json found on valid, which is made
  first where it is missing or stale: the injection with the best NDCG@20 (the
  largest cutoff where 20 isn't one), and its single gamma.

  Raises:
    UserError: gamma is to be chosen for an injection that isn't evaluated.
  """
  config = run.config.recommend
  if config.injection == "none":
    return Chosen("none", None, "")
  if config.gamma != "auto":
    return _chosen(run, config.injection, float(config.gamma))
  ground_eval.ensure(run, show=False)
  result = storage.read_json(run.paths.ground_eval)
  gammas = calibrate.single_gammas(result["results"])
  if config.injection == "auto":
    return _best(run, result, gammas)
  if config.injection not in gammas:
    raise errors.UserError(
      f"config.recommend.injection: {config.injection} found, but"
      f" {run.paths.ground_eval} has a gamma for {', '.join(gammas) or 'none'}"
      " only; config.ground.injections with it, or a number in"
      " config.recommend.gamma, expected"
    )
  return _chosen(run, config.injection, gammas[config.injection])


def _chosen(run: session.Session, injection: str, gamma: float) -> Chosen:
  model = run.config.ground.cf_model if "cf" in injection else ""
  return Chosen(injection, gamma, model)


def _best(run: session.Session, result: dict, gammas: dict) -> Chosen:
  """Returns the injection that valid likes best; the plainest of equals."""
  found = {}
  for row in result["results"]:
    if row["split"] == "valid" and row["injection"] == "none":
      found["none"] = row["ndcg"].get(_CUTOFF, list(row["ndcg"].values())[-1])
  ground = run.config.ground
  given = ground.cf_scores.valid or ground.cf_scores.test
  for name, gamma in gammas.items():
    if "cf" in name and (given or not ground.cf_model):
      session.say(f"recommend: {name} is left out: it knows no new histories")
      continue
    curve = result["gamma_curves"][name]
    ndcg = curve["ndcg"].get(_CUTOFF, list(curve["ndcg"].values())[-1])
    found[name] = ndcg[curve["gamma"].index(gamma)]
  if not found:
    return Chosen("none", None, "")
  best = max(found, key=found.get)
  if best == "none":
    return Chosen("none", None, "")
  return _chosen(run, best, gammas[best])
