"""Parity of ranks, gammas and tables with the published scripts."""

import contextlib
import dataclasses
import io
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks.parity_model import pair, section
from benchmarks.parity_row import Row
from bigrec_jax import config as config_lib, progress
from bigrec_jax.data.prepared import doctor
from bigrec_jax.data.text import tokenization
from bigrec_jax.devices import sharding
from bigrec_jax.rankers import evaluate
from bigrec_jax.stages import ground_eval, prepare
from configs import game, movie
from tests.data import raw
from tests.peers import grounding_scripts as scripts, hugging_face
from tests.rankers import published

_PEER = "published scripts in torch, float32"
_SEEDS = (0, 1, 2)
_WORLD = dict(num_items=601, users=(83, 97))


@dataclasses.dataclass(frozen=True)
class _Case:
  """One script on one data set.

  Attributes:
    kind: "movie" or "game": which title file's rule.
    injection: as in the configuration.
    grid: name of the gammas.
    hr_by_ndcg: adjust_pda.py's choice.
  """

  kind: str
  injection: str
  grid: str
  hr_by_ndcg: bool = False

  @property
  def name(self) -> str:
    """The script, for the table."""
    file = "adjust_ci" if self.injection == "cf" else "adjust_pda"
    odd = ", right" if file == "adjust_pda" and not self.hr_by_ndcg else ""
    return f"{self.kind}/{file}{odd}"


_CASES = (
  _Case("movie", "cf", "movie_ci"),
  _Case("movie", "popularity", "movie_pda", hr_by_ndcg=True),
  _Case("movie", "popularity", "movie_pda"),
  _Case("game", "cf", "game_ci"),
)
_DUPLICATES = {"movie": "last", "game": "best"}


class _Differences:
  """Sums up what differs over several tables."""

  def __init__(self):
    self._gammas = self._wrong = self._metrics = 0
    self._largest = 0.0

  def metrics(self, ours: dict[str, Any], theirs: scripts.Table) -> None:
    """Takes a result row and the table it should be."""
    for name, part in theirs.items():
      for k, value in part.items():
        self._metrics += 1
        self._largest = max(self._largest, abs(ours[name][k] - value))

  def gammas(self, ours: dict[str, Any], theirs: scripts.Table) -> None:
    """Takes the gammas of a result row."""
    for name, part in theirs.items():
      for k, gamma in part.items():
        self._gammas += 1
        self._wrong += ours[name][k] != gamma

  def rows(self, what: str) -> Iterator[Row]:
    """Yields the rows of the table."""
    if self._gammas:
      yield Row(f"{what}: gammas", _PEER, self._gammas, self._wrong, 0)
    # Sums of the same numbers in the same order.
    yield Row(f"{what}: metrics", _PEER, self._metrics, self._largest, 1e-12)


def _rows(found: evaluate.Evaluation) -> list[dict[str, Any]]:
  return [row.to_json() for row in found.results]


def _find(results: list[dict[str, Any]], split: str, injection: str) -> Any:
  return next(
    row
    for row in results
    if (row["split"], row["injection"], row["protocol"])
    == (split, injection, "bigrec")
  )


def ground(root: pathlib.Path) -> Iterator[Row]:
  """Compares ranks and tables of random vectors of norm 1 to 200."""
  del root
  for kind, duplicates in _DUPLICATES.items():
    cases = wrong = 0
    differences = _Differences()
    for seed in _SEEDS:
      world = published.world(seed, duplicates=duplicates, **_WORLD)
      found = _evaluate(world, injections=("none",))
      items = torch.from_numpy(world["items"])
      for name in ("valid", "test"):
        theirs = scripts.plain_ranks(_split(world, name, kind), items)
        cases += len(theirs)
        wrong += np.count_nonzero(found.ranks[name]["none"] != theirs)
        row = _find(_rows(found), name, "none")
        differences.metrics(row, scripts.metrics(theirs))
    yield Row(f"{kind}/evaluate: ranks", _PEER, cases, int(wrong), 0)
    yield from differences.rows(f"{kind}/evaluate")
  for case in _CASES:
    differences = _Differences()
    for seed in _SEEDS:
      _compare(case, seed, differences)
    yield from differences.rows(case.name)


