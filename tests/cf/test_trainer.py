import functools
import itertools

import jax
import numpy as np
import pytest

from bigrec_jax import config as config_lib, errors, progress
from bigrec_jax.cf import fitting, networks, recipes, states as cf_states, steps
from bigrec_jax.config import MeshConfig
from bigrec_jax.devices import sharding
from bigrec_jax.rankers import cf as cf_rankers, engine
from bigrec_jax.results import metrics
from configs import common
from tests.cf import worlds

ITEMS, LENGTH = 23, 7
TRAIN = worlds.cycle("train", 24, ITEMS, LENGTH, seed=0)
VALID = worlds.cycle("valid", 9, ITEMS, LENGTH, seed=1)
SCHEDULE = fitting.Schedule(num_epochs=2, patience=0, save_every_epochs=1)


@functools.cache
def _mesh(sizes=(1, 1, 1)):
  if sizes == (1, 1, 1):
    return sharding.single_device_mesh()
  return sharding.make_mesh(MeshConfig(*sizes), jax.devices()[: np.prod(sizes)])


def _score(spec, mesh, examples=VALID):
  ranks_of = engine.Ranks(examples.target, ITEMS, mesh, most_users=16)
  encoder = cf_states.Encoder(spec, examples.history, mesh, ranks_of.block)

  def ranks(params):
    head = networks.head(spec, params)
    return ranks_of(cf_rankers.Headed(encoder(params), head))

  return ranks


def _fit(made, directory=None, schedule=SCHEDULE, score=None):
  return fitting.fit(
    made,
    score or (lambda params: 0.5),
    schedule,
    directory,
    progress.NullProgress(),
  )


def _rising():
  """A score that makes every epoch the best so far."""
  scores = itertools.count(1)
  return lambda params: 0.01 * next(scores)


