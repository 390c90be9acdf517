"""A scripted model in front of a recommender that proposes what it is told."""

import json
import types

import numpy as np
import pytest

from bigrec_jax import config as config_lib, errors
from bigrec_jax.data.prepared import catalogue as catalogue_lib
from bigrec_jax.recommend import conversation
from bigrec_jax.tasks.chat import orchestration
from configs import chatrec

ITEMS = 40
CATALOGUE = catalogue_lib.Catalogue(
  tuple(f"id{n}" for n in range(ITEMS)),
  tuple(f"Game of {n} Moons" for n in range(ITEMS)),
  np.ones(ITEMS, int),
)


class Item:
  """As a recommender returns it."""

  def __init__(self, row, title=None):
    self.external_id = f"id{row}"
    self.title = title or f"Game of {row} Moons"


class Recommender:
  """Proposes the first k items that the history lacks, or what it is given."""

  def __init__(self, items=None):
    self.items, self.asked = items, []

  def __call__(self, histories, k, *, exclude_history, unknown):
    assert exclude_history and unknown == "error"
    self.asked.append((histories, k))
    (history,) = histories
    rows = [n for n in range(ITEMS) if f"id{n}" not in history]
    return [self.items or [Item(n) for n in rows[:k]]]


class Scripted:
  """Calls where it is told to; likes later proposals better; says its lines."""

  def __init__(self, *lines, called=True):
    self.lines, self.called = list(lines), called
    self.conversations = []

  def write(self, turns):
    self.conversations.append(turns)
    return self.lines.pop(0)

  def log_probs(self, conversations, answers, kept=None):
    (turns,), (own,) = conversations, answers
    self.conversations.append(turns)
    if list(own) == ["Yes", "No"]:
      return np.array([[-1.0, -2.0] if self.called else [-2.0, -1.0]])
    return np.arange(len(own), dtype=np.float32)[None] - 50


def _config(**chat):
  values = chatrec.get_config("tiny")
  values.task.chat.update(chat)
  return config_lib.from_config_dict(values)


def begin(model, recommender=None, history=(), profile=None, **chat):
  loaded = types.SimpleNamespace(config=_config(**chat), offered=CATALOGUE)
  recommender = recommender or Recommender()
  return conversation.begin(
    loaded, recommender, history, profile or {}, chat_model=model
  )


def _prompt(turns):
  return "\n".join(f"{turn.role}: {turn.content}" for turn in turns)


def test_proposals_come_in_the_models_order_and_are_not_shown_twice():
  recommender = Recommender()
  model = Scripted("I like Game of 19 Moons.", "You may like these.")
  talk = begin(model, recommender, ["id0", "Game of 1 Moons"])
  reply = talk("Something new, please")
  # Twenty proposals from id2 on; the last is the likeliest.
  assert [item.external_id for item in reply.items] == [
    f"id{n}" for n in (21, 20, 19, 18, 17)
  ]
  assert reply.text == (
    "1. Game of 21 Moons\n2. Game of 20 Moons\n3. Game of 19 Moons\n"
    "4. Game of 18 Moons\n5. Game of 17 Moons\nI like Game of 19 Moons."
  )
  again = talk("Others?")
  assert recommender.asked == [
    ([["id0", "id1"]], 20),
    ([["id0", "id1"]], 25),
  ]
  assert not {i.external_id for i in again.items} & {
    i.external_id for i in reply.items
  }
  assert len(again.log["candidates"]) == 20


def test_prompts_have_history_profile_dialogue_and_proposals():
  model = Scripted("I know.", "It is fun.")
  talk = begin(model, None, ["id3", "id5"], {"age": "30"})
  talk("Hello there")
  decided, chosen, explained = map(_prompt, model.conversations)
  for prompt in (decided, chosen, explained):
    assert "age: 30" in prompt and "user: Hello there" in prompt
    assert "1. Game of 3 Moons\n2. Game of 5 Moons" in prompt
  assert "proposes" in chosen and "20. Game of 21 Moons" in chosen
  assert "proposes" not in decided + explained
  assert "You show the customer:\n1. Game of 21 Moons" in explained
  talk("And more?")
  assert "user: Hello there" in _prompt(model.conversations[-1])
  assert "assistant: 1. Game of 21 Moons" in _prompt(model.conversations[-1])


