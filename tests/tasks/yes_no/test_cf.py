"""CF models of the samples: they learn the likes, and only those."""

import dataclasses

import numpy as np

from bigrec_jax import config as config_lib
from bigrec_jax.devices import sharding
from bigrec_jax.results import metrics
from bigrec_jax.tasks.yes_no import cf, samples
from configs import common

ITEMS = 23


def _planted(split, count, seed):
  """After item i a user likes i + 3; any other target is disliked."""
  rng = np.random.default_rng(seed)
  first = rng.integers(0, ITEMS, count)
  history = (first[:, None] + 3 * np.arange(5)) % ITEMS
  label = rng.random(count) < 0.5
  off = rng.integers(1, ITEMS, count)
  target = (history[:, -1] + 3 + np.where(label, 0, off)) % ITEMS
  return samples.Samples(
    split,
    np.arange(count),
    np.arange(count),
    history.astype(np.int32),
    np.ones((count, 5), np.bool_),
    target.astype(np.int32),
    label,
  )


def test_scores_separate_what_was_planted():
  values = common.get_config()
  values.cf.update(
    hidden_size=16,
    num_epochs=40,
    batch_size=32,
    learning_rate=1e-2,
    dropout=0.0,
    loss="softmax",
    num_seeds=2,
  )
  config = config_lib.from_config_dict(values)
  used = {
    "train": _planted("train", 400, 0),
    "valid": _planted("valid", 60, 1),
    "test": _planted("test", 80, 2),
  }
  mesh = sharding.single_device_mesh()
  found = cf.scores("gru4rec", used, config, ITEMS, mesh)
  for split in ("valid", "test"):
    assert [len(one) for one in found[split]] == [len(used[split])] * 2
    for one in found[split]:
      assert metrics.roc_auc(used[split].label, one) > 0.95


def test_only_liked_targets_are_learnt():
  part = _planted("train", 50, 3)
  kept = cf.liked(part)
  assert len(kept) == part.label.sum()
  np.testing.assert_array_equal(kept.target, part.target[part.label])
  none = dataclasses.replace(part, label=np.zeros(50, np.bool_))
  assert len(cf.liked(none)) == 0
