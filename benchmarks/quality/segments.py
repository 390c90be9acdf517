"""Which rows are whose, and of which kind by train rows.

Target: cold (in no train row), popular (among the tenth of the catalogue that
most train interactions are of), seen (the others). Transition: memorised where
some train row goes straight from the user's last item to the target. History:
its length. All train rows count, whatever a model has seen.
"""

from typing import Any

import numpy as np

from benchmarks import scratch
from benchmarks.quality import cells, product
from bigrec_jax.data.prepared import examples as examples_lib
from bigrec_jax.data.prepared.examples import Examples
from bigrec_jax.results import segments

TARGETS = ("cold", "seen", "popular")
TRANSITIONS = ("new", "memorised")
HISTORIES = ("1 to 5", "6 to 9", "10")
_BOUNDS = (5, 9)


def target_labels(targets: np.ndarray, popularity: np.ndarray) -> np.ndarray:
  """Returns indices [N] into `TARGETS`.

  Args:
    targets: [N] items.
    popularity: [I] train interactions.
  """
  return segments.popularity_labels(popularity)[targets]


def history_labels(held: Examples) -> np.ndarray:
  """Returns indices [N] into `HISTORIES`."""
  lengths = (held.history >= 0).sum(axis=1)
  return np.searchsorted(_BOUNDS, lengths, side="left")


def numbered(owners: np.ndarray) -> np.ndarray:
  """Returns [N] whose each row is: 0, 1, ... as they come, and no ids."""
  _, first, place = np.unique(owners, return_index=True, return_inverse=True)
  return np.argsort(np.argsort(first))[place]


def write(at: product.Place) -> None:
  """Writes users.json of a data set."""
  workdir = product.prepared(at)
  with product.session(workdir, at.changes()) as made:
    items = made.catalogue
    train = examples_lib.load_examples(made.paths, "train", -1, 0)
    labels: dict[str, Any] = {}
    owners: dict[str, str] = {}
    for split in cells.SPLITS:
      held = made.examples(split)
      owners[split] = cells.pack(numbered(held.owners))
      labels[split] = {
        "target": cells.pack(target_labels(held.target, items.popularity)),
        "transition": cells.pack(
          segments.known_transitions(held, train, len(items)).astype(np.int64)
        ),
        "history": cells.pack(history_labels(held)),
      }
    splits = {
      split: made.manifest.num_examples[split] for split in ("train", "valid")
    } | {"test": made.manifest.num_examples["test"]}
    result = {
      "schema": cells.SCHEMA,
      "data": at.data,
      "items": len(items),
      "splits": splits,
      "users": at.users,
      "fingerprints": product.fingerprints(made),
      "names": {
        "target": TARGETS,
        "transition": TRANSITIONS,
        "history": HISTORIES,
      },
      "labels": labels,
      "owners": owners,
    }
  path = at.results / at.data / cells.USERS
  path.parent.mkdir(parents=True, exist_ok=True)
  scratch.write_json(path, result)
  print(f"wrote {path}", flush=True)
