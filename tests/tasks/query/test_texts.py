"""What the query generator reads, and which options it refuses."""

import dataclasses
import types

import numpy as np
import pytest

from bigrec_jax import config as config_lib, errors
from bigrec_jax.data.prepared.catalogue import Catalogue
from bigrec_jax.data.prepared.examples import Examples
from bigrec_jax.tasks.query import task
from configs import gpt4rec


def _store(**changes):
  values = gpt4rec.get_config()
  for key, value in changes.items():
    section, name = key.split("__")
    values[section][name] = value
  config = config_lib.from_config_dict(values)
  titles = ("Halo 3", "Fable II", "Braid")
  catalogue = Catalogue(("a", "b", "c"), titles, np.array([3, 2, 1]))
  column = np.array([0, 1])
  examples = Examples(
    "test",
    column + 40,
    np.array([[2, 0, -1], [-1, -1, -1]], np.int32),
    np.array([1, 2], np.int32),
    column,
    column,
    # Another system's words, as in BIGRec's JSON rows.
    {0: ("Recommend a game.", "The user has played Braid.")},
  )
  return types.SimpleNamespace(
    config=config, catalogue=catalogue, examples=lambda split: examples
  )


def test_the_text_is_history_then_title():
  samples = task.Task(_store()).samples("test")
  text = samples.text(0)
  assert text.prompt == (
    "Previously, the customer has bought:\n"
    "Braid. Halo 3.\n"
    "In the future, the customer wants to buy"
  )
  assert text.question == text.prompt
  assert text.training == f"{text.prompt} Fable II"
  assert samples.text(1).prompt == (
    "Previously, the customer has bought:\n\n"
    "In the future, the customer wants to buy"
  )
  assert samples.content(0) == {"input": text.prompt, "output": "Fable II"}
  assert samples.name(1) == "test row 41"
  assert len(samples) == 2


def test_the_words_are_the_configuration_s():
  store = _store(prompt__history="Bought:", prompt__instruction="Next:")
  assert task.Task(store).samples("test").text(0).training == (
    "Bought:\nBraid. Halo 3.\nNext: Fable II"
  )


@pytest.mark.parametrize(
  ("option", "value", "message"),
  [
    ("prompt__style", "bigrec", "config.prompt.style: 'bigrec' found"),
    ("generate__constrained", True, "config.generate.constrained: True found"),
  ],
)
def test_options_of_other_systems_are_refused(option, value, message):
  with pytest.raises(errors.UserError, match=message):
    task.Task(_store(**{option: value}))


def test_what_the_rows_depend_on(tmp_path):
  def made_from(**changes):
    store = _store(ground__cf_model="", **changes)
    return task.Task(store).evaluated_from()

  assert made_from() == made_from()
  for change in (
    {"bm25__k1": (1.0,)},
    {"ground__cutoffs": (5,)},
    {"ground__bootstrap_samples": 7},
  ):
    assert made_from(**change) != made_from()
  store = _store(ground__cf_model="")
  catalogue = dataclasses.replace(store.catalogue, popularity=np.arange(3))
  store.catalogue = catalogue
  assert task.Task(store).evaluated_from() != made_from()
