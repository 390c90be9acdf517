"""Runs the parity claims of docs/reference.md live and prints a table.

  python -m benchmarks.parity [--only=prepare,generate] [--json=results.json]

Each comparison feeds the same inputs to bigrec_jax and to a peer: torch,
transformers, peft, pandas and datasets as they are installed, or the
published procedure reimplemented in plain words. (transformers 4.28.1 cannot
live beside them: what it computed is on file.) Exit status 1 if a difference
is beyond its tolerance. Everything is tiny, random and made here; two
vocabularies of ../shared/data are used where that folder exists.
"""

import argparse
import contextlib
import importlib
import importlib.metadata
import logging
import os
import pathlib
import platform
import sys
import tempfile
import time

from benchmarks import parity_row, scratch

# Name -> module and function; the peers are imported only when one runs.
COMPARISONS = {
  "prepare": ("parity_data", "prepare_files"),
  "samples": ("parity_data", "samples"),
  "prompts": ("parity_data", "prompt_texts"),
  "tokens": ("parity_data", "tokens"),
  "logits": ("parity_model", "logits"),
  "embed": ("parity_model", "embed"),
  "adapter": ("parity_model", "adapter"),
  "train": ("parity_train", "train"),
  "generate": ("parity_model", "generation"),
  "old_generate": ("parity_model", "old_generation"),
  "ground": ("parity_ground", "ground"),
  "files": ("parity_ground", "files"),
}
_PACKAGES = ("jax", "numpy", *scratch.PEERS)


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
  parser.add_argument("--json", type=pathlib.Path, help="write the rows here")
  parser.add_argument(
    "--only",
    default=",".join(COMPARISONS),
    help="comparisons to run, with commas between (default: all)",
  )
  arguments = parser.parse_args()
  arguments.only = arguments.only.split(",")
  if unknown := set(arguments.only) - set(COMPARISONS):
    parser.error(
      f"--only: {sorted(unknown)[0]!r} found, some of {', '.join(COMPARISONS)}"
      " expected"
    )
  return arguments


def _set_up() -> None:
  """Makes both sides compute in float32, quietly, on few threads."""
  os.environ.setdefault("HF_HUB_OFFLINE", "1")
  os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
  import jax
  import torch
  import transformers

  jax.config.update("jax_default_matmul_precision", "highest")
  # Threads that wait for each other cost more than these matrices.
  torch.set_num_threads(1)
  transformers.logging.set_verbosity_error()
  transformers.logging.disable_progress_bar()
  logging.getLogger("absl").setLevel(logging.ERROR)


def _run(names: list[str]) -> list[tuple[str, parity_row.Row]]:
  """Returns (comparison, row) of every row, and shows each as it comes."""
  rows = []
  with tempfile.TemporaryDirectory(prefix="parity-") as folder:
    for name in names:
      module, function = COMPARISONS[name]
      compare = getattr(
        importlib.import_module(f"benchmarks.{module}"), function
      )
      root = pathlib.Path(folder) / name
      root.mkdir()
      start = time.perf_counter()
      # What peers and modes print is not the table.
      with contextlib.redirect_stdout(sys.stderr):
        for row in compare(root):
          seconds = time.perf_counter() - start
          print(f"{seconds:6.1f} s  {'  '.join(row.cells())}", flush=True)
          rows.append((name, row))
          start = time.perf_counter()
  return rows


def main() -> int:
  """Returns the exit status: 0 if all comparisons pass."""
  arguments = _arguments()
  scratch.ensure_peers("benchmarks.parity")
  _set_up()
  from bigrec_jax.results import table

  rows = _run(arguments.only)
  print(
    table.format_table(parity_row.HEADERS, [row.cells() for _, row in rows])
  )
  failed = [row.what for _, row in rows if not row.passed]
  print(f"\n{len(rows) - len(failed)} of {len(rows)} pass")
  if arguments.json:
    scratch.write_json(
      arguments.json,
      {
        "versions": {
          name: importlib.metadata.version(name) for name in _PACKAGES
        },
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "rows": [
          {
            "comparison": name,
            "what": row.what,
            "peer": row.peer,
            "cases": row.cases,
            "difference": float(row.difference),
            "tolerance": row.tolerance,
            "passed": row.passed,
          }
          for name, row in rows
        ],
      },
    )
  return 1 if failed else 0


if __name__ == "__main__":
  sys.exit(main())
