"""Parity of fine-tuning with transformers' Trainer and PEFT."""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import transformers

from benchmarks.parity_row import Row
from bigrec_jax.models import peft_import
from tests.training import twin

_LAYOUTS = {
  "packed": {"packing": True, "micro_batch_size": 2},
  "unpacked": {"packing": False, "micro_batch_size": 2},
}


def train(root: pathlib.Path) -> Iterator[Row]:
  """Compares the curve of every step and the adapter that comes out.

  Accumulation over 4 micro-batches, dropout 0, file order, clipping at 1;
  loss over all tokens when packed and not, over the answer when packed.
  """
  for on_inputs in (True, False):
    folder = root / str(on_inputs)
    folder.mkdir()
    config = twin.config(train_on_inputs=on_inputs).train
    peer = twin.Peer(folder, config)
    for layout, changes in _LAYOUTS.items():
      if on_inputs or layout == "packed":
        what = f"train, {layout}{'' if on_inputs else ', answers only'}"
        changed = dataclasses.replace(config, **changes)
        yield from _compare(what, folder / layout, peer, changed)


def _compare(
  what: str, folder: pathlib.Path, peer: twin.Peer, config: Any
) -> Iterator[Row]:
  """Trains our side and compares it with the peer's run."""
  curve, adapter, arch = twin.ours(folder, peer, config)
  name = f"transformers {transformers.__version__} Trainer + PEFT"

  def row(key: str, tolerance: float, relative: bool = False) -> Row:
    ours = np.array([x[key] for x in curve if key in x])
    theirs = np.array([x[key] for x in peer.history if key in x])
    difference = np.inf  # Curves of different lengths.
    if len(ours) == len(theirs):
      scale = theirs if relative else 1.0
      difference = float(np.abs((ours - theirs) / scale).max())
    return Row(f"{what}: {key}", name, len(theirs), difference, tolerance)

  yield row("loss", 1e-3)
  yield row("learning_rate", 0)
  yield row("grad_norm", 1e-3, relative=True)
  yield row("eval_loss", 1e-3)
  _, ours = peft_import.load_adapter(adapter, arch)
  _, theirs = peft_import.load_adapter(peer.end_dir, arch)
  pairs = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), ours, theirs)
  largest = max(jax.tree.leaves(pairs))
  cases = sum(leaf.size for leaf in jax.tree.leaves(theirs))
  yield Row(f"{what}: final adapter", name, cases, largest, 1e-4)
