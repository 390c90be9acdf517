"""Tasks by name: one file of this folder each, loaded when asked for."""

import importlib

from bigrec_jax import errors
from bigrec_jax.tasks import protocol

# Where each is; its class is called Task there.
MODULES = {
  "next_title": "bigrec_jax.tasks.next_title",
  "exact_title": "bigrec_jax.tasks.exact_title",
  "choose": "bigrec_jax.tasks.choose.task",
  "rsllm": "bigrec_jax.tasks.rsllm",
  "chat": "bigrec_jax.tasks.chat.task",
  "fairness": "bigrec_jax.tasks.fairness.task",
  "query": "bigrec_jax.tasks.query.task",
  "auxiliary": "bigrec_jax.tasks.auxiliary.task",
  "yes_no": "bigrec_jax.tasks.yes_no.task",
  "heads": "bigrec_jax.tasks.heads.task",
  "title_likelihood": "bigrec_jax.tasks.title_likelihood.task",
}


def check(name: str) -> None:
  """Raises UserError if no task has this name."""
  if name not in MODULES:
    raise errors.UserError(
      f"config.task.name: {name!r} found, one of {', '.join(MODULES)} expected"
    )


def make(store: protocol.Store) -> protocol.Task:
  """Returns the task that `config.task.name` names.

  Raises:
    UserError: there is none of that name, or its options don't fit.
  """
  name = store.config.task.name
  check(name)
  return importlib.import_module(MODULES[name]).Task(store)
