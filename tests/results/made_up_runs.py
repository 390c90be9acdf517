"""Evaluated workdirs with made-up ranks, for tests of the report."""

import numpy as np

from bigrec_jax import config as config_lib
from bigrec_jax.results import metrics
from bigrec_jax.workdir import paths as paths_lib, settings, storage
from configs import common

CUTOFFS = (1, 10, 20)
USERS = 120
BEST = {"cf": 25, "most_pop": 60, "bm25": 40}


def evaluated(root, seed, fused=14):
  """An evaluation with made-up ranks, and nothing else."""
  paths, rng = paths_lib.Paths(root), np.random.default_rng(seed)
  arrays = {
    split: {
      "none": rng.integers(0, 50, USERS),
      "popularity": rng.integers(0, 45, USERS),
      "calibrated fusion": rng.integers(0, fused, USERS),
      **{f"baseline:{n}": rng.integers(0, k, USERS) for n, k in BEST.items()},
    }
    for split in ("valid", "test")
  }
  results, baselines, systems = [], [], []
  for split, own in arrays.items():
    measured = {
      name: {
        "split": split,
        **metrics.summarise(ranks, CUTOFFS),
        "ci95": metrics.summarise_ci95(ranks, CUTOFFS, 50, 0),
      }
      for name, ranks in own.items()
    }
    plain = {"injection": "none", "protocol": "bigrec", "gamma": None}
    results.append(measured["none"] | plain)
    baselines += [{"name": n} | measured[f"baseline:{n}"] for n in BEST]
    name = "calibrated fusion"
    systems.append({"name": name} | measured[name])
    if split == "test":
      by_k = {m: {str(k): 2.0 for k in CUTOFFS} for m in ("ndcg", "hr")}
      for protocol, gamma in (("bigrec", by_k), ("single_gamma", 2.0)):
        named = {"injection": "popularity", "protocol": protocol}
        results.append(measured["popularity"] | named | {"gamma": gamma})
  valid = metrics.summarise(arrays["valid"]["popularity"], CUTOFFS)
  curve = {m: {k: [v] for k, v in own.items()} for m, own in valid.items()}
  content = {
    "num_items": 60,
    "num_examples": {"valid": USERS, "test": USERS},
    "fingerprints": {"catalogue": "c", "examples": {"test": "t"}},
    "results": results,
    "baselines": baselines,
    "gamma_curves": {"popularity": {"gamma": [2.0], **curve}},
    "systems": systems,
    "fitted": {"calibrated fusion": {}},
  }
  storage.write_json(paths.ground_eval, content)
  paths.ranks.mkdir(parents=True, exist_ok=True)
  np.savez(paths.ranks / "test.npz", **arrays["test"])
  tree = common.get_config()
  tree.seed = seed
  own = config_lib.from_config_dict(tree)
  settings.remember(paths, own, "common", {})
  return arrays["test"]