def _flat(tree):
  return {
    jax.tree_util.keystr(path): np.asarray(leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def _assert_close(one, two, **tolerance):
  """Compares parameters, but for biases of attention keys.

  Softmax cancels them: their gradient is rounding, which Adam blows up.
  """
  one, two = (
    {k: v for k, v in _flat(tree).items() if "['key']['bias']" not in k}
    for tree in (one, two)
  )
  assert one.keys() == two.keys()
  for name, value in one.items():
    np.testing.assert_allclose(value, two[name], err_msg=name, **tolerance)


@pytest.mark.parametrize(
  ("network", "family", "loss", "dro"),
  [
    ("sasrec", "dros", "bce", True),
    ("gru4rec", "s3rec", "softmax", False),
    ("caser", "dros", "bpr", False),
  ],
)
def test_a_planted_pattern_is_learned(network, family, loss, dro):
  spec = worlds.spec(network, family, dropout=0.1)
  made = worlds.make_trainer(
    spec, TRAIN, _mesh(), loss=loss, dro=dro, rate=0.02
  )
  ranks = _score(spec, _mesh())
  schedule = fitting.Schedule(60, patience=0, save_every_epochs=0)
  fitted = _fit(
    made, schedule=schedule, score=lambda p: metrics.ndcg(ranks(p), 5)
  )
  found = ranks(fitting.of_run(fitted.params, 0))
  # By chance 0.04.
  assert metrics.hit_rate(found, 1) > 0.6
  assert made.num_programs == 1


@functools.cache
def _reference(family):
  spec = worlds.spec("sasrec", family, dropout=0.2)
  made = worlds.make_trainer(spec, TRAIN, _mesh(), dro=True)
  return spec, jax.device_get(_fit(made, score=_rising()).params)


@pytest.mark.parametrize("family", ["dros", "s3rec"])
def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path, family):
  spec, expected = _reference(family)
  for epochs in (1, 2):
    made = worlds.make_trainer(spec, TRAIN, _mesh(), dro=True)
    schedule = fitting.Schedule(epochs, patience=0, save_every_epochs=1)
    fitted = _fit(made, tmp_path, schedule, lambda p, e=epochs: 0.1 * e)
  assert [e["epoch"] for e in fitted.books["curve"]] == [1, 2]
  assert fitted.books["best_epoch"] == [2]
  for name, value in _flat(fitted.params).items():
    np.testing.assert_array_equal(value, _flat(expected)[name], err_msg=name)


@pytest.mark.parametrize(
  ("family", "sizes"), [("dros", (1, 2, 2)), ("s3rec", (2, 1, 1))]
)
def test_a_sharded_run_equals_an_unsharded_one(family, sizes):
  spec, expected = _reference(family)
  mesh = _mesh(sizes)
  made = worlds.make_trainer(spec, TRAIN, mesh, dro=True)
  fitted = _fit(made, score=_rising())
  table = fitted.params["network"]["items"]
  shards = sizes[1] * sizes[2]
  assert table.addressable_shards[0].data.shape[1] == spec.rows // shards
  _assert_close(fitted.params, expected, rtol=1e-4, atol=1e-4)
  params = fitting.of_run(fitted.params, 0)
  one = fitting.of_run(expected, 0)
  np.testing.assert_array_equal(
    _score(spec, mesh)(params), _score(spec, _mesh())(one)
  )


def test_runs_of_one_program_equal_runs_alone():
  spec = worlds.spec("gru4rec", "s3rec", dropout=0.2)
  runs = [steps.Trial(3, 1e-2, 0.0, 0.0), steps.Trial(4, 3e-3, 1e-4, 0.0)]
  both = _fit(
    worlds.make_trainer(spec, TRAIN, _mesh(), runs=runs), score=_rising()
  )
  for k, run in enumerate(runs):
    alone = _fit(
      worlds.make_trainer(spec, TRAIN, _mesh(), runs=[run]), score=_rising()
    )
    _assert_close(
      fitting.of_run(both.params, k),
      fitting.of_run(alone.params, 0),
      rtol=1e-4,
      atol=1e-5,
    )


def test_the_best_epoch_is_kept_and_patience_stops_each_run_alone():
  spec = worlds.spec("caser", "dros")
  runs = [steps.Trial(0, 1e-2, 0.0, 0.0), steps.Trial(1, 1e-2, 0.0, 0.0)]
  made = worlds.make_trainer(spec, TRAIN, _mesh(), runs=runs)
  # Run 0 is best in epoch 1 and its late record comes after its patience.
  script = iter([0.5, 0.1, 0.4, 0.2, 0.4, 0.3, 0.9, 0.3, 0.9, 0.3, 0.9, 0.3])
  kept = []

  def score(params):
    kept.append(np.asarray(params["network"]["items"]))
    return next(script)

  schedule = fitting.Schedule(20, patience=2, save_every_epochs=0)
  fitted = _fit(made, schedule=schedule, score=score)
  assert fitted.books["best_epoch"] == [1, 3]
  assert len(fitted.books["curve"]) == 5
  best = np.asarray(fitted.params["network"]["items"])
  np.testing.assert_array_equal(best[0], kept[0])
  np.testing.assert_array_equal(best[1], kept[5])


def test_a_loss_that_is_not_finite_stops_with_one_line():
  spec = worlds.spec("caser", "dros")
  made = worlds.make_trainer(
    spec, TRAIN, _mesh(), loss="softmax", runs=[steps.Trial(5, 1e30, 0.0, 0.0)]
  )
  with pytest.raises(errors.UserError, match=r"seed 5.*cf\.learning_rate"):
    _fit(made)


def test_a_mesh_that_does_not_divide_the_batch_is_refused():
  spec = worlds.spec("caser", "dros")
  with pytest.raises(errors.UserError, match=r"cf\.batch_size: 12"):
    worlds.make_trainer(spec, TRAIN, _mesh((8, 1, 1)), batch_size=12)


def test_a_table_is_the_same_on_every_mesh_it_splits_over():
  """So a checkpoint that one mesh wrote is read on another."""
  section = config_lib.from_config_dict(common.get_config()).cf
  for num_items in (5, 127, 128, 12101):
    sizes = {
      recipes.recipe("sasrec", section, num_items, 10, mesh).network.rows
      for mesh in (
        sharding.make_mesh(MeshConfig(8 // shards, shards, 1))
        for shards in (1, 2, 4, 8)
      )
    }
    (rows,) = sizes
    assert rows > num_items and rows % 8 == 0
