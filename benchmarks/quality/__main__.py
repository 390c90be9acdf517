"""Makes cells of docs/quality.md, and the page's tables from them.

  python -m benchmarks.quality counted --data=amazon-toys
  python -m benchmarks.quality cf --data=amazon-toys --system=sasrec --rows=1024
  python -m benchmarks.quality lm --data=amazon-toys --rows=1024 --seed=0
  python -m benchmarks.quality --todo
  python -m benchmarks.quality --table [--write]

Started again, a command goes on where it was; a cell that is there is left as
it is. --users=40 shows that all works: its cells stay under .scratch/quality.
"""

import argparse
import logging as python_logging
import pathlib
import sys

from benchmarks.quality import cells, datasets, product
from bigrec_jax import errors
from bigrec_jax.workdir import interrupts, large_pages

COMMANDS = ("users", "counted", "cf", "lm")


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("what", nargs="?", choices=COMMANDS)
  parser.add_argument("--data", choices=datasets.DATA)
  parser.add_argument(
    "--shared", type=pathlib.Path, default=pathlib.Path("../shared/data")
  )
  parser.add_argument("--system", default="", help="of cf or lm; empty = all")
  parser.add_argument("--rows", type=int, help="train rows; -1 = all")
  parser.add_argument("--seed", type=int, help="empty = all of the page")
  parser.add_argument("--users", type=int, default=datasets.USERS)
  parser.add_argument("--table", action="store_true")
  parser.add_argument(
    "--todo", action="store_true", help="the commands that are left"
  )
  parser.add_argument("--write", action="store_true", help="into the page")
  parser.add_argument("--results", type=pathlib.Path, default=cells.RESULTS)
  arguments = parser.parse_args()
  if not (arguments.table or arguments.todo) and not (
    arguments.what and arguments.data
  ):
    parser.error("a command and --data, --todo or --table expected")
  if arguments.what == "cf" and arguments.rows not in (None, 1024, -1):
    parser.error(f"--rows: {arguments.rows} found, 1024 or -1 expected of cf")
  return arguments


def _run(arguments: argparse.Namespace) -> None:
  at = product.place(arguments.data, arguments.shared, arguments.users)
  if arguments.what == "users":
    from benchmarks.quality import segments

    segments.write(at)
  elif arguments.what == "counted":
    from benchmarks.quality import cf_cells

    cf_cells.counted(at)
  elif arguments.what == "cf":
    from benchmarks.quality import cf_cells

    systems = [arguments.system] if arguments.system else cf_cells.NETWORKS
    rows = [arguments.rows] if arguments.rows else [cf_cells.FEW, cf_cells.ALL]
    seeds = cf_cells.SEEDS
    if arguments.seed is not None:
      seeds = (arguments.seed,)
    for count in rows:
      for system in systems:
        cf_cells.network(at, system, count, seeds)
  else:
    from benchmarks.quality import lm_cells

    lm_cells.make(
      at,
      arguments.system or "smollm2",
      arguments.rows or 0,
      arguments.seed or 0,
    )


def main() -> int:
  """Returns the exit status."""
  arguments = _arguments()
  if arguments.todo:
    from benchmarks.quality import todo

    for line in todo.commands(arguments.results):
      print(f"python -m benchmarks.quality {line}")
    return 0
  if arguments.table:
    from benchmarks.quality import page

    found = page.tables(arguments.results)
    return page.show(found, page.PAGE, arguments.write)
  large_pages.ask()
  interrupts.install()
  product.set_up_jax()
  python_logging.getLogger("absl").setLevel(python_logging.WARNING)
  try:
    _run(arguments)
  except errors.UserError as error:
    print(f"error: {error}", file=sys.stderr)
    return error.status
  return 0


if __name__ == "__main__":
  sys.exit(main())
