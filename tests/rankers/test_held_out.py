"""A choice on valid, and what it is worth to who did not make it."""

import numpy as np

from bigrec_jax.rankers import held_out
from bigrec_jax.rankers.combine import fusion_fit
from bigrec_jax.results import metrics


def test_each_user_is_ranked_by_what_other_folds_choose():
  rng = np.random.default_rng(0)
  table, owners = rng.integers(0, 40, (6, 90)), rng.integers(0, 30, 90)
  found = held_out.choose(list(table), owners, 3)
  folds = fusion_fit.folds_of(owners, 3)
  for user in range(90):
    others = [n for n in range(90) if folds[n] != folds[user]]
    assert not {owners[n] for n in others} & {owners[user]}
    values = [metrics.ndcg(row[others], 20) for row in table]
    assert found.ranks[user] == table[values.index(max(values)), user]
  values = [metrics.ndcg(row, 20) for row in table]
  assert (found.place, list(found.ndcg)) == (values.index(max(values)), values)
  assert found.held_out == metrics.ndcg(found.ranks, 20)


def test_a_choice_among_noise_is_worth_nothing_held_out():
  """40 settings that are one: the best of them only looks better."""
  gains = []
  for seed in range(60):
    table = np.random.default_rng(seed).integers(0, 60, (40, 100))
    found = held_out.choose(list(table), np.arange(100), seed)
    true = metrics.ndcg(np.arange(60), 20)
    gains.append((found.ndcg[found.place] - true, found.held_out - true))
  looks, honest = np.mean(gains, axis=0)
  error = np.std(gains, axis=0)[1] / np.sqrt(60)
  assert abs(honest) < 3 * error < looks / 2


def test_one_better_setting_is_chosen_by_all():
  rng = np.random.default_rng(1)
  table = rng.integers(0, 60, (5, 200))
  table[3] = 0
  found = held_out.choose(list(table), np.arange(200), 0)
  assert found.place == 3 and not found.ranks.any()


def test_a_single_owner_has_the_first_setting():
  found = held_out.choose([np.array([5, 6]), np.array([0, 0])], np.ones(2), 0)
  assert found.place == 1 and found.ranks.tolist() == [5, 6]
