"""Titles by likelihood: rows against transformers, texts, ranks, candidates."""

import contextlib
import math
import types

import numpy as np
import pytest

from bigrec_jax import config as config_lib, errors
from bigrec_jax.config import from_config_dict
from bigrec_jax.data.prepared import catalogue as catalogue_lib
from bigrec_jax.data.text import encoding, prompts
from bigrec_jax.devices import sharding
from bigrec_jax.tasks import protocol
from bigrec_jax.tasks.title_likelihood import ranking, samples, task
from bigrec_jax.testing import store, tiny_base
from bigrec_jax.workdir import parts, paths
from configs import lmrecsys

PROMPT = prompts.Prompt(
  "sentence", "Now the user may want to watch", "A user watched"
)
ROWS = 9


def make_store(root, **options):
  values = lmrecsys.get_config("tiny")
  values.task.title_likelihood.update(options)
  values.ground.cutoffs = (3, 5)
  values.ground.cf_model = ""
  config = from_config_dict(values)
  return types.SimpleNamespace(
    config=config,
    paths=paths.Paths(root),
    catalogue=store.catalogue(),
    examples=lambda split: store.examples(split, ROWS, len(split)),
    prompt=PROMPT,
    tokenizer=None,
    mesh=sharding.single_device_mesh(),
  )


def test_the_sentence_is_the_published_one():
  text = PROMPT.input_text(["Heat", "Ghost"])
  asked = PROMPT.prompt_text(PROMPT.instruction, text)
  assert asked == "A user watched Heat, Ghost. Now the user may want to watch"
  assert PROMPT.inference_text(PROMPT.instruction, text) == asked
  assert asked + PROMPT.output_text("Casino") == f"{asked} Casino."
  nothing = PROMPT.prompt_text(PROMPT.instruction, PROMPT.input_text([]))
  assert nothing == "Now the user may want to watch"


def test_a_task_that_decodes_refuses_the_sentence():
  values = lmrecsys.get_config("tiny")
  values.task.name, values.train.objective = "next_title", "language_model"
  config = from_config_dict(values)
  with pytest.raises(errors.UserError, match="'sentence' found, another"):
    from bigrec_jax.tasks import next_title

    next_title.Task(types.SimpleNamespace(config=config))


def test_equal_titles_are_one_candidate_with_the_best_score():
  titles = ("Heat", "Ghost", " Heat ", "Casino", "Ghost")
  pool = samples.Pool(
    catalogue_lib.Catalogue(tuple("abcde"), titles, np.ones(5, int))
  )
  assert [titles[row] for row in pool.rows] == ["Heat", "Ghost", "Casino"]
  assert pool.of_items(np.arange(5)).tolist() == [0, 1, 0, 2, 1]
  scores = np.array([[1, 5, 3, 2, 4], [9, 1, 3, 2, 4]])
  np.testing.assert_array_equal(pool.best(scores), [[3, 5, 2], [9, 4, 2]])


def test_scores_of_items_are_read_in_blocks(tmp_path):
  made = make_store(tmp_path)
  own = task.Task(made)
  rng, size = np.random.default_rng(4), made.config.ground.batch_size
  used = np.sort(rng.choice(3 * size, 2 * size + 1, replace=False))
  by_item = rng.random((3 * size, len(made.catalogue)))
  candidates = np.stack([rng.permutation(len(own._pool))[:5] for _ in used])
  found = own._of_titles(by_item, used, candidates)
  best = own._pool.best(by_item[used])
  np.testing.assert_array_equal(
    found, np.take_along_axis(best, candidates, axis=1)
  )


def test_rows_with_a_short_history_are_left_out_or_refused():
  examples = store.examples("valid", 30, 1)
  kept = samples.with_history(examples, 3)
  lengths = (examples.history >= 0).sum(axis=1)
  assert 0 < len(kept) == (lengths >= 3).sum() < 30
  with pytest.raises(errors.UserError, match="min_history: 6 found, but none"):
    samples.with_history(examples, 6)


def _published(ranks, k):
  """The loop of the published dcg_at_k with method 0: gains 1, 1, 1/log2 3."""
  total = 0.0
  for rank in ranks:
    hits = [float(place == rank) for place in range(k)]
    total += hits[0] + sum(
      hit / math.log2(place) for place, hit in enumerate(hits[1:], 2)
    )
  return total / len(ranks)


