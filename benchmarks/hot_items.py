"""Items hidden from training and added later: at what HR@10 are they found?

  python -m benchmarks.hot_items --config=configs/demo.py --json=x.json

A share of the items is taken out of the log and out of the catalogue; a system
is trained and evaluated on the rest, as on any data; then the items are added
(`data.catalogue_add`), and lists are made for the test targets of the whole
log. Those that were hidden are counted apart: with the text alone, with
popularity, with what valid chose, and with the scores of `ground.cf_model`
alone, which knows no item that came later. Histories have the newest items,
hidden ones too, which CF passes over. A hit is the target's title in the list.
"""

import argparse
import csv
import dataclasses
import importlib
import json
import os
import pathlib
import sys
from typing import Any

import numpy as np

import bigrec_jax
from benchmarks import children, scratch, serving
from bigrec_jax import config as config_lib
from bigrec_jax.cf import rows as rows_lib
from bigrec_jax.data.formats import registry
from bigrec_jax.data.prepared import doctor as doctor_lib
from bigrec_jax.rankers import shown
from bigrec_jax.recommend import cf_scorer, loaded as loaded_lib
from bigrec_jax.stages import prepare

_K = 10
_BLOCK = 256  # Histories of a call.


def _config(name: str) -> config_lib.Config:
  """Returns the configuration of `configs/<name>.py[:tiny]`."""
  path, _, variant = name.partition(":")
  module = importlib.import_module(f"configs.{pathlib.Path(path).stem}")
  return config_lib.from_config_dict(module.get_config(variant))


def split(
  config: config_lib.Config, folder: pathlib.Path, share: float, seed: int
) -> tuple[list[str], pathlib.Path]:
  """Writes the log without some items; returns their ids and the file of them.

  Args:
    config: of the whole data.
    folder: gets interactions.csv, items.csv and new.jsonl.
    share: of the items.
    seed: of the draw.
  """
  log = registry.read_log(config.data, doctor_lib.Doctor(config.data.format))
  ids, titles = list(log.titles), list(log.titles.values())
  rng = np.random.default_rng(seed)
  hidden = np.sort(rng.permutation(len(ids))[: int(share * len(ids))])
  gone = np.zeros(len(ids), bool)
  gone[hidden] = True
  with open(folder / "interactions.csv", "w", newline="") as file:
    rows = csv.writer(file)
    rows.writerow(["user", "item", "timestamp"])
    for user, item, moment in zip(
      log.user.tolist(), log.item.tolist(), log.timestamp.tolist(), strict=True
    ):
      if not gone[item]:
        rows.writerow([f"u{user}", ids[item], moment])
  with open(folder / "items.csv", "w", newline="") as file:
    rows = csv.writer(file)
    rows.writerow(["item", "title"])
    rows.writerows(
      [own, title]
      for own, title, out in zip(ids, titles, gone, strict=True)
      if not out
    )
  new = folder / "new.jsonl"
  with open(new, "w") as file:
    for item in hidden.tolist():
      row = {"external_id": ids[item], "title": titles[item]}
      file.write(json.dumps(row) + "\n")
  return [ids[item] for item in hidden.tolist()], new


def _main(*flags: str) -> None:
  children.run(
    [sys.executable, "main.py", *flags], cwd=serving.ROOT, check=True
  )


def _hits(
  recommender: bigrec_jax.Recommender,
  histories: list[list[str]],
  targets: list[str],
) -> np.ndarray:
  """Returns the place of each target's title in its list, from 0; -1 = none."""
  places = np.full(len(targets), -1)
  for start in range(0, len(targets), _BLOCK):
    part = slice(start, start + _BLOCK)
    lists = recommender(histories[part], _K)
    for n, (own, target) in enumerate(zip(lists, targets[part], strict=True)):
      titles = [item.title for item in own]
      if target in titles:
        places[start + n] = titles.index(target)
  return places


