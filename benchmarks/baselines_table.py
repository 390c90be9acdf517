"""Prints the tables of docs/baselines.md from what benchmarks.baselines wrote.

  python -m benchmarks.baselines_table [benchmarks/results/baselines]

One table a data set, one row for each model and its settings: the published
numbers, then ours as mean ± standard deviation over the seeds that were run.
"""

import argparse
import collections
import json
import pathlib
import statistics

_RESULTS = pathlib.Path(__file__).parent / "results" / "baselines"
_SHOWN = (("hr", "10"), ("ndcg", "10"), ("hr", "20"), ("ndcg", "20"))
_NAMES = {"hr": "HR", "ndcg": "NDCG"}
# HR@10, NDCG@10, HR@20, NDCG@20. Beauty and Toys: the full-ranking table of
# RUCAIBox/CIKM2020-S3Rec; Game: DLLM2Rec (its re-run of DROS's code, chosen on
# the test split). docs/baselines.md.
PUBLISHED = {
  ("beauty", "leaky_pop"): (0.0152, 0.0068, 0.0217, 0.0084),
  ("beauty", "gru4rec"): (0.0283, 0.0137, 0.0479, 0.0187),
  ("beauty", "caser"): (0.0347, 0.0176, 0.0556, 0.0229),
  ("beauty", "sasrec"): (0.0605, 0.0318, 0.0902, 0.0394),
  ("toys", "leaky_pop"): (0.0113, 0.0061, 0.0163, 0.0073),
  ("toys", "gru4rec"): (0.0176, 0.0084, 0.0301, 0.0116),
  ("toys", "caser"): (0.0270, 0.0141, 0.0420, 0.0179),
  ("toys", "sasrec"): (0.0675, 0.0374, 0.0941, 0.0441),
  ("game", "gru4rec"): (None, None, 0.0305, 0.0150),
  ("game", "sasrec"): (None, None, 0.0346, 0.0190),
  ("game", "dros"): (None, None, 0.0473, 0.0267),
}
_TITLES = {
  "beauty": "Beauty, leave-one-out",
  "toys": "Toys, leave-one-out",
  "game": "Game, chronological",
  "toys_chronological": "Toys, chronological",
  "movielens_small": "MovieLens latest-small, chronological",
}
_MODELS = ("leaky_pop", "most_pop", "item_knn", "gru4rec", "caser", "sasrec")
_ORDER = (*_MODELS, "dros")
# Settings that say how long a run may go on, or what every row of a table has.
_UNSHOWN = ("num_epochs", "stop_cutoff", "num_seeds", "mask_seen")
_USUAL = "patience=10"
# What RUCAIBox/CIKM2020-S3Rec trains with: shown as one word.
_S3REC = {
  "family=s3rec",
  "num_layers=2",
  "num_heads=2",
  "dropout=0.5",
  "weight_decay=0.0",
}


def settings(result: dict) -> str:
  """Returns the settings that a row is told apart by."""
  shown = [
    c
    for c in result["changes"]
    if c.split("=")[0] not in _UNSHOWN and c != _USUAL
  ]
  if set(shown) >= _S3REC:
    shown = ["S3-Rec's", *(c for c in shown if c not in _S3REC)]
  if result["num_train"] != -1:
    shown.append(f"num_train={result['num_train']}")
  if result.get("choose_on", "valid") != "valid":
    shown.append(f"epoch chosen on {result['choose_on']}")
  return ", ".join(shown) or "defaults"


def _across(values: list[float], digits: int) -> str:
  mean = f"{statistics.mean(values):.{digits}f}".removeprefix("0")
  if len(values) == 1:
    return mean
  spread = f"{statistics.stdev(values):.{digits}f}".removeprefix("0")
  return f"{mean} ± {spread}"


def _paper(result: dict) -> list[str]:
  """Returns the published cells; SASRec's only beside the published loss."""
  key = (result["data"], result["model"])
  other = any(c.startswith(("loss=", "dro=")) for c in result["changes"])
  if key not in PUBLISHED or other or result["num_train"] != -1:
    return ["" for _ in _SHOWN]
  return [
    "" if x is None else f"{x:.4f}".removeprefix("0") for x in PUBLISHED[key]
  ]


def _row(runs: list[dict]) -> list[str]:
  first = runs[0]
  cells = [first["model"], settings(first), str(len(runs))]
  for (metric, cutoff), paper in zip(_SHOWN, _paper(first), strict=True):
    ours = _across([run[f"test_{metric}"][cutoff] for run in runs], 4)
    cells += [paper, ours]
  if "epochs" not in first:
    return [*cells, "", "", f"{first['seconds_total']:.0f}"]
  epoch = statistics.median(run["seconds_per_epoch"] for run in runs)
  evaluation = statistics.median(run["eval_seconds"] for run in runs)
  epochs = "/".join(str(run["epochs"]) for run in runs)
  total = statistics.mean(run["seconds_this_process"] for run in runs)
  return [*cells, epochs, f"{epoch:.1f} + {evaluation:.1f}", f"{total:.0f}"]


def tables(folder: pathlib.Path) -> dict[str, str]:
  """Returns a table of each data set of which there are results."""
  found = collections.defaultdict(lambda: collections.defaultdict(list))
  for path in sorted(folder.glob("*.json")):
    result = json.loads(path.read_text(encoding="utf-8"))
    key = (_ORDER.index(result["model"]), settings(result))
    found[result["data"]][key].append(result)
  headers = ["model", "settings", "seeds"]
  for metric, cutoff in _SHOWN:
    name = f"{_NAMES[metric]}@{cutoff}"
    headers += [f"{name} paper", "ours"]
  headers += ["epochs", "s / epoch + valid", "s in all"]
  return {
    data: _markdown(
      [headers, *(_row(found[data][key]) for key in sorted(found[data]))]
    )
    for data in _TITLES
    if data in found
  }


def _markdown(rows: list[list[str]]) -> str:
  lines = ["| " + " | ".join(row) + " |" for row in rows]
  lines.insert(1, "|---" * len(rows[0]) + "|")
  return "\n".join(lines)


def main() -> None:
  """Prints every table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("folder", nargs="?", type=pathlib.Path, default=_RESULTS)
  for data, text in tables(parser.parse_args().folder).items():
    print(f"## {_TITLES[data]}\n\n{text}\n")


if __name__ == "__main__":
  main()
