"""What each system's configuration is here, and what its rows are called.

A recipe starts from configs/<config>.py; what it shares with the others
(`shared.tuning`) goes on top, then what its task needs. Rows are named as the
product names them; those without a title here are left out of cells.
"""

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any

import ml_collections

from benchmarks.quality import datasets

# What is ranked: protocols of rows.
ALL, OF_20, CHOSEN = "all items", "20 candidates", "1 of 20 is written"
YES_NO, RATING, FAIR = "yes or no", "rating", "who asks"
CANDIDATES = 20
_LONGEST_TITLE = 256
# BIGRec's beside its published row, and what reads its lists.
_GROUNDED = {
  "ground.fusion": "calibrated",
  "ground.beams": "all",
  "ground.item_fairness": (10,),
}
# Of questions that list candidates.
_LONG = {"train.max_length": 1024}
_TITLES_ONLY = {
  "generate.num_beams": 10,
  "generate.max_new_tokens": _LONGEST_TITLE,
  "generate.length_penalty": 0.0,
  "generate.constrained": True,
}


@dataclasses.dataclass(frozen=True)
class Words:
  """How prompts speak of a data set's items.

  Attributes:
    noun: in the plural.
    domain: of templates that know some.
    had: in the past.
    have: in the present.
    prompt: keys of section `prompt`, BIGRec's.
  """

  noun: str
  domain: str
  had: str
  have: str
  prompt: Mapping[str, str]


def words(data: str) -> Words:
  """Returns the words of a data set."""
  own = datasets.DATA[data]
  if own.noun == "movies":
    return Words(own.noun, "movie", "watched", "watch", own.prompt)
  return Words(own.noun, "item", "bought", "buy", own.prompt)


@dataclasses.dataclass(frozen=True)
class Row:
  """A row of a table.

  Attributes:
    title: what it is called.
    protocol: what is ranked.
  """

  title: str
  protocol: str


@dataclasses.dataclass(frozen=True)
class Recipe:
  """A system.

  Attributes:
    config: module of configs/.
    rows: by the product's name of a row.
    argument: of the configuration.
    source: the system whose finished workdir it starts from; "" = none.
    why_not: by data set, why it can't run there.
    note: why it isn't ranked over all items, for the table.
    own_base: where the base is made here it is made of this task's texts, since
      BIGRec's have no word that its answers need.
  """

  config: str
  rows: Mapping[str, Row]
  argument: str = ""
  source: str = ""
  why_not: Mapping[str, str] = dataclasses.field(default_factory=dict)
  note: str = ""
  own_base: bool = False

  def configuration(self) -> ml_collections.ConfigDict:
    """Returns the config file's values."""
    module = importlib.import_module(f"configs.{self.config}")
    return module.get_config(self.argument)


_NO_RATINGS = {"amazon-toys": "its rows have no ratings"}
GROUNDED = {
  "bigrec": "",
  "bigrec+popularity+cf:two_gammas": " + popularity + CF, two gammas",
  "all beams": ", all beams",
  "calibrated fusion": ", calibrated fusion with CF and BM25",
}


def _grounded(name: str) -> dict[str, Row]:
  return {key: Row(name + end, ALL) for key, end in GROUNDED.items()}


_OTHERS = {
  "most_pop": Row("most popular", OF_20),
  "sasrec": Row("SASRec (full cross-entropy)", OF_20),
}
_WRITTEN_OTHERS = {
  key: dataclasses.replace(row, protocol=CHOSEN) for key, row in _OTHERS.items()
}
RECIPES = {
  "bigrec": Recipe("real", _grounded("BIGRec")),
  "msl": Recipe("real", {"beams": Row("MSL (BIGRec's texts, ATS)", ALL)}),
  "d3": Recipe("d3", {"beams + sasrec": Row("D3 with SASRec", ALL)}),
  "gpt4rec": Recipe(
    "gpt4rec",
    {
      "gpt4rec": Row("GPT4Rec, ten queries", ALL),
      "gpt4rec, one query": Row("GPT4Rec, one query", ALL),
    },
  ),
  "rsllm-full": Recipe("rsllm", _grounded("RSLLM, full ranking"), "full"),
  "cao": Recipe(
    "cao",
    {
      "retrieval: cao": Row("Cao et al., retrieval", ALL),
      "ranking: cao": Row("Cao et al., ranking", OF_20),
      "ranking: most_pop": _OTHERS["most_pop"],
      "ranking: sasrec": _OTHERS["sasrec"],
      "rating: cao": Row("Cao et al., likeliest rating", RATING),
      "rating: cao, expected": Row("Cao et al., expected rating", RATING),
      "rating: train mean": Row("mean rating of train", RATING),
    },
  ),
  "m6rec": Recipe(
    "m6rec",
    {
      "towers, all items": Row("M6-Rec, towers", ALL),
      "score": Row("M6-Rec, scoring head", OF_20),
      "late": Row("M6-Rec, late interaction", OF_20),
      "towers": Row("M6-Rec, towers", OF_20),
      "options": Row("M6-Rec, option tuning", OF_20),
      "likelihood, untuned": Row("M6-Rec, likelihood (untuned)", OF_20),
      "most_pop": _OTHERS["most_pop"],
    },
    note=(
      "M6-Rec's heads but the towers read each item behind each user's prompt:"
      " ranking all items costs a network pass an item and user"
    ),
  ),
  "chatrec": Recipe(
    "chatrec",
    {
      "recommender": Row("Chat-REC, the recommender's order", ALL),
      "chat": Row("Chat-REC, the chat model's order", ALL),
    },
    source="bigrec",
  ),
  "lmrecsys": Recipe(
    "lmrecsys",
    {
      "lmrecsys": Row("LMRecSys", OF_20),
      "lmrecsys, less bias by valid": Row("LMRecSys, less bias", OF_20),
      "untuned base": Row("LMRecSys, untuned", OF_20),
      "untuned base, less bias by valid": Row(
        "LMRecSys, untuned, less bias", OF_20
      ),
      **_OTHERS,
    },
    note=(
      "LMRecSys reads every title behind every user's prompt, some 100,000"
      " tokens a user here; it is possible (`candidates=0`), and too slow for"
      " this table"
    ),
  ),
  "llara": Recipe(
    "llara",
    {"llara": Row("LLaRA", CHOSEN), **_WRITTEN_OTHERS},
    note="LLaRA's question lists the candidates, so all items don't fit",
  ),
  "rsllm": Recipe(
    "rsllm",
    {"rsllm": Row("RSLLM", CHOSEN), **_WRITTEN_OTHERS},
    note=(
      "RSLLM's question lists the candidates; without them it is the row of"
      " full ranking"
    ),
  ),
  "tallrec": Recipe(
    "tallrec",
    {
      "tallrec": Row("TALLRec", YES_NO),
      "untuned base": Row("TALLRec, untuned", YES_NO),
      "sasrec": Row("SASRec of the same samples", YES_NO),
    },
    why_not=_NO_RATINGS,
    note=(
      "TALLRec answers Yes or No to one item, of samples of its own; a ranking"
      " of all items would be a prompt an item and user. Its base is made of"
      " its own texts: BIGRec's have no token Yes or No"
    ),
    own_base=True,
  ),
  "fairllm": Recipe(
    "fairllm",
    {},
    source="bigrec",
    note="FaiRLLM compares lists with each other and has no right answer",
  ),
}


