"""What tasks name as their inputs, and how many samples they make."""

import types

import numpy as np
import pytest

from bigrec_jax import errors, models
from bigrec_jax.config import from_config_dict
from bigrec_jax.data.prepared.catalogue import Catalogue
from bigrec_jax.devices import sharding
from bigrec_jax.planning import of_task
from bigrec_jax.stages import tuning
from bigrec_jax.tasks import registry
from bigrec_jax.testing import store as made_up
from bigrec_jax.workdir import paths
from configs import cao, llara, lmrecsys, m6rec

ROWS = 30
CONFIGS = {
  "choose": llara,
  "auxiliary": cao,
  "title_likelihood": lmrecsys,
  "heads": m6rec,
}


def make(name, root, catalogue=None, **changes):
  """Returns a task of a small store; in keys of `changes` __ is a dot."""
  values = CONFIGS[name].get_config("tiny")
  values.ground.cf_model = ""
  values.task.choose.candidates = 5
  values.update_from_flattened_dict(
    {key.replace("__", "."): value for key, value in changes.items()}
  )
  return registry.make(
    types.SimpleNamespace(
      config=from_config_dict(values),
      paths=paths.Paths(root),
      manifest=types.SimpleNamespace(fingerprint="data"),
      catalogue=catalogue or made_up.catalogue(),
      examples=lambda split: made_up.examples(split, ROWS, len(split)),
      prompt=made_up.PROMPT,
      cf_item_vectors=_no_vectors,
      tokenizer=None,  # Nothing is laid out here.
    )
  )


def _no_vectors(model):
  raise errors.UserError(f"{model}: not trained")


@pytest.mark.parametrize(
  "name, change",
  [
    ("heads", {"data__sample_seed": 9}),
    ("heads", {"prompt__history": "Had:"}),
    ("title_likelihood", {"data__sample_seed": 9}),
    ("auxiliary", {"data__sample_seed": 9}),
    ("auxiliary", {"prompt__instruction": "Say it."}),
  ],
)
def test_rows_name_what_their_candidates_and_texts_are_made_from(
  tmp_path, name, change
):
  one, other = make(name, tmp_path), make(name, tmp_path, **change)
  assert one.evaluated_from() == make(name, tmp_path).evaluated_from()
  assert one.evaluated_from() != other.evaluated_from()


def test_an_adapter_names_what_wrote_the_answers_it_was_chosen_by(tmp_path):
  def made_from(split, **change):
    return make("choose", tmp_path, **change).made_from(split)

  shorter = {"generate__max_new_tokens": 5}
  assert made_from("valid") != made_from("valid", **shorter)
  assert made_from("train") == made_from("train", **shorter)
  idle = {"generate__batch_size": 8, "generate__prompt_buckets": (512,)}
  assert made_from("valid") == made_from("valid", **idle)
  # It may differ where an adapter is only used.
  assert "chosen_by" in tuning.TOLERATED


def test_candidates_differ_without_their_years(tmp_path):
  names = [f"Film {n}" for n in range(9)]
  titles = [f"{name} ({year})" for name in names for year in (1954, 1995)]
  ids = tuple(map(str, range(len(titles))))
  catalogue = Catalogue(ids, tuple(titles), np.ones(len(titles), int))
  bare = {"task__choose__bare_titles": True, "task__choose__candidates": 4}
  for row in (
    make("choose", tmp_path, catalogue, **bare).drawn("test").candidates
  ):
    assert len({titles[item][:6] for item in row}) == 4


def test_samples_are_counted(tmp_path):
  lengths = (made_up.examples("train", ROWS, 5).history >= 0).sum(axis=1)
  for name, least in (("choose", 3), ("title_likelihood", 2)):
    task = make(name, tmp_path)
    assert task.num_samples("train") == (lengths >= least).sum() < ROWS
    assert task.num_samples("train") == len(task.samples("train"))
  weights = {"task__auxiliary__weights__bpr": 2.5}
  task = make("auxiliary", tmp_path, **weights)
  # No ratings; retrieval, ranking, mim, mlm once, bpr more often.
  assert task.num_samples("train") == 4 * ROWS + 75
  assert task.num_samples("valid") is None


def test_a_plan_counts_or_names_what_a_task_adds(tmp_path):
  task = make("heads", tmp_path)
  config = task.store.config
  arch = models.from_arch(config.model.arch, 300)
  mesh, parts = sharding.single_device_mesh(), ("train", "generate", "ground")
  found = of_task.read(task, arch, mesh, parts)
  width = arch.hidden_size
  # score and late; two towers 16 wide; 4 soft tokens and 2 options.
  count = 2 * (width + 1) + 2 * 16 * width + (4 + 2) * width
  assert (found.parameters, found.bytes) == (count, 4 * 4 * count)
  assert not found.counts_all and found.samples is None
  assert found.step is not None and "its evaluation runs" in found.notes[0]
  assert "leave generate out" in found.notes[1]
  assert "leave ground out" in found.notes[2]
  untrained = of_task.read(make("choose", tmp_path), arch, mesh, parts)
  assert "isn't counted: sasrec: not trained" in untrained.notes[0]
  assert not untrained.bytes and not untrained.counts_all
  text = {"task__choose__schedule": "text"}
  plain = of_task.read(make("choose", tmp_path, **text), arch, mesh, ("train",))
  assert plain.counts_all and not plain.notes
