"""HR and NDCG of beams against the loops of the published calc.py."""

import contextlib
import math
import types

import numpy as np
import pytest

from bigrec_jax import config as config_lib
from bigrec_jax.data.prepared import catalogue as catalogue_lib
from bigrec_jax.data.prepared.examples import Examples
from bigrec_jax.data.text import prompts
from bigrec_jax.devices import sharding
from bigrec_jax.tasks import exact_title
from bigrec_jax.workdir import parts, paths
from configs import d3

ITEMS, USERS, CUTOFFS = 40, 60, (1, 3, 5, 10)


def _store(root, **generate):
  values = d3.get_config("tiny")
  values.generate.num_beams = 6
  values.generate.update(generate)
  config = config_lib.from_config_dict(values)
  rng = np.random.default_rng(4)
  titles = [f"Title {n}: of many" for n in range(ITEMS)]
  titles[7] = titles[3]
  catalogue = catalogue_lib.Catalogue(
    tuple(map(str, range(ITEMS))), tuple(titles), rng.integers(0, 99, ITEMS)
  )

  def examples(split):
    draw = np.random.default_rng(len(split))
    numbers = np.arange(USERS)
    history = draw.integers(0, ITEMS, (USERS, 4)).astype(np.int32)
    target = draw.integers(0, ITEMS, USERS).astype(np.int32)
    return Examples(split, numbers, history, target, numbers, numbers)

  return types.SimpleNamespace(
    config=config,
    paths=paths.Paths(root),
    catalogue=catalogue,
    examples=examples,
    mesh=sharding.single_device_mesh(),
    prompt=prompts.Prompt.from_config(config.prompt),
  )


def _predictions(store, split, seed):
  """Beams with quotes and line feeds; the target is among some of them."""
  rng = np.random.default_rng(seed)
  titles = store.catalogue.titles
  found = []
  for target in store.examples(split).target:
    beams = [titles[n] for n in rng.choice(ITEMS, 6, replace=False)]
    if rng.random() < 0.5:
      beams[int(rng.integers(6))] = titles[target]
    beams = list(dict.fromkeys(beams))
    if rng.random() < 0.3:
      beams[0] = "No title at all"
    found.append({"predict": [f'"{title}"\n' for title in beams]})
  return found


def _calc(predictions, targets, k):
  """The published loops: last equal beam, natural logarithms, then a ratio."""
  ndcg = hits = 0.0
  for row, target in zip(predictions, targets, strict=True):
    sample = [t.strip(" \n").strip('"').strip(" ") for t in row["predict"]]
    place = 1000000
    for n, title in enumerate(sample):
      if title == target:
        place = n
    if place < k:
      ndcg += 1 / math.log(place + 2)
      hits += 1
  count = len(predictions)
  return hits / count, ndcg / count / (1.0 / math.log(2))


@pytest.mark.parametrize("prior", [True, False])
def test_rows_equal_the_published_loops(tmp_path, prior):
  weight = {"prior_weight": 0.25} if prior else {"prior_weight": 0.0}
  store = _store(tmp_path, **weight)
  written = {s: _predictions(store, s, len(s)) for s in ("valid", "test")}
  progress = types.SimpleNamespace(update=lambda n: None)
  evidence = types.SimpleNamespace(
    predictions=lambda split: written[split],
    progress=lambda *_: contextlib.nullcontext(progress),
    parts=parts.at_once,
  )
  rows = exact_title.Task(store).evaluate(evidence)
  name = "beams + sasrec" if prior else "beams"
  # Nothing was trained here, so there is no row of a CF model.
  assert [(row.split, row.system) for row in rows] == [
    (split, system) for split in written for system in (name, "most_pop")
  ]
  for row in rows:
    examples = store.examples(row.split)
    titles = [store.catalogue.titles[n] for n in examples.target]
    own = written[row.split]
    if row.system == "most_pop":
      order = np.argsort(-store.catalogue.popularity, kind="stable")
      listed = dict.fromkeys(store.catalogue.titles[n] for n in order)
      own = [{"predict": list(listed)[:10]}] * USERS
    for k in CUTOFFS:
      hr, ndcg = _calc(own, titles, k)
      assert row.metrics[f"hr@{k}"] == pytest.approx(hr)
      assert row.metrics[f"ndcg@{k}"] == pytest.approx(ndcg)
      low, high = row.ci95[f"hr@{k}"]
      assert low <= row.metrics[f"hr@{k}"] <= high
    assert row.n == USERS and row.seeds == [0]
  assert rows[0].metrics["hr@5"] > rows[0].metrics["hr@1"] > 0
  assert 0 < rows[0].metrics["titles"] < 1
  assert rows[0].metrics.get("prior_weight") == (0.25 if prior else None)


def test_items_of_one_title_have_one_answer(tmp_path):
  task = exact_title.Task(_store(tmp_path))
  answers, of_items = task.legal_answers(), task.answers_of_items()
  titles = task.store.catalogue.titles
  assert len(answers) == ITEMS - 1
  assert [answers[n] for n in of_items] == [f'"{t}"\n' for t in titles]
  assert of_items[7] == of_items[3]
