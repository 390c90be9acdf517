import json

import numpy as np
import pytest

from bigrec_jax import config as config_lib, errors
from bigrec_jax.cf import scores
from bigrec_jax.results import metrics
from bigrec_jax.stages import session, train_cf
from configs import common, demo


def _config(**cf):
  tree = demo.get_config("tiny")
  tree.mesh.data, tree.mesh.fsdp = 4, 2
  tree.data.num_train = 40  # Few-shot.
  tree.cf.num_train = 0
  tree.cf.hidden_size = 6
  tree.cf.batch_size = 16
  for key, value in cf.items():
    tree.cf[key] = value
  return config_lib.from_config_dict(tree)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  return tmp_path_factory.mktemp("train_cf")


def _rank(line, target):
  order = np.argsort(-line, kind="stable")
  return int(np.flatnonzero(order == target)[0])


def test_models_leave_aligned_scores_and_metrics(workdir, capsys):
  config = _config(model="most_pop,item_knn,caser", num_epochs=2, num_seeds=2)
  train_cf.run(config, workdir)
  shown = capsys.readouterr().out
  run = session.Session(config, workdir)
  found = json.loads((workdir / "metrics" / "cf.json").read_text())
  for model in ("most_pop", "item_knn", "caser"):
    assert f"\n{model} " in shown
    for split in ("valid", "test"):
      examples = run.examples(split)
      made = scores.load_scores(
        run.paths.cf_scores(model, split), examples, run.catalogue
      )
      ranks = np.array(
        [_rank(made[n], t) for n, t in enumerate(examples.target)]
      )
      entry = found[model][split]
      assert entry["num_examples"] == len(examples)
      if model != "caser":  # Its metrics are means over two seeds.
        expected = metrics.summarise(ranks, config.ground.cutoffs)
        assert entry["hr"] == expected["hr"]
        assert entry["ndcg"] == pytest.approx(expected["ndcg"])
  caser = found["caser"]
  assert caser["seeds"] == [config.seed, config.seed + 1]
  assert caser["epochs"] == 2 and caser["seconds_per_epoch"] > 0
  assert set(caser["test"]["hr_std"]) == set(caser["test"]["hr"])
  # Few-shot: popularity counts the same 40 rows as the LLM trains on.
  train = run.examples("train")
  assert len(train) == 40
  counts = scores.load_scores(
    run.paths.cf_scores("most_pop", "test"), run.examples("test"), run.catalogue
  )[0]
  pairs = {
    (int(u), int(i))
    for u, h, t in zip(train.user, train.history, train.target, strict=True)
    for i in (*h[h >= 0], t)
  }
  expected = np.bincount([i for _, i in pairs], minlength=len(run.catalogue))
  np.testing.assert_array_equal(counts, expected)


def test_what_is_current_is_not_made_again_and_more_epochs_go_on(
  workdir, capsys
):
  config = _config(model="caser", num_epochs=2, num_seeds=2)
  path = workdir / "cf" / "caser" / "test.npy"
  stamp = path.stat().st_mtime_ns
  train_cf.run(config, workdir)
  assert "is current" in capsys.readouterr().out
  assert path.stat().st_mtime_ns == stamp
  before = json.loads((workdir / "metrics" / "cf.json").read_text())
  train_cf.run(_config(model="caser", num_epochs=3, num_seeds=2), workdir)
  after = json.loads((workdir / "metrics" / "cf.json").read_text())
  assert after["caser"]["epochs"] == 3
  assert after["caser"]["curve"][:2] == before["caser"]["curve"]
  assert after["most_pop"] == before["most_pop"]


def test_leave_one_out_with_seen_items_masked(tmp_path):
  rng = np.random.default_rng(0)
  users = [rng.permutation(15)[: rng.integers(4, 9)] + 1 for _ in range(30)]
  file = tmp_path / "sequences.txt"
  lines = [f"{u} {' '.join(map(str, i))}\n" for u, i in enumerate(users, 1)]
  file.write_text("".join(lines))
  tree = common.get_config()
  tree.data.format, tree.data.train = "sequences", str(file)
  tree.data.max_history, tree.data.num_valid = 3, -1
  tree.data.num_test = -1
  tree.cf.model, tree.cf.mask_seen = "most_pop", True
  config = config_lib.from_config_dict(tree)
  train_cf.run(config, tmp_path / "run")
  run = session.Session(config, tmp_path / "run")
  ids = [int(i) - 1 for i in run.catalogue.external_ids]
  counts = np.zeros(len(ids))
  row = {item: n for n, item in enumerate(ids)}
  for items in users:
    for item in items[:-2]:
      counts[row[int(item) - 1]] += 1
  ranks = []
  for items in users:
    line = counts.copy()
    # All seen items, though a history holds only the last three.
    line[[row[int(i) - 1] for i in items[:-1]]] = -1
    ranks.append(_rank(line, row[int(items[-1]) - 1]))
  found = json.loads((tmp_path / "run" / "metrics" / "cf.json").read_text())
  expected = metrics.summarise(np.array(ranks), config.ground.cutoffs)
  assert found["most_pop"]["test"]["hr"] == expected["hr"]


def test_mistakes_are_one_line():
  with pytest.raises(errors.UserError, match=r"cf\.model.*'sasrek'"):
    _config(model="most_pop,sasrek")
  with pytest.raises(errors.UserError, match=r"cf\.num_heads: 5"):
    _config(num_heads=5)