def _compare(case: _Case, seed: int, differences: _Differences) -> None:
  """Chooses gammas and reports on one world."""
  duplicates = _DUPLICATES[case.kind]
  world = published.world(seed, duplicates=duplicates, **_WORLD)
  found = _evaluate(
    world,
    injections=(case.injection,),
    gamma_grid=case.grid,
    protocol_quirks=case.hr_by_ndcg,
  )
  counts = None
  if case.injection == "popularity":
    counts = torch.from_numpy(world["popularity"].astype(np.float32))
  gammas, metrics = scripts.adjust(
    _split(world, "valid", case.kind),
    _split(world, "test", case.kind),
    torch.from_numpy(world["items"]),
    scripts.GRIDS[case.grid],
    popularity=counts,
    hr_by_ndcg=case.hr_by_ndcg,
  )
  row = _find(_rows(found), "test", case.injection)
  differences.gammas(row["gamma"], gammas)
  differences.metrics(row, metrics)


def _split(world: dict[str, Any], name: str, kind: str) -> scripts.Split:
  part, titles = world[name], world["titles"]
  return scripts.Split(
    torch.from_numpy(part["queries"]),
    scripts.accepted(titles, [titles[n] for n in part["targets"]], kind),
    torch.from_numpy(part["cf"]),
  )


def _evaluate(world: dict[str, Any], **changes: Any) -> evaluate.Evaluation:
  config = dataclasses.replace(
    section().ground,
    duplicates=world["duplicates"],
    protocols=("bigrec",),
    bootstrap_samples=1,
    **changes,
  )
  splits = {
    name: evaluate.Split(
      world[name]["queries"], world[name]["targets"], world[name]["cf"], "cf"
    )
    for name in ("valid", "test")
  }
  return evaluate.evaluate(
    splits,
    world["items"],
    published.groups(world["titles"]),
    world["popularity"],
    config,
    sharding.make_mesh(section().mesh),
    seed=0,
    progress=progress.NullProgress(),
  )


def files(root: pathlib.Path) -> Iterator[Row]:
  """Compares tables made from the same files, from raw data on.

  Raw files are prepared, the five JSON files exported, predictions made up;
  then each side embeds, ranks and chooses gammas on its own.
  """
  for case in (_CASES[0], _CASES[1], _CASES[3]):
    differences = _Differences()
    _from_files(case, root / case.name.replace("/", "-"), differences)
    yield from differences.rows(f"files to tables, {case.name}")


_NUM_ITEMS = 331


def _from_files(
  case: _Case, folder: pathlib.Path, differences: _Differences
) -> None:
  """Runs both sides on the files of one folder."""
  folder.mkdir(parents=True)
  titles = _write_raw(folder / "raw", case.kind)
  tokenization.train_bpe(titles, 307, folder / "base")
  both = pair(folder / "base", "LLaMA", seed=7)
  config = _config(case, folder)
  with contextlib.redirect_stdout(io.StringIO()):
    prepare.run(config, folder / "run")
  counts = _write_inputs(folder, titles)
  with contextlib.redirect_stdout(io.StringIO()):
    ground_eval.run(config, folder / "run")
  result = json.loads(
    (folder / "run" / "metrics" / "ground_eval.json").read_text()
  )
  splits, items = _read_published(case, folder, both.theirs)
  for name, split in splits.items():
    row = _find(result["results"], name, "none")
    ranks = scripts.plain_ranks(split, items)
    differences.metrics(row, scripts.metrics(ranks))
  gammas, metrics = scripts.adjust(
    splits["valid"],
    splits["test"],
    items,
    scripts.GRIDS[case.grid],
    popularity=counts if case.injection == "popularity" else None,
    hr_by_ndcg=case.hr_by_ndcg,
  )
  row = _find(result["results"], "test", case.injection)
  differences.gammas(row["gamma"], gammas)
  differences.metrics(row, metrics)


def _titles() -> list[str]:
  """Returns odd and plain titles, some twice.

  None has a blank or a quote at an end, which the published scripts strip in
  four ways (quirk 17), or is what pandas takes for a missing value (35).
  """
  odd = [
    title
    for title in raw.titles(len(raw.ODD_TITLES))
    if title.strip(' "') == title and title not in doctor.MISSING
  ]
  rng = np.random.default_rng(11)
  words = "Red Blue Iron Moon Star Quest Saga Racer Puzzle City".split()
  plain = [
    f"{' '.join(rng.choice(words, 3))} {n}" for n in range(_NUM_ITEMS - 40)
  ]
  titles = [*odd, *plain]
  return [*titles, *titles[: _NUM_ITEMS - len(titles)]]


