"""Rows of GPT4Rec and of others against lists made by plain sorting."""

import contextlib
import dataclasses

import jax
import numpy as np
import pytest

from bigrec_jax import config as config_lib, progress
from bigrec_jax.data.prepared.catalogue import Catalogue
from bigrec_jax.rankers import bm25
from bigrec_jax.results import list_metrics
from bigrec_jax.tasks.query import evaluation
from configs import gpt4rec

CUTOFFS = (1, 4, 6)
ITEMS = 50


@pytest.fixture(scope="module")
def world():
  """Returns catalogue, splits and configuration of a made-up store."""
  rng = np.random.default_rng(2)
  words = [f"w{n}" for n in range(25)]
  titles = [
    " ".join(rng.choice(words, size=rng.integers(1, 5))) for _ in range(ITEMS)
  ]
  titles[30:33] = [titles[3]] * 3
  catalogue = Catalogue(
    tuple(map(str, range(ITEMS))), tuple(titles), rng.integers(0, 9, ITEMS)
  )
  splits = {}
  for name, users in (("valid", 21), ("test", 17)):
    targets = rng.integers(0, ITEMS, users).astype(np.int32)
    queries = []
    for target in targets:
      # The first query is off; some of the others are of the target's words.
      own = [" ".join(rng.choice(words, size=3)) for _ in range(3)]
      own[int(rng.integers(1, 3))] = titles[target]
      queries.append(own)
    splits[name] = evaluation.Split(
      queries,
      rng.integers(-1, ITEMS, (users, 4)).astype(np.int32),
      targets,
      rng.normal(size=(users, ITEMS)).astype(np.float32),
    )
  values = gpt4rec.get_config("tiny")
  values.ground.cutoffs = CUTOFFS
  values.ground.batch_size = 8
  values.bm25.k1, values.bm25.b = (0.3, 3.0), (0.0, 1.0)
  return catalogue, splits, config_lib.from_config_dict(values)


def _judge(world, shape):
  catalogue, splits, config = world
  mesh = jax.make_mesh(
    shape,
    ("data", "fsdp", "tensor"),
    axis_types=(jax.sharding.AxisType.Auto,) * 3,
    devices=jax.devices()[: np.prod(shape)],
  )

  @contextlib.contextmanager
  def quiet(name, total, unit):
    yield progress.NullProgress()

  return evaluation.Judge(catalogue, config, mesh).rows(splits, quiet)


def _distinct(scores, groups, k):
  """Returns the first k titles of each row by a stable sort."""
  lists = []
  for row in scores:
    order = groups[np.argsort(-row, kind="stable")].tolist()
    lists.append(list(dict.fromkeys(order))[:k])
  return np.array(lists)


def _by_queries(index, terms, groups, split, most, k):
  """Returns lists of k from the first `most` queries of each user."""
  lists = np.full((len(split.queries), k), -1)
  for own, queries in zip(lists, split.queries, strict=True):
    queries = queries[:most]
    scores = index.scores(terms.counts(queries))
    taken, owed, rest = [], 0, []
    for n, row in enumerate(scores):
      owed += k // len(queries) + (n < k % len(queries))
      for item in np.argsort(-row, kind="stable").tolist():
        if row[item] > 0 and groups[item] not in taken:
          if owed:
            taken.append(groups[item])
            owed -= 1
          else:
            rest.append(groups[item])
    for item in rest:
      if owed and item not in taken:
        taken.append(item)
        owed -= 1
    own[: len(taken)] = taken
  return lists


def _figures(lists, split, groups, tokens):
  """Returns the metrics of lists [N, k], each worked out by itself."""
  k = lists.shape[1]
  ranks = []
  for own, target in zip(lists.tolist(), split.targets, strict=True):
    ranks.append(own.index(groups[target]) if groups[target] in own else k)
  ranks = np.array(ranks)
  figures = {
    f"recall@{k}": np.mean(ranks < k),
    f"ndcg@{k}": np.mean(np.where(ranks < k, 1 / np.log2(ranks + 2.0), 0)),
    f"coverage@{k}": np.nanmean(
      list_metrics.coverage(lists, split.history, tokens)
    ),
  }
  if k > 1:
    figures[f"diversity@{k}"] = np.nanmean(
      list_metrics.diversity(lists, tokens)
    )
  return figures


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 2)])
def test_rows_are_those_of_sorted_lists(world, shape):
  catalogue, splits, config = world
  groups, terms = catalogue.groups, bm25.Terms(catalogue.titles)
  tokens = terms.presence()
  found = {(row.split, row.system): row for row in _judge(world, shape)}
  systems = ("gpt4rec", "gpt4rec, one query", "bm25", "most_pop", "sasrec")
  assert list(found) == [(s, n) for s in ("valid", "test") for n in systems]
  for (name, system), row in found.items():
    split, want = splits[name], {}
    pair = {key: row.metrics[key] for key in ("k1", "b") if key in row.metrics}
    assert bool(pair) == (system not in ("most_pop", "sasrec"))
    # One pair for both splits.
    assert all(found["valid", system].metrics[key] == pair[key] for key in pair)
    for k in CUTOFFS:
      if system == "most_pop":
        popular = np.tile(catalogue.popularity, (len(split.targets), 1))
        lists = _distinct(popular, groups, k)
      elif system == "sasrec":
        lists = _distinct(split.cf_scores, groups, k)
      else:
        index = bm25.Index(terms, bm25.Settings(**pair))
        if system == "bm25":
          scores = index.scores(terms.history_counts(split.history))
          lists = _distinct(scores, groups, k)
        else:
          most = 1 if "one" in system else None
          lists = _by_queries(index, terms, groups, split, most, k)
      want |= _figures(lists, split, groups, tokens)
    assert row.metrics == pytest.approx(want | pair)
    assert row.n == len(split.targets) and row.seeds == [config.seed]
    assert row.ci95.keys() == want.keys()
    for metric, (low, high) in row.ci95.items():
      assert low - 1e-12 <= row.metrics[metric] <= high + 1e-12


def test_parameters_are_those_that_valid_likes_best(world):
  catalogue, splits, config = world
  terms, gains = bm25.Terms(catalogue.titles), {}
  for k1 in config.bm25.k1:
    for b in config.bm25.b:
      index = bm25.Index(terms, bm25.Settings(k1, b))
      lists = _by_queries(
        index, terms, catalogue.groups, splits["valid"], None, 20
      )
      figures = _figures(
        lists, splits["valid"], catalogue.groups, terms.presence()
      )
      gains[k1, b] = figures["ndcg@20"]
  assert len(set(gains.values())) > 1
  row = _judge(world, (1, 1, 1))[0]
  assert (row.metrics["k1"], row.metrics["b"]) == max(gains, key=gains.get)


def test_one_query_and_no_cf_leave_their_rows_out(world):
  catalogue, splits, config = world
  splits = {
    name: dataclasses.replace(
      split, queries=[own[:1] for own in split.queries], cf_scores=None
    )
    for name, split in splits.items()
  }
  found = _judge((catalogue, splits, config), (1, 1, 1))
  assert [row.system for row in found[:3]] == ["gpt4rec", "bm25", "most_pop"]
  assert len(found) == 6
