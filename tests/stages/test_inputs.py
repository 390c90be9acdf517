"""What records name: all that a result depends on, and nothing that is off."""

import dataclasses
import pathlib
import types

import pytest

from bigrec_jax.stages import generate, train
from bigrec_jax.workdir import paths as paths_lib
from tests import demo_workdir


def _session(catalogue, own_weights=False, **sections):
  config = demo_workdir.config()
  changed = {
    name: dataclasses.replace(getattr(config, name), **keys)
    for name, keys in sections.items()
  }
  config = dataclasses.replace(config, **changed)
  return types.SimpleNamespace(
    config=config,
    paths=paths_lib.Paths(pathlib.Path("nowhere")),
    base_fingerprint="base",
    catalogue=types.SimpleNamespace(fingerprint=catalogue),
    task=types.SimpleNamespace(
      store=types.SimpleNamespace(config=config),
      made_from=lambda split: {f"{split}_examples": 0},
      has_own_weights=own_weights,
      cf_model="",
    ),
  )


def _predictions(catalogue, **keys):
  adapter = types.SimpleNamespace(fingerprint="adapter")
  return generate.depends_on(_session(catalogue, generate=keys), adapter)


def _adapter(catalogue, **keys):
  return train.STAGE.inputs(_session(catalogue, train=keys))


LEGAL = {"objective": "legal_tokens", "train_on_inputs": False}


@pytest.mark.parametrize(
  "made, off, on",
  [
    (_predictions, {}, {"constrained": True}),
    (_adapter, {"train_on_inputs": False}, LEGAL),
  ],
)
def test_a_trie_is_of_the_whole_catalogue(made, off, on):
  assert made("one", **off) == made("other", **off)
  assert made("one", **on) != made("other", **on)


@pytest.mark.parametrize(
  "made, plain, idle",
  [
    (_predictions, {}, {"lookahead": 4}),
    (_predictions, {}, {"prior_weight": 0.25}),
    (
      _predictions,
      {"constrained": True},
      {"constrained": True, "lookahead": 4},
    ),
    (
      _predictions,
      {"constrained": True},
      {"constrained": True, "prior": "sasrec", "prior_weight": 0.0},
    ),
  ],
)
def test_what_changes_no_text_is_not_named(made, plain, idle):
  assert made("one", **plain) == made("one", **idle)


def test_the_objective_is_named():
  found = [
    _adapter("one", **LEGAL),
    _adapter("one", **LEGAL, temperature=1.5),
    _adapter("one", **LEGAL, adaptive_temperature=True),
    _adapter("one", train_on_inputs=False),
  ]
  assert all(a != b for n, a in enumerate(found) for b in found[:n])


def test_what_came_later_is_named_where_it_is_read_alone():
  """Workdirs of before have no such keys in their records."""
  known = train.STAGE.inputs(_session("one"))
  assert known == _adapter("one", own_l2=0.5)
  assert not {"own_l2", "schedule"} & set(known["train"])
  assert "item_vectors" not in known and "item_vectors" not in _predictions("")
  assert _adapter("one", schedule="cosine") != known
  own = train.STAGE.inputs(_session("one", own_weights=True))
  assert own["train"]["own_l2"] == 0.0


def test_contrastive_options_are_named_where_they_are_read():
  on = {"objective": "contrastive", "train_on_inputs": False}
  terms = demo_workdir.config().train.contrastive
  terms = dataclasses.replace(terms, view="words")
  assert _adapter("one", **on) != _adapter("one", **on, contrastive=terms)
  plain = _adapter("one")
  assert plain == _adapter("one", contrastive=terms)
  # A workdir of before there were these keys stays current.
  assert not plain["train"].keys() & {
    "contrastive",
    "also",
    "first",
    "schedule",
  }