def test_ranks_and_metrics_equal_sorting():
  rng = np.random.default_rng(2)
  candidates = np.stack([rng.permutation(40)[:12] for _ in range(50)])
  right = candidates[np.arange(50), rng.integers(0, 12, 50)]
  scores = rng.integers(0, 5, (50, 12)).astype(np.float32)  # Many are equal.
  asked = ranking.Asked(candidates, right, np.arange(50))
  ranks = asked.ranks(scores)
  for n in range(50):
    order = sorted(range(12), key=lambda m: (-scores[n, m], candidates[n, m]))
    assert candidates[n, order[ranks[n]]] == right[n]
  config = from_config_dict(lmrecsys.get_config("tiny"))
  row = ranking.of_ranks("test", "x", ranks, config, None)
  top = [rank for rank in ranks.tolist() if rank < 20]
  assert row.metrics["recall@20"] == pytest.approx(len(top) / 50)
  mrr = sum(1 / (rank + 1) for rank in top) / 50
  assert row.metrics["mrr@20"] == pytest.approx(mrr)
  low, high = row.ci95["mrr@20"]
  assert low < mrr < high
  for k in (3, 20):
    assert ranking.published_ndcg(ranks, k) == pytest.approx(
      _published(ranks.tolist(), k)
    )


def test_a_cutoff_counts_for_mrr():
  from bigrec_jax.results import metrics

  ranks = np.array([0, 1, 4, 9])
  assert metrics.mrr(ranks, 5) == pytest.approx((1 + 1 / 2 + 1 / 5) / 4)
  low, high = metrics.ci95(ranks, "mrr", 5, 200, 0)
  assert low < metrics.mrr(ranks, 5) < high


def _means(model, prompt, titles):
  """Mean log-probabilities of titles as published: a text each."""
  import torch
  from torch.nn import functional

  found = []
  for ids in titles:
    text = torch.tensor([prompt + ids])
    with torch.no_grad():
      logits = model(text).logits[0]
    wanted = text[0, len(prompt) :]
    before = logits[len(prompt) - 1 : -1]
    found.append(-float(functional.cross_entropy(before, wanted)))
  return np.array(found)


@pytest.mark.torch
def test_rows_equal_those_of_transformers(tmp_path):
  candidates = 9
  pytest.importorskip("torch")
  from tests.peers import hugging_face

  directory = tiny_base.write(tmp_path / "base")
  made = make_store(tmp_path, zero_shot=True, candidates=candidates)
  values = made.config
  from bigrec_jax.recommend import loaded

  base_config = config_lib.Config(
    **{
      **{k: getattr(values, k) for k in vars(values)},
      "model": _with(values.model, path=str(directory)),
    }
  )
  base = loaded.Loaded(base_config, tmp_path / "run")
  made.tokenizer = base.tokenizer
  network = protocol.Network(
    base.build(None), base.base.params, base.tokenizer, base.mesh
  )
  made.config = base_config
  own = task.Task(made)
  bar = types.SimpleNamespace(update=lambda n: None, skip=lambda n: None)
  with parts.Parts(tmp_path / "parts", "work") as kept:
    rows = own.evaluate(
      protocol.Evidence(
        tuned=lambda: pytest.fail("nothing is trained"),
        untuned=lambda path: network,
        recommender=lambda: None,
        predictions=lambda split: [],
        progress=lambda *_: contextlib.nullcontext(bar),
        parts=kept,
      )
    )
  model = hugging_face.load(directory)
  titles = own._pool.tokens(base.tokenizer, PROMPT)
  (nothing,) = encoding.encode_questions(
    base.tokenizer, [("Now the user may want to watch", ())]
  )
  alone = _means(model, nothing, titles)
  source, examples = own.samples("test"), own.used("test")
  asked = own._asked["test"]
  assert asked.candidates.shape == (len(examples), candidates)
  hits = {"untuned base": 0, "untuned base, less bias": 0}
  for n in range(len(examples)):
    text = source.text(n)
    assert text.question.startswith("A user watched ")
    (prompt,) = encoding.encode_questions(base.tokenizer, [(text.question, ())])
    after = _means(model, prompt, titles)
    for name, scores in (
      ("untuned base", after),
      ("untuned base, less bias", after - alone),
    ):
      own_score = scores[examples.target[n]]
      others = scores[asked.candidates[n]]
      hits[name] += (others > own_score).sum() < 3
  for name, count in hits.items():
    (row,) = (r for r in rows if (r.split, r.system) == ("test", name))
    assert row.metrics["recall@3"] == pytest.approx(count / len(examples))
    assert row.n == len(examples)
  names = [row.system for row in rows if row.split == "valid"]
  assert names == [*hits, "untuned base, less bias by valid", "most_pop"]


def _with(section, **changes):
  import dataclasses

  return dataclasses.replace(section, **changes)
