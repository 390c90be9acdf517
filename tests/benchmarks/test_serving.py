"""What the benchmarks of serving take apart, make up and count."""

import csv
import json

import numpy as np

from benchmarks import hot_growth, hot_items, http_client
from bigrec_jax.data.formats import registry
from bigrec_jax.data.prepared import doctor as doctor_lib


def test_hidden_items_are_in_no_file_but_their_own(tmp_path):
  config = hot_items._config("configs/demo.py:tiny")
  hidden, new = hot_items.split(config, tmp_path, 0.1, seed=0)
  log = registry.read_log(config.data, doctor_lib.Doctor("synthetic"))
  ids, titles = list(log.titles), list(log.titles.values())
  assert len(set(hidden)) == len(ids) // 10
  with open(tmp_path / "items.csv", newline="") as file:
    rows = list(csv.DictReader(file))
  told = [json.loads(line) for line in new.read_text().splitlines()]
  assert [row["external_id"] for row in told] == hidden
  both = {row["item"]: row["title"] for row in rows}
  both |= {row["external_id"]: row["title"] for row in told}
  assert len(both) == len(rows) + len(told)
  assert both == dict(zip(ids, titles, strict=True))
  with open(tmp_path / "interactions.csv", newline="") as file:
    found = [
      (row["user"], row["item"], int(row["timestamp"]))
      for row in csv.DictReader(file)
    ]
  assert found == [
    (f"u{user}", ids[item], moment)
    for user, item, moment in zip(
      log.user.tolist(), log.item.tolist(), log.timestamp.tolist(), strict=True
    )
    if ids[item] not in hidden
  ]


def test_rates_are_of_places_from_zero():
  assert hot_items._rates(np.array([0, -1, 2, -1])) == {
    "targets": 4,
    "hits": 2,
    "hr@10": 0.5,
    "ndcg@10": 0.375,  # (1 + 1/2) / 4
  }
  assert hot_items._rates(np.array([], np.int32))["hr@10"] is None


def test_made_up_titles_are_all_different():
  first, second = hot_growth.titles(0, 500), hot_growth.titles(500, 500)
  assert len({*first, *second}) == 1000
  assert first == hot_growth.titles(0, 500)


def test_percentiles_are_waits_that_were():
  waits = np.random.default_rng(0).exponential(size=137)
  found = http_client.percentiles(waits.tolist())
  expected = 1e3 * np.quantile(waits, [0.5, 0.9, 0.99], method="inverted_cdf")
  np.testing.assert_allclose(list(found.values()), expected, atol=0.0051)