def changes(system: str, data: str) -> dict[str, Any]:
  """Returns what a system's task needs beside `shared.tuning`."""
  own = words(data)
  return {
    "bigrec": lambda: own.prompt | _GROUNDED,
    "chatrec": lambda: own.prompt | _GROUNDED | _chat(own),
    "fairllm": lambda: own.prompt | _GROUNDED | _fairness(own),
    "msl": lambda: own.prompt | _TITLES_ONLY | _MSL,
    "d3": lambda: _d3(own) | _TITLES_ONLY,
    "gpt4rec": lambda: _gpt4rec(own),
    "rsllm-full": lambda: _rsllm(own, full=True) | _GROUNDED,
    "rsllm": lambda: _rsllm(own, full=False),
    "llara": lambda: _choose(own, full=False),
    "cao": lambda: _CAO | _TITLES_ONLY,
    "m6rec": lambda: _m6rec(own),
    "lmrecsys": lambda: _lmrecsys(own),
    "tallrec": lambda: _TALLREC,
  }[system]()


_MSL = {
  "task.name": "exact_title",
  "train.objective": "legal_tokens",
  "train.temperature": 1.5,
  "train.adaptive_temperature": True,
}
# A sample of each kind for each row, so one epoch has as many steps as three.
_CAO = _LONG | {
  "train.num_epochs": 1,
  "task.auxiliary.candidates": CANDIDATES,
}
# data.num_train of its own samples; its valid AUC after each epoch.
_TALLREC = {
  "task.yes_no.eval_steps": 0,
  "task.yes_no.cf_models": ("sasrec",),
}


def _chat(own: Words) -> dict[str, Any]:
  return {
    "prompt.style": "consistent",  # A base made here has no chat template.
    "task.chat.noun": own.noun.removesuffix("s"),
  }


def _fairness(own: Words) -> dict[str, Any]:
  return {
    "prompt.style": "consistent",
    "task.fairness.models": ("tuned",),  # Its beams are the list.
    "task.fairness.lists": "beams",
    "task.fairness.list_length": 10,
    "task.fairness.num_names": 20,
    "task.fairness.noun": own.domain,
  }


def _d3(own: Words) -> dict[str, Any]:
  # The misspellings are the published ones.
  return {
    "prompt.instruction": (
      f"Given a list of {own.noun} the user recetenly enjoy, please write a new"
      f" {own.noun} that the user may bought"
    ),
    "prompt.history": (
      f"The user has palyed the following {own.noun}s before: "
    ),
  }


def _gpt4rec(own: Words) -> dict[str, Any]:
  return {
    "prompt.history": f"Previously, the customer has {own.had}:",
    "prompt.instruction": f"In the future, the customer wants to {own.have}",
    "generate.num_beams": 10,
  }


def _choose(own: Words, full: bool) -> dict[str, Any]:
  return _LONG | {
    "task.choose.domain": own.domain,
    "task.choose.candidates": CANDIDATES,
    "task.choose.bare_titles": own.domain == "movie" and not full,
    "generate.num_beams": 4 if full else 1,
  }


def _rsllm(own: Words, full: bool) -> dict[str, Any]:
  # Two stages of an epoch each.
  stages = {
    "train.num_epochs": 1,
    "train.first.num_epochs": 1,
    "train.first.learning_rate": 1e-3,
  }
  return _choose(own, full) | stages


def _m6rec(own: Words) -> dict[str, Any]:
  return {
    "prompt.history": f"Before, the customer has {own.had}:",
    "prompt.instruction": f"Next, the customer wants to {own.have}:",
    "task.heads.candidates": CANDIDATES,
  }


def _lmrecsys(own: Words) -> dict[str, Any]:
  return {
    "prompt.history": f"A user {own.had}",
    "prompt.instruction": f"Now the user may want to {own.have}",
    "task.title_likelihood.candidates": CANDIDATES,
    "task.title_likelihood.negatives": CANDIDATES - 1,
  }