def _cf_hits(
  loaded: loaded_lib.Loaded,
  model: str,
  histories: list[list[str]],
  targets: list[str],
) -> np.ndarray:
  """Returns `_hits` of a CF model alone."""
  score, catalogue = cf_scorer.load(loaded, model), loaded.offered
  newest = loaded.config.data.max_history
  places = np.full(len(targets), -1)
  for n, (history, target) in enumerate(zip(histories, targets, strict=True)):
    items = np.full((1, newest), -1, np.int32)
    found = map(catalogue.index_of_external_id, history)
    known = [row for row in found if row is not None]
    items[0, : len(known)] = known
    scores = score(rows_lib.only_below(items, len(loaded.catalogue)))[0]
    order = np.argsort(-scores, kind="stable").astype(np.int32)
    kept = shown.of_candidates(order, catalogue.groups, items[0], None)
    titles = [catalogue.titles[row] for row in order[kept][:_K].tolist()]
    if target in titles:
      places[n] = titles.index(target)
  return places


def _rates(places: np.ndarray) -> dict[str, Any]:
  found = places >= 0
  gains = found / np.log2(np.maximum(places, 0) + 2.0)
  return {
    "targets": len(places),
    "hits": int(found.sum()),
    f"hr@{_K}": round(float(found.mean()), 4) if len(places) else None,
    f"ndcg@{_K}": round(float(gains.mean()), 4) if len(places) else None,
  }


def measure(
  arguments: argparse.Namespace, folder: pathlib.Path
) -> dict[str, Any]:
  """Returns HR and NDCG of hidden and other targets, with and without CF."""
  config = _config(arguments.config)
  folder.mkdir(parents=True, exist_ok=True)
  prepare.run(config, folder / "whole")
  hidden, new = split(config, folder, arguments.share, arguments.seed)
  workdir = folder / "workdir"
  flags = [
    f"--config={arguments.config}",
    f"--workdir={workdir}",
    "--config.data.format=csv",
    f"--config.data.interactions={folder / 'interactions.csv'}",
    f"--config.data.items={folder / 'items.csv'}",
  ]
  _main("--mode=ground_eval", *flags)
  _main(
    "--mode=embed",
    f"--workdir={workdir}",
    f"--config.data.catalogue_add={new}",
  )
  whole = loaded_lib.Loaded(config, folder / "whole")
  ids, test = whole.catalogue.external_ids, whole.examples("test")
  histories = [[ids[i] for i in row if i >= 0] for row in test.history]
  titles = [whole.catalogue.titles[item] for item in test.target]
  is_hidden = np.isin([ids[item] for item in test.target], hidden)
  found: dict[str, Any] = {
    "items": len(ids),
    "hidden_items": len(hidden),
    "systems": {},
  }

  def keep(name: str, places: np.ndarray, **about: Any) -> None:
    rates = {
      "hidden": _rates(places[is_hidden]),
      "others": _rates(places[~is_hidden]),
    }
    found["systems"][name] = about | rates
    print(name, found["systems"][name], flush=True)

  for name in ("none", "popularity", None):
    own = bigrec_jax.Recommender.load(workdir, injection=name)
    provenance = dataclasses.asdict(own.provenance)
    about = {
      key: provenance[key] for key in ("injection", "system", "cf_model")
    }
    keep(name or "auto", _hits(own, histories, titles), **about)
  if model := config.ground.injected_cf:
    places = _cf_hits(own.loaded, model, histories, titles)
    keep("cf alone", places, cf_model=model)
  # A list of ten at random among all.
  found["chance"] = round(_K / len(ids), 5)
  return found


def main() -> None:
  """Measures, prints, writes JSON."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--config", default="configs/demo.py")
  parser.add_argument("--share", type=float, default=0.1)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument(
    "--folder", type=pathlib.Path, default=pathlib.Path(".scratch/hot_items")
  )
  parser.add_argument("--json")
  arguments = parser.parse_args()
  found = measure(arguments, arguments.folder.resolve())
  print(json.dumps(found, indent=2))
  if arguments.json:
    about = {"arguments": scratch.named(arguments)}
    del about["arguments"]["folder"]
    cores = os.cpu_count() or 1
    scratch.write_json(
      arguments.json, about | scratch.surroundings(cores) | found
    )


if __name__ == "__main__":
  main()
