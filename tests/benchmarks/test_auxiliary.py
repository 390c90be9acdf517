"""What the leave-one-out of auxiliary tasks compares."""

import pytest

from benchmarks import auxiliary
from bigrec_jax import errors

TINY = "configs/cao.py:tiny"


def test_a_variant_lacks_its_kinds_and_nothing_else():
  changes = auxiliary._changes(
    ["data.num_train=32", "task.auxiliary.item=id", "ground.cutoffs=(1,3)"]
  )
  assert changes == {
    "data.num_train": 32,
    "task.auxiliary.item": "id",
    "ground.cutoffs": (1, 3),
  }
  every = auxiliary.configuration(TINY, changes, "all", 3)
  assert every.seed == 3 and every.data.num_train == 32
  assert set(every.task.auxiliary.weights.by_kind.values()) == {1.0}
  for name, left_out in auxiliary.VARIANTS.items():
    own = auxiliary.configuration(TINY, changes, name, 3).to_dict()
    weights = own["task"]["auxiliary"]["weights"]
    assert {kind for kind, w in weights.items() if not w} == {*left_out}
    own["task"]["auxiliary"]["weights"] = dict.fromkeys(weights, 1.0)
    assert own == every.to_dict()


def test_mistakes_are_one_line():
  with pytest.raises(errors.UserError, match="no such file"):
    auxiliary.configuration("configs/chao.py", {}, "all", 0)
  with pytest.raises(errors.UserError, match="num_trian: unknown key"):
    auxiliary.configuration(TINY, {"data.num_trian": 3}, "all", 0)
  with pytest.raises(errors.UserError, match="as in configs/common.py"):
    auxiliary.configuration(TINY, {"data.num_train": "x"}, "all", 0)
  with pytest.raises(errors.UserError, match="'seed' found, key=value"):
    auxiliary._changes(["seed"])


def test_differences_are_by_seed():
  key = ("ranking: cao", "hr@1")
  found = {name: [{key: 0.5}, {key: 0.7}] for name in auxiliary.VARIANTS}
  found["without mim"] = [{key: 0.6}, {key: 0.65}]
  head, _, line = auxiliary.summary(found).splitlines()
  cells = [cell for cell in line.split("  ") if cell.strip()]
  assert cells[0] == "ranking: cao hr@1"
  assert cells[1].strip() == "0.6000 ± 0.1414"
  # +0.1 and -0.05: one of two seeds has the mean's sign.
  assert cells[2].strip() == "0.6250 ± 0.0354 (+0.0250, 1/2)"
  assert "without bpr" in head
  given = {"data.train": "/secret/place/train.json", "data.num_train": 32}
  saved = auxiliary.to_json(found, TINY, given, [0, 1])
  assert saved["changes"]["data.train"] == "train.json"
  assert saved["test"]["without mim"] == {" ".join(key): [0.6, 0.65]}
