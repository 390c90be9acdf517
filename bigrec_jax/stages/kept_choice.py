"""What valid likes best, kept beside the adapter for lists: chosen.json."""

from bigrec_jax.recommend import fitted_on
from bigrec_jax.results import chosen, ground_file
from bigrec_jax.stages.session import Session
from bigrec_jax.workdir import processes, records


def best_on_valid(
  session: Session, found: ground_file.GroundFile
) -> chosen.Chosen:
  """Returns what valid likes best, of what knows new histories.

  Args:
    session: configuration and workdir.
    found: the evaluation.
  """
  ground = session.config.ground
  given = ground.cf_scores.valid or ground.cf_scores.test
  known = dict.fromkeys(one.injection for one in chosen.candidates(found))
  fused = [
    name
    for name, own in found.fitted.items()
    if chosen.models_of(own.get("parameters", own))
  ]
  of_cf = [*(name for name in known if "cf" in name), *fused]
  without = of_cf if given or not ground.cf_model else []
  return chosen.best(
    found, ground.injected_cf, lambda name: name not in without
  )


def keep(session: Session, found: ground_file.GroundFile) -> None:
  """Writes chosen.json: what valid likes best, and of which artefacts."""

  def write() -> None:
    made_from = found.fingerprints
    named = ("base", "encoder", "catalogue", "predictions")
    prints = {key: made_from[key] for key in named if key in made_from}
    models = session.config.ground.cf_models
    prints |= fitted_on.names(session, models, made_from)
    # Predictions that are given are of nobody knows which adapter.
    record = records.read(session.paths.record("predictions_valid"))
    if not session.config.ground.predictions.valid and record:
      prints["adapter"] = record.get("adapter")
      prints["generate"] = record.get("generate")
    best = best_on_valid(session, found)
    chosen.write(session.paths.chosen, best, found.chosen_by, prints)

  processes.on_first(write)
