"""What recommendations are made with: an injection and how strong, or a system.

ground_eval keeps what valid likes best beside the adapter (chosen.json). That
is read here and never made: nobody who asks for one list waits for an
evaluation.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from bigrec_jax import errors
from bigrec_jax.recommend import finished, fitted_on, loaded as loaded_lib
from bigrec_jax.results import chosen as chosen_lib, ground_file

_OF = ("base", "encoder", "adapter", "catalogue")


class Choice(NamedTuple):
  """What lists are made with, and why.

  Attributes:
    chosen: the injection with its strength, or a system.
    note: a line for the user where the choice may be a better one; "" = none.
  """

  chosen: chosen_lib.Chosen
  note: str


def check(loaded: loaded_lib.Loaded) -> None:
  """Raises UserError, before any work, for what can't be listed or injected.

  CF needs a model that can score new histories, and a gamma that was chosen
  for that model's scores.
  """
  if not loaded.task.recommends:
    raise errors.UserError(
      f"config.task.name: {loaded.task.name} found, whose answers aren't"
      " grounded; one whose answers are, such as next_title, expected"
    )
  recommend, ground = loaded.config.recommend, loaded.config.ground
  wanted = recommend.injection
  given = ground.cf_scores.valid or ground.cf_scores.test
  if "cf" in wanted and given and recommend.gamma == "auto":
    raise errors.UserError(
      f"config.recommend.injection: {wanted} found with the scores of {given},"
      " whose gamma isn't that of config.ground.cf_model; a number in"
      " config.recommend.gamma, or no config.ground.cf_scores.*, expected"
    )
  if "cf" in wanted and not ground.injected_cf:
    raise errors.UserError(
      f"config.recommend.injection: {wanted} found, which needs a CF model that"
      " can score new histories: config.ground.cf_model expected"
      " (config.ground.cf_scores.* are of valid and test alone)"
    )


def choose(loaded: loaded_lib.Loaded, adapter: str) -> Choice:
  """Returns what `recommend.injection` and `recommend.gamma` ask for.

  `auto` takes what ground_eval found on valid with this base, adapter and
  catalogue: the injection or the system with the best NDCG. Where there is no
  such evaluation, nothing is injected. A name is always the published form.

  Args:
    loaded: configuration and workdir.
    adapter: fingerprint of the one that writes.

  Raises:
    UserError: a gamma is to be chosen for an injection that isn't evaluated.
  """
  config = loaded.config.recommend
  model = loaded.config.ground.injected_cf
  if config.injection == "none":  # Which needs no evaluation.
    evaluated, _, _ = _kept(loaded, adapter)
    known = {} if evaluated is None else evaluated.confidence
    return Choice(dataclasses.replace(chosen_lib.NOTHING, confidence=known), "")
  if config.gamma != "auto":
    gamma = chosen_lib.per_part(config.injection, float(config.gamma))
    chosen = chosen_lib.Chosen(
      config.injection, gamma, model if "cf" in gamma else ""
    )
    return Choice(chosen, "")
  kept, made_from, problem = _kept(loaded, adapter)
  wanted = kept
  if kept is not None and config.injection != "auto":
    same = config.injection == kept.injection
    wanted = kept.plain if same else _named(loaded, config.injection, model)
  if wanted is not None:
    problem = fitted_on.problem(
      loaded, loaded.paths.chosen, wanted, made_from, adapter
    )
  if wanted is None or problem:
    if config.injection == "auto":
      return Choice(
        chosen_lib.NOTHING,
        f"{problem}: lists are in the order of the text's distances alone;"
        " --mode=ground_eval finds out what popularity and CF add",
      )
    raise errors.UserError(
      f"config.recommend.injection: {config.injection} found, but {problem},"
      " which has its gamma; --mode=ground_eval first, or a number in"
      " config.recommend.gamma, expected"
    )
  return Choice(wanted, fitted_on.note(loaded, wanted, made_from))


def _kept(
  loaded: loaded_lib.Loaded, adapter: str
) -> tuple[chosen_lib.Chosen | None, Mapping[str, Any], str]:
  """Returns what chosen.json holds: (the choice, names of what it is of, "").

  Or (None, nothing, why it doesn't count).
  """
  path = loaded.paths.chosen
  if not path.exists():
    return None, {}, f"{path} is not there"
  try:
    kept, made_from = chosen_lib.read(path)
  except errors.UserError as error:
    hint = "; --mode=ground_eval writes it again"
    if path.is_dir():  # Which no file replaces.
      hint = ", a file expected; remove it"
    raise errors.UserError(f"{error}{hint}") from None
  present = {
    "base": loaded.base_fingerprint,
    "encoder": loaded.encoder_inputs.get("encoder"),
    "adapter": adapter,
    "catalogue": loaded.catalogue.fingerprint,
  }
  for name in _OF:
    if made_from.get(name) != present[name]:
      found = made_from.get(name)
      return None, {}, f"{path} is of {name} {found}, not of {present[name]}"
  return kept, made_from, ""


def _named(
  loaded: loaded_lib.Loaded, injection: str, model: str
) -> chosen_lib.Chosen:
  """Returns an injection with the strength that valid chose for it."""
  path = loaded.paths.ground_eval
  finished.check_content(loaded, "ground_eval", "ground_eval")
  found = ground_file.read(path)
  chosen = chosen_lib.best(found, model, lambda name: name == injection)
  if chosen.injection != injection:
    tried = [one.injection for one in chosen_lib.candidates(found)]
    raise errors.UserError(
      f"config.recommend.injection: {injection} found, but {path} has a gamma"
      f" for {', '.join(n for n in tried if n != 'none') or 'none'} only;"
      " config.ground.injections with it, or a number in"
      " config.recommend.gamma, expected"
    )
  return chosen
