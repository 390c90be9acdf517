"""The cells of the page that are not there yet, as commands."""

import pathlib
from collections.abc import Iterator

from benchmarks.quality import cells, cf_cells, datasets, lm_cells

LM_SEEDS = (0, 1, 2)
MORE_ROWS = 5000


def commands(folder: pathlib.Path) -> Iterator[str]:
  """Yields the arguments of each command that has something to make.

  In an order that works: what is injected or read comes first.

  Args:
    folder: of the results.
  """
  for data in datasets.DATA:
    if not (folder / data / cells.USERS).exists():
      yield f"users --data={data}"
    for line, wanted in _of(data):
      if not all(name.path(folder).exists() for name in wanted):
        yield line


def _of(data: str) -> Iterator[tuple[str, list[cells.Name]]]:
  """Yields (arguments, cells that they make) of a data set."""

  def name(system: str, rows: int, seed: int) -> cells.Name:
    return cells.Name(data, system, rows, seed)

  few, every = cf_cells.FEW, cf_cells.ALL
  counted = [name("random", 0, 0), name("bm25", 0, 0)]
  for model in cf_cells.COUNTED:
    counted += [name(model, few, seed) for seed in cf_cells.SEEDS]
    counted.append(name(model, every, 0))
  yield f"counted --data={data}", counted
  for rows in (few, every):
    for system in cf_cells.NETWORKS:
      line = f"cf --data={data} --rows={rows} --system={system}"
      yield line, [name(system, rows, seed) for seed in cf_cells.SEEDS]

  def lm(system: str, rows: int, seed: int) -> tuple[str, list[cells.Name]]:
    line = f"lm --data={data} --rows={rows} --seed={seed} --system={system}"
    return line, [name(system, rows, seed)]

  base = lm_cells.MODEL
  for own in lm_cells.TRIES:
    yield lm(f"{base}-{own}", few, 0)
  yield lm(f"{base}-contamination", 0, 0)
  for seed in LM_SEEDS:
    for own in ("", "-minilm", "-minilm-item_knn", "-likelihood"):
      yield lm(base + own, few, seed)
    yield lm(f"{base}-constrained", few, seed)
  for rows in (0, MORE_ROWS):
    for system in (base, f"{base}-minilm"):
      yield lm(system, rows, 0)
