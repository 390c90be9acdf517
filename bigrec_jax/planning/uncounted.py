"""What a plan leaves out: keys whose programs it doesn't compile."""

from bigrec_jax import config as config_lib


def keys(
  config: config_lib.Config, has_titles: bool, has_step: bool = False
) -> list[str]:
  """Returns those in use that make other programs than a plan compiles.

  Args:
    config: the whole of it; `plan.parts` says what is compiled.
    has_titles: the trie of the titles that may be written is at hand; a
      catalogue and a tokenizer make one.
    has_step: a step of the task's own samples is planned.
  """
  train, generate = config.train, config.generate
  found = {
    "train": {
      "train.objective": train.objective != "language_model" and not has_step
    },
    "generate": {
      "generate.constrained": generate.constrained,
      "generate.lookahead": generate.looks_ahead,
      "generate.prior": generate.has_prior,
    },
  }
  return [
    key
    for part in config.plan.parts
    for key, used in found.get(part, {}).items()
    if used and not (has_titles and part == "generate")
  ]
