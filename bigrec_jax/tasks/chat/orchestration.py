"""Chat-REC: a chat model in front of a recommender.

For each message the model says whether the recommender is needed; if so, the
recommender proposes, the model puts the proposals in its own order by how
likely it finds their titles as the answer, and explains the first of them.
What is listed are items of the catalogue alone, and what is said aloud names
no others (guard.py): the model decides, ranks and words, but can't invent.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bigrec_jax import config as config_lib
from bigrec_jax.data.prepared import histories as histories_lib
from bigrec_jax.data.prepared.catalogue import Catalogue
from bigrec_jax.data.text import prompts
from bigrec_jax.data.text.dialogue import ASSISTANT, USER, Turn
from bigrec_jax.tasks import protocol
from bigrec_jax.tasks.chat import guard, model as model_lib, words

# Titles within a message.
_QUOTED = re.compile(r'"([^"\n]+)"|“([^”\n]+)”')
_NAMED = 2  # Of the history, in the sentence that takes an explanation's place.


@dataclasses.dataclass
class Dialogue:
  """One user's chat so far.

  Attributes:
    history: external ids, oldest first.
    profile: facts by name.
    turns: what was said.
    shown: external ids that were listed, and won't be again.
  """

  history: list[str]
  profile: Mapping[str, str]
  turns: list[Turn] = dataclasses.field(default_factory=list)
  shown: set[str] = dataclasses.field(default_factory=set)


@dataclasses.dataclass(frozen=True)
class Reply:
  """An answer.

  Attributes:
    text: what is said.
    items: what is listed, best first; empty where nothing was asked for.
    log: the whole turn as a JSON-able object.
  """

  text: str
  items: tuple[protocol.Item, ...]
  log: Mapping[str, Any]


def found_history(
  catalogue: Catalogue, history: Sequence[str | int]
) -> list[str]:
  """Returns the external ids of what is given by ids or titles.

  Raises:
    UserError: the catalogue lacks one.
  """
  rows = histories_lib.from_lists([history])
  found = histories_lib.find(rows, catalogue, "error", "unknown")
  (items,) = found.padded(max(len(history), 1))
  return [catalogue.external_ids[row] for row in items[items >= 0]]


class Orchestrator:
  """Answers messages of any number of dialogues."""

  def __init__(
    self,
    recommend: protocol.Recommends,
    model: model_lib.ChatModel,
    catalogue: Catalogue,
    config: config_lib.Config,
  ):
    """Keeps the parts.

    Args:
      recommend: what proposes.
      model: what decides, ranks and explains.
      catalogue: what there is.
      config: `task.chat`, and `data.max_history`, the titles that are named.
    """
    self._recommend, self._model = recommend, model
    self._catalogue, self._chat = catalogue, config.task.chat
    self._newest = config.data.max_history

  def __call__(self, dialogue: Dialogue, message: str) -> Reply:
    """Answers a message, and adds both to the dialogue.

    Titles in double quotes that the catalogue has become a part of the
    history.
    """
    added = self._had(dialogue, message)
    dialogue.turns.append(Turn(USER, message))
    known = self._known(dialogue)
    log: dict[str, Any] = {
      "turn": (len(dialogue.turns) + 1) // 2,
      "message": message,
      "history": list(dialogue.history),
      "added": added,
    }
    log["called"], log["decision"] = self._decides(known)
    items: tuple[protocol.Item, ...] = ()
    if log["called"]:
      items, about = self._listed(dialogue, known)
      log |= about
    text, withheld = self._worded(known, items, log["called"])
    dialogue.turns.append(Turn(ASSISTANT, text))
    dialogue.shown |= {item.external_id for item in items}
    log["items"] = [_entry(item) for item in items]
    log |= {"withheld": withheld, "reply": text}
    return Reply(text, items, log)

  def _had(self, dialogue: Dialogue, message: str) -> list[str]:
    """Adds what a message quotes to the history; returns what is new."""
    added = []
    for quoted in _QUOTED.findall(message):
      row = self._catalogue.index_of_title("".join(quoted).strip())
      if row is None:
        continue
      own = self._catalogue.external_ids[row]
      if own not in dialogue.history:
        dialogue.history.append(own)
        added.append(own)
    return added

  def _known(self, dialogue: Dialogue) -> words.Known:
    """Returns what of a dialogue goes into prompts: all that is newest."""
    rows = map(self._catalogue.index_of_external_id, dialogue.history)
    titles = [self._catalogue.titles[row] for row in rows if row is not None]
    turns = dialogue.turns[-self._chat.most_turns :]
    if turns[0].role != USER:  # A template begins with the user.
      turns = turns[1:]
    return words.Known(titles[-self._newest :], dialogue.profile, turns)

  def _decides(self, known: words.Known) -> tuple[bool, dict[str, float]]:
    """Returns whether the recommender is called, and the log p of both."""
    if self._chat.decide == "always":
      return True, {}
    called, scores = calls(self._model, [known], self._chat.noun)
    yes, no = scores[0].tolist()
    return bool(called[0]), {"yes": round(yes, 4), "no": round(no, 4)}

  def _listed(
    self, dialogue: Dialogue, known: words.Known
  ) -> tuple[tuple[protocol.Item, ...], dict[str, Any]]:
    """Returns what is shown, and what led to it."""
    wanted = self._chat.candidates
    (proposed,) = self._recommend(
      [list(dialogue.history)],
      wanted + len(dialogue.shown),
      exclude_history=True,
      unknown="error",
    )
    known_items = [item for item in proposed if self._is_known(item)]
    new = [i for i in known_items if i.external_id not in dialogue.shown]
    new = new[:wanted]
    about: dict[str, Any] = {
      "candidates": [item.external_id for item in new],
      "unknown": len(proposed) - len(known_items),
    }
    if not new:
      return (), about
    titles = answers_of([item.title for item in new])
    scores = rank(self._model, [known], self._chat.noun, [titles])[0]
    about["log_probs"] = [round(float(score), 4) for score in scores]
    order = np.argsort(-scores, kind="stable")[: self._chat.listed]
    return tuple(new[place] for place in order), about

  def _is_known(self, item: protocol.Item) -> bool:
    """Returns whether an item is the catalogue's, under its own title."""
    row = self._catalogue.index_of_external_id(item.external_id)
    return row is not None and self._catalogue.titles[row] == item.title

  def _worded(
    self, known: words.Known, items: Sequence[protocol.Item], called: bool
  ) -> tuple[str, list[str]]:
    """Returns what is said, and the sentences that were kept back."""
    noun, shown = self._chat.noun, [item.title for item in items]
    if called and not items:
      return f"I have no further {noun}s for you.", []
    if not items:
      said = guard.Guard(known.titles)(
        self._model.write(words.talk(known, noun))
      )
      text = said.text or f"What kind of {noun} are you looking for?"
      return text, list(said.withheld)
    said = guard.Guard([*shown, *known.titles])(
      self._model.write(words.explain(known, noun, shown))
    )
    lines = [f"{n}. {title}" for n, title in enumerate(shown, 1)]
    return "\n".join([*lines, said.text or _plainly(known)]), [*said.withheld]


