"""Scores that are on disk as two tables, against the same as whole rows."""

import numpy as np
import pytest

from bigrec_jax import errors
from bigrec_jax.cf import factors, item_knn, popularity, scores, sparse_factors
from bigrec_jax.config import MeshConfig
from bigrec_jax.data.prepared.catalogue import Catalogue
from bigrec_jax.devices import sharding
from bigrec_jax.rankers import cf as cf_rankers, engine
from tests.cf import worlds

ITEMS, NUMBER = 300, 60
RNG = np.random.default_rng(0)
HISTORY = RNG.integers(0, ITEMS, (NUMBER, 5))
TARGET = RNG.integers(0, ITEMS, NUMBER)
EXAMPLES = worlds.examples(
  "test", [(u, [*HISTORY[u]], TARGET[u]) for u in range(NUMBER)], 5
)
CATALOGUE = Catalogue(
  tuple(f"id{i}" for i in range(ITEMS)),
  tuple(f"Title {i}" for i in range(ITEMS)),
  np.arange(ITEMS),
)


def _source(model):
  if model == "sasrec":
    parts = (RNG.normal(size=(n, 16)) for n in (NUMBER, ITEMS))
    return factors.Factors(*(part.astype(np.float32) for part in parts))
  if model == "most_pop":
    return popularity.fit(RNG.integers(0, 40, ITEMS), NUMBER)
  pairs = np.unique(RNG.integers(0, (NUMBER, ITEMS), (2000, 2)), axis=0)
  return item_knn.fit(pairs, ITEMS, 9, 0.8).sparse(EXAMPLES.history)


@pytest.mark.parametrize("model", ["sasrec", "most_pop", "item_knn"])
def test_ranks_are_those_of_whole_rows(tmp_path, model):
  source, ranks, sizes = _source(model), {}, {}
  ranks_of = engine.Ranks(
    TARGET,
    ITEMS,
    sharding.make_mesh(MeshConfig(data=4, fsdp=2, tensor=1)),
    most_users=16,
  )
  for kind, limit in (("dense", 1e9), ("lean", 0)):
    path = tmp_path / kind / "test.npy"
    scores.write_scores(path, source, EXAMPLES, CATALOGUE, {}, limit)
    assert scores.exists(path) and path.exists() == (kind == "dense")
    found = scores.load_scores(path, EXAMPLES, CATALOGUE)
    assert found.shape == (NUMBER, ITEMS) and found.dtype == np.float32
    ranks[kind] = ranks_of(cf_rankers.of_scores(found))
    sizes[kind] = sum(f.stat().st_size for f in path.parent.glob("test.*"))
  np.testing.assert_array_equal(ranks["lean"], ranks["dense"])
  assert len(set(ranks["dense"].tolist())) > NUMBER // 2
  assert sizes["lean"] < sizes["dense"]


def test_a_sparse_row_is_the_same_bits_whatever_is_read_with_it():
  found = _source("item_knn")
  whole = found[:]
  np.testing.assert_array_equal(whole, (found.states @ found.items).toarray())
  np.testing.assert_array_equal(found[7:31], whole[7:31])
  np.testing.assert_array_equal(found[np.array([9, 2])], whole[[9, 2]])


@pytest.mark.parametrize(
  ("change", "said"),
  [
    ({"indices": np.array([ITEMS], np.int32)}, "no sparse scores"),
    ({"indptr": np.array([1, 0])}, "no sparse scores"),
    ({"data": np.array([np.nan], np.float32)}, "isn't finite"),
    ({"data": np.array([1.0])}, "float64 found"),
    ({"shape": np.array([2, ITEMS])}, "no sparse scores"),
  ],
)
def test_a_damaged_table_is_one_line(tmp_path, change, said):
  path = tmp_path / "test.states.npz"
  good = {
    "data": np.ones(1, np.float32),
    "indices": np.zeros(1, np.int32),
    "indptr": np.array([0, 1]),
    "shape": np.array([1, ITEMS]),
  }
  np.savez(path, **good)
  assert sparse_factors.load(path).nnz == 1
  np.savez(path, **good | change)
  with pytest.raises(errors.UserError, match=said):
    sparse_factors.load(path)