def _write_raw(folder: pathlib.Path, kind: str) -> list[str]:
  """Writes raw files and the scripts' title file; returns titles by id."""
  folder.mkdir()
  titles = _titles()
  rng = np.random.default_rng(12)
  ratings, reviews = [], []
  for user in range(90):
    for _ in range(rng.integers(12, 30)):
      item, time = rng.integers(_NUM_ITEMS), int(rng.integers(9e8, 1e9))
      ratings.append(f"{user}::{item}::3::{time}\n")
      review = {"reviewerID": f"A{user}", "asin": str(item), "overall": 3.0}
      reviews.append(json.dumps(review | {"unixReviewTime": time}) + "\n")
  if kind == "movie":
    lines = [f"{item}::{title}::Drama\n" for item, title in enumerate(titles)]
    (folder / "movies.dat").write_text("".join(lines), "utf-8")
    (folder / "ratings.dat").write_text("".join(ratings))
    return scripts.movie_titles(folder / "movies.dat")
  lines = [f"{title}\t{item}\n" for item, title in enumerate(titles)]
  (folder / "id2name.txt").write_text("".join(lines), "utf-8")
  (folder / "Video_Games_5.json").write_text("".join(reviews))
  return titles


def _config(case: _Case, folder: pathlib.Path) -> config_lib.Config:
  """Returns the options that reproduce the published scripts."""
  tree = (movie if case.kind == "movie" else game).get_config()
  tree.model.path = str(folder / "base")
  tree.data.raw_dir = str(folder / "raw")
  tree.data.export_json = True
  tree.data.encoding = "iso-8859-1"
  if case.kind == "game":
    tree.data.catalogue = str(folder / "raw" / "id2name.txt")
    tree.data.encoding = "utf-8"
  tree.prompt.style = "bigrec"
  tree.ground.gamma_grid = case.grid
  tree.ground.injections = ("none", case.injection)
  tree.ground.protocol_quirks = case.hr_by_ndcg
  tree.ground.popularity = str(folder / "popularity.json")
  tree.ground.bootstrap_samples = 1
  for split in ("valid", "test"):
    tree.ground.predictions[split] = str(folder / f"{split}.json")
    tree.ground.cf_scores[split] = str(folder / f"cf-{split}.npy")
  return config_lib.from_config_dict(tree)


def _write_inputs(folder: pathlib.Path, titles: Sequence[str]) -> torch.Tensor:
  """Writes predictions, CF scores and popularity; returns the counts."""
  rng = np.random.default_rng(13)
  counts = rng.zipf(1.4, len(titles)).clip(0, 5000)
  counts[::9] = 0  # Ids that the file lacks count nothing.
  popularity = {str(n): int(c) for n, c in enumerate(counts) if c}
  (folder / "popularity.json").write_text(json.dumps(popularity))
  for split in ("valid", "test"):
    rows = json.loads((folder / "run" / f"{split}_5000.json").read_text())
    for row in rows:
      guess = row["output"] if rng.random() < 0.3 else rng.choice(titles)
      if rng.random() < 0.4:
        guess = f'"{guess.strip(chr(34))[:-2]} {rng.integers(50)}"'
      row["predict"] = [guess, '"another"']
    (folder / f"{split}.json").write_text(json.dumps(rows, indent=4))
    scores = rng.standard_normal((len(rows), len(titles)))
    scores += np.log1p(counts)
    np.save(folder / f"cf-{split}.npy", scores.astype(np.float32))
  return torch.from_numpy(counts.astype(np.float32))


def _read_published(
  case: _Case, folder: pathlib.Path, model: torch.nn.Module
) -> tuple[dict[str, scripts.Split], torch.Tensor]:
  """Reads and embeds what the scripts read, as they do."""
  if case.kind == "movie":
    titles = scripts.movie_titles(folder / "raw" / "movies.dat")
  else:
    titles = scripts.game_titles(folder / "raw" / "id2name.txt")
  read = {
    name: scripts.read_predictions(folder / f"{name}.json")
    for name in ("valid", "test")
  }
  every = [*titles, *(text for texts, _ in read.values() for text in texts)]
  # Each text once: else rounding that depends on the batch orders duplicates.
  row_of = {text: row for row, text in enumerate(dict.fromkeys(every))}
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "base")
  vectors = torch.from_numpy(
    hugging_face.last_states(model, [tokenizer.encode(t) for t in row_of], 16)
  )
  splits = {
    name: scripts.Split(
      vectors[[row_of[text] for text in texts]],
      scripts.accepted(titles, targets, case.kind),
      torch.from_numpy(np.load(folder / f"cf-{name}.npy")),
    )
    for name, (texts, targets) in read.items()
  }
  return splits, vectors[[row_of[title] for title in titles]]
