"""What valid's choice was fitted on, by name, and whether it still is there.

Base, encoder, adapter and catalogue are compared by `choice` whatever was
chosen (title embeddings are of encoder and catalogue). Here is what only some
choices depend on: the CF models, popularity, the model as a judge of titles.
"""

import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from bigrec_jax.data.prepared import popularity
from bigrec_jax.recommend import loaded as loaded_lib
from bigrec_jax.results import chosen as chosen_lib
from bigrec_jax.workdir import contents, fingerprints, records


def names(
  loaded: loaded_lib.Loaded,
  models: Iterable[str],
  evaluated: Mapping[str, Any],
) -> dict[str, Any]:
  """Returns what chosen.json says of parts, by their names.

  Args:
    loaded: configuration and workdir.
    models: CF models; those that aren't trained here are left out.
    evaluated: what metrics/ground_eval.json was made from.
  """
  cf = {model: of_cf(loaded, model) for model in models}
  found: dict[str, Any] = {
    "cf": {own: name for own, name in cf.items() if name}
  }
  if "popularity" in evaluated:
    found["popularity"] = evaluated["popularity"]
  if "likelihood" in evaluated:
    found["likelihood"] = fingerprints.of_value(evaluated["likelihood"])
  return found


def of_cf(loaded: loaded_lib.Loaded, model: str) -> str:
  """Returns what names a CF model by how it was trained and what it scores.

  The digests of its scores tell two trainings with the same settings apart.
  "" where it isn't trained here.
  """
  record = loaded.paths.record(f"cf_{model}")
  made_from, content = records.read(record), contents.read(record)
  if made_from is None:
    return ""
  files = {} if content is None else content.files
  digests = {name: stamp.digest for name, stamp in files.items()}
  return fingerprints.of_value([made_from, digests])


def problem(
  loaded: loaded_lib.Loaded,
  path: pathlib.Path,
  chosen: chosen_lib.Chosen,
  made_from: Mapping[str, Any],
  adapter: str,
) -> str:
  """Returns why a choice is not of what the workdir holds; "" where it is.

  A CF model that isn't there at all is no reason: who loads it says so.

  Args:
    loaded: configuration and workdir.
    path: of chosen.json, to be named.
    chosen: what was chosen.
    made_from: the names in that file.
    adapter: fingerprint of the one that writes.
  """
  of_models = made_from.get("cf")
  known = of_models if isinstance(of_models, Mapping) else {}
  wanted = {
    f"CF model {model}": (known.get(model), name)
    for model in chosen.models_in_use
    if (name := of_cf(loaded, model))
  }
  if chosen.counts_popularity:
    wanted["popularity"] = made_from.get("popularity"), _of_popularity(loaded)
  if chosen.asks_the_model:
    judge = _of_judge(loaded, adapter)
    wanted["the likelihood's adapter"] = made_from.get("likelihood"), judge
  for what, (before, now) in wanted.items():
    if before != now:
      named = f"{before}, not of {now}" if before else "no name"
      return f"{path} is of {what} {named}"
  return ""


def note(
  loaded: loaded_lib.Loaded,
  chosen: chosen_lib.Chosen,
  made_from: Mapping[str, Any],
) -> str:
  """Returns a line where texts are written otherwise than for the choice.

  Fewer beams for a quick answer are the user's own wish: the choice stands.

  Args:
    loaded: configuration and workdir.
    chosen: what was chosen; plain text alone hangs on nothing.
    made_from: the names in chosen.json.
  """
  before = made_from.get("generate")
  if not isinstance(before, Mapping) or chosen == chosen_lib.NOTHING:
    return ""
  now = loaded.config.to_dict()["generate"]
  changes = records.changes(before, {key: now.get(key) for key in before})
  if loaded.config.generate.has_prior and "prior" not in before:
    changes.append(f"prior: absent -> {now['prior']}")
  if not changes:
    return ""
  return (
    f"{loaded.paths.chosen} was chosen for texts written with other"
    f" config.generate ({', '.join(changes)}); --mode=ground_eval chooses again"
  )


def _of_popularity(loaded: loaded_lib.Loaded) -> str:
  given = loaded.config.ground.popularity
  counts = popularity.counts(given, loaded.catalogue)
  return fingerprints.of_value(counts.tolist())


def _of_judge(loaded: loaded_lib.Loaded, adapter: str) -> str:
  """Returns the name of what scores titles, as an evaluation has it."""
  judge = {
    "adapter": adapter,
    "scored_by": loaded.base_fingerprint,
    "prompt": loaded.config.to_dict()["prompt"],
  }
  return fingerprints.of_value(judge)