def answers_of(titles: Sequence[str]) -> list[str]:
  """Returns titles as a model would answer with them: no blanks around."""
  return [prompts.clean_title(title) or title for title in titles]


def _plainly(known: words.Known) -> str:
  """Returns what is said where the model's own words may not be."""
  if not known.titles:
    return "I find these the likeliest of what the recommender proposes."
  named = " and ".join(f'"{title}"' for title in known.titles[-_NAMED:])
  return f"I find these the likeliest for somebody who has had {named}."


def calls(
  model: model_lib.ChatModel, known: Sequence[words.Known], noun: str
) -> tuple[np.ndarray, np.ndarray]:
  """Returns who needs the recommender [N] bool, and log p of yes, no [N, 2].

  Raises:
    NonFiniteError: the model says NaN.
  """
  asked = [words.decide(own, noun) for own in known]
  answers = [(words.YES, words.NO)] * len(asked)
  found = model.log_probs(asked, answers)
  model_lib.check_finite(found, "the decision")
  return found[:, 0] >= found[:, 1], found


def rank(
  model: model_lib.ChatModel,
  known: Sequence[words.Known],
  noun: str,
  titles: Sequence[Sequence[str]],
  kept: Any = None,
) -> np.ndarray:
  """Returns log p of proposed titles [N, M], -inf where there is none.

  Args:
    model: that is asked.
    known: [N].
    noun: what is recommended.
    titles: [N][<= M].
    kept: of whom was asked before a kill.

  Raises:
    NonFiniteError: the model says NaN.
  """
  asked = [
    words.choose(own, noun, proposed)
    for own, proposed in zip(known, titles, strict=True)
  ]
  found = model.log_probs(asked, titles, kept)
  model_lib.check_finite(found, "titles")
  return found


def _entry(item: protocol.Item) -> dict[str, str]:
  return {"external_id": item.external_id, "title": item.title}