def test_an_old_dialogue_begins_with_the_user():
  model = Scripted(*["I know."] * 6, called=False)
  talk = begin(model, most_turns=4)
  for n in range(6):
    talk(f"Message {n}")
  turns = model.conversations[-1]
  assert [turn.role for turn in turns] == [
    "system",
    "user",
    "assistant",
    "user",
  ]
  assert turns[1].content == "Message 4"


def test_the_model_decides_whether_the_recommender_is_called():
  recommender = Recommender()
  model = Scripted("You are welcome. Try Zelda.", "Zelda!", called=False)
  talk = begin(model, recommender)
  reply = talk("Thanks")
  assert (reply.items, recommender.asked) == ((), [])
  assert reply.text == "What kind of game are you looking for?"
  assert reply.log["decision"] == {"yes": -2.0, "no": -1.0}
  talk = begin(model, recommender, decide="always")
  reply = talk("Thanks")
  assert reply.log["called"] and len(reply.items) == 5
  assert reply.log["decision"] == {}


def test_quoted_titles_of_the_catalogue_become_history():
  recommender = Recommender()
  talk = begin(Scripted("I know."), recommender)
  reply = talk('I liked "Game of 7 Moons" and “Game of 8 Moons”, not "Zelda"')
  assert reply.log["added"] == ["id7", "id8"]
  assert recommender.asked == [([["id7", "id8"]], 20)]


LIES = [
  Item(99),  # No such id.
  Item(3, "Zelda"),  # An id of the catalogue under another title.
  Item(4),
  Item(5),
]


def test_unknown_items_never_leave():
  """Neither of a recommender nor of a model that make some up."""
  raw = (
    "Zelda is the best! You will love Game of 99 Moons.\n1. Elden Ring\n"
    'Try "Halo" or game of 6 moons. You may like Game of 4 Moons.'
  )
  talk = begin(Scripted(raw), Recommender(LIES), ["id1"])
  reply = talk('Is "Zelda" or Doom good?')
  assert [item.external_id for item in reply.items] == ["id5", "id4"]
  assert reply.text == (
    "1. Game of 5 Moons\n2. Game of 4 Moons\nYou may like Game of 4 Moons."
  )
  assert reply.log["unknown"] == 2
  assert reply.log["candidates"] == ["id4", "id5"]
  assert len(reply.log["withheld"]) == 5
  # Where nothing of the model's may be said, facts are.
  talk = begin(Scripted("Doom."), Recommender(LIES), ["id1"])
  assert talk("Hi").text.endswith(
    'I find these the likeliest for somebody who has had "Game of 1 Moons".'
  )
  nothing = begin(Scripted(), Recommender(LIES[:2]))
  assert nothing("Hi").text == "I have no further games for you."


def test_a_turn_is_one_line_of_json():
  talk = begin(Scripted("I know.\nYes."), None, ["id0"])
  line = json.dumps(talk("Hi\nthere").log)
  assert "\n" not in line
  assert set(json.loads(line)) == {
    *("turn", "message", "history", "added", "called", "decision"),
    *("candidates", "unknown", "log_probs", "items", "withheld", "reply"),
  }


def test_mistakes():
  with pytest.raises(errors.UserError, match="Zelda"):
    begin(Scripted(), None, ["Zelda"])
  broken = Scripted()
  broken.log_probs = lambda *_: np.full((1, 2), np.nan)
  with pytest.raises(errors.NonFiniteError, match="the decision"):
    begin(broken)("Hi")
  with pytest.raises(errors.UserError, match="at most task.chat.candidates"):
    _config(listed=30)


def test_rank_takes_several_users_at_once():
  calls = []

  class Batched:
    def log_probs(self, conversations, answers, kept):
      calls.append((len(conversations), kept))
      return np.zeros((len(answers), 2), np.float32)

  known = orchestration.words.Known(["A"], {}, [("user", "x")])
  known = known.__class__(["A"], {}, [orchestration.Turn("user", "x")])
  found = orchestration.rank(Batched(), [known] * 3, "game", [["A", "B"]] * 3)
  assert found.shape == (3, 2) and calls == [(3, None)]
