"""The peers of benchmarks.ground, each in a process of its own.

  python peer_ground.py procedure FOLDER USERS GAMMAS   published scripts' steps
  python peer_ground.py flat ITEMS WIDTH USERS K ROUNDS  FAISS IndexFlatL2

Prints one JSON object. Nothing of bigrec_jax is imported.
"""

import json
import pathlib
import resource
import sys
import time

import numpy as np

CUTOFFS = (1, 3, 5, 10, 20, 50)
_ROWS = 65536


def rows(start: int, stop: int, width: int) -> np.ndarray:
  """Made-up vectors [stop - start, width] that depend on the row only."""
  parts = []
  while start < stop:
    block, first = divmod(start, _ROWS)
    rng = np.random.default_rng(block)
    end = min(stop, (block + 1) * _ROWS)
    made = rng.standard_normal((_ROWS, width), dtype=np.float32)
    parts.append(made[first : first + end - start])
    start = end
  return np.concatenate(parts)


def queries(count: int, width: int) -> np.ndarray:
  """Made-up queries [count, width]."""
  rng = np.random.default_rng(10**9)
  return rng.standard_normal((count, width), dtype=np.float32)


def procedure(folder: pathlib.Path, users: int, gammas: int) -> dict:
  """Times the steps of adjust_ci.py (docs/protocol.md) in float32."""
  import torch

  query, items, cf = (
    torch.from_numpy(np.load(folder / f"{name}.npy", mmap_mode="r")[:size])
    for name, size in (("queries", users), ("items", None), ("cf", users))
  )
  targets = np.load(folder / "targets.npy")[:users]
  start = time.perf_counter()
  distance = torch.cdist(query, items, p=2)
  low, high = distance.min(dim=1)[0], distance.max(dim=1)[0]
  distance = (distance - low[:, None]) / (high - low)[:, None]
  low, high = cf.min(dim=1)[0], cf.max(dim=1)[0]
  weight = (cf - low[:, None]) / (high - low)[:, None]
  once = time.perf_counter() - start
  start = time.perf_counter()
  for gamma in np.linspace(0.01, 99, gammas):
    fused = torch.pow(1 + weight, -gamma) * distance
    rank = fused.argsort(dim=-1).argsort(dim=-1)
    for _ in ("ndcg", "hr"):
      for cutoff in CUTOFFS:
        total = 0.0
        for user, target in enumerate(targets):
          place = rank[user][target].item()
          if place < cutoff:
            total += 1 / np.log(place + 2)
  each = (time.perf_counter() - start) / gammas
  return {
    "once": once,
    "each_gamma": each,
    "threads": torch.get_num_threads(),
    "versions": {"torch": torch.__version__},
  }


def flat(items: int, width: int, users: int, k: int, rounds: int) -> dict:
  """Times an exact search of FAISS.

  `faiss.knn` is what IndexFlatL2.search calls, on vectors that stay where they
  are: an index copies them, and doubles its room when it is full.
  """
  import faiss

  vectors = np.empty((items, width), np.float32)
  for start in range(0, items, _ROWS):
    end = min(start + _ROWS, items)
    vectors[start:end] = rows(start, end, width)
  query = queries(users, width)
  faiss.knn(query[:1], vectors, k)
  runs = []
  for _ in range(rounds):
    wall, cpu = time.perf_counter(), time.process_time()
    _, found = faiss.knn(query, vectors, k)
    runs.append([time.perf_counter() - wall, time.process_time() - cpu])
  return {
    "seconds": runs,
    "first": found[:8].tolist(),
    "threads": faiss.omp_get_max_threads(),
    "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    "versions": {"faiss-cpu": faiss.__version__},
  }


def main() -> None:
  """Dispatches on the first argument."""
  name, *rest = sys.argv[1:]
  if name == "procedure":
    found = procedure(pathlib.Path(rest[0]), int(rest[1]), int(rest[2]))
  else:
    found = flat(*map(int, rest))
  print(json.dumps(found))


if __name__ == "__main__":
  main()
