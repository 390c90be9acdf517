"""RSLLM: a recommender's item vectors as words of one language with titles.

Zheng et al., 2024 (arXiv 2412.16933), builds on LLaRA and CALRec; there is no
public code, and its numbers could not be had, so this is a reconstruction
(docs/systems.md). A question is LLaRA's with an item vector behind every title
from the first step (`task.choose.schedule=direct`); before, a stage on texts
alone reads several data sets (stages/first.py); both are trained with CALRec's
contrastive terms (training/contrastive.py), where a target alone is its title
with its item vector.

With `task.rsllm.full_ranking` a question lists no candidates, and what is
written is ranked against the whole catalogue as BIGRec does (ground_eval).
"""

from typing import TYPE_CHECKING, Any

from bigrec_jax import errors
from bigrec_jax.tasks import protocol
from bigrec_jax.tasks.choose import samples, task as choose

if TYPE_CHECKING:
  from bigrec_jax.training import selection

# Of full ranking; {{history}} is what templates are filled with.
_QUESTIONS = (
  "A user took these {item}s, oldest first: {{history}}. Which {item} is next?"
  " Answer:",
  "Past {item}s of a user: {{history}}. Suggest one {item} to the user now."
  " Suggested {item}:",
  "{{history}} is what a user took so far. Name the {item} that comes next."
  " Next {item}:",
)


class Task(choose.Task):
  """RSLLM."""

  name = "rsllm"
  system = "rsllm"

  def __init__(self, store: protocol.Store):
    """Checks the options.

    Raises:
      UserError: an option doesn't go with full ranking.
    """
    self.grounds = store.config.task.rsllm.full_ranking
    super().__init__(store)
    own = store.config.task.choose
    for key, found, wanted in (
      ("task.choose.min_history", own.min_history, 0),
      ("task.choose.bare_titles", own.bare_titles, False),
      ("ground.likelihood", store.config.ground.likelihood, 0),
    ):
      if self.grounds and found != wanted:
        raise errors.UserError(
          f"config.{key}: {found} found with task.rsllm.full_ranking, {wanted}"
          " expected there"
        )

  def _asked(self) -> tuple[str, ...]:
    if not self.grounds:
      return super()._asked()
    own = self.store.config.task.choose
    given = tuple(text for text in own.templates if text)
    for text in given:
      if text.count("{history}") != 1 or "{candidates}" in text:
        raise errors.UserError(
          f"config.task.choose.templates: {text!r}: {{history}} once and no"
          " {candidates} expected with task.rsllm.full_ranking"
        )
    return given or tuple(q.format(item=own.domain) for q in _QUESTIONS)

  def _drawn(self, examples: Any) -> samples.Samples:
    if not self.grounds:
      return super()._drawn(examples)
    return samples.all_of(examples)

  def made_from(self, split: str) -> dict[str, Any]:
    """Returns the names of a split's texts, and how training reads them."""
    found = super().made_from(split)
    if self.grounds:  # Epochs are chosen by the eval loss.
      found.pop("chosen_by", None)
    return {**found, "task": {**found["task"], "full_ranking": self.grounds}}

  def selection(self, network: protocol.Network) -> "selection.Selection":
    """Returns the choice by what is written on valid, or by the eval loss."""
    if not self.grounds:
      return super().selection(network)
    return protocol.Task.selection(self, network)
