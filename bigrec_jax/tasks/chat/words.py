"""What the chat model is told and asked. All of it is a reconstruction.

Chat-REC (Gao et al., 2023, arXiv 2303.14524) builds its prompt from profile,
history, dialogue and the recommender's candidates; its own words are not
followed. Each question is put behind the user's newest turn, for a template
allows no other place.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from bigrec_jax.data.text.dialogue import SYSTEM, USER, Turn

YES, NO = "Yes", "No"  # Whether to call the recommender.


@dataclasses.dataclass(frozen=True)
class Known:
  """What the model may know of a user.

  Attributes:
    titles: had, oldest first, the newest alone.
    profile: facts by name, such as {"age": "30"}.
    turns: the dialogue so far, its last turn the user's.
  """

  titles: Sequence[str]
  profile: Mapping[str, str]
  turns: Sequence[Turn]


def decide(known: Known, noun: str) -> list[Turn]:
  """Returns the question whether the recommender is needed."""
  asked = (
    f"Is this a wish for recommendations of {noun}s? Answer {YES} or {NO}."
  )
  return _conversation(known, noun, [], asked)


def choose(known: Known, noun: str, candidates: Sequence[str]) -> list[Turn]:
  """Returns the question that titles are scored as answers of."""
  about = _listed("The recommender proposes, best first:", candidates)
  asked = f"Which of the proposed {noun}s fits best? Answer with its title."
  return _conversation(known, noun, [about], asked)


def explain(known: Known, noun: str, shown: Sequence[str]) -> list[Turn]:
  """Returns the question why the chosen ones fit."""
  about = _listed("You show the customer:", shown)
  asked = f"Say in two short sentences why these {noun}s fit. Name no others."
  return _conversation(known, noun, [about], asked)


def talk(known: Known, noun: str) -> list[Turn]:
  """Returns the question where nothing is recommended."""
  asked = f"Answer in one or two short sentences. Name no {noun}s."
  return _conversation(known, noun, [], asked)


def _conversation(
  known: Known, noun: str, about: Sequence[str], asked: str
) -> list[Turn]:
  told = [f"You help a customer of a shop to find {noun}s."]
  if known.profile:
    facts = "; ".join(f"{name}: {own}" for name, own in known.profile.items())
    told.append(f"What is known of the customer: {facts}.")
  if known.titles:
    told.append(_listed("The customer has had, oldest first:", known.titles))
  newest = known.turns[-1]
  return [
    Turn(SYSTEM, "\n\n".join([*told, *about])),
    *known.turns[:-1],
    Turn(USER, f"{newest.content}\n\n({asked})"),
  ]


def _listed(lead: str, titles: Sequence[str]) -> str:
  lines = [f"{n}. {title}" for n, title in enumerate(titles, 1)]
  return "\n".join([lead, *lines])
