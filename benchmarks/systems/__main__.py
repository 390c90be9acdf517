"""Makes cells of the table of systems, and the page's tables from them.

  python -m benchmarks.systems --data=ml-latest-small --system=llara --seed=0
  python -m benchmarks.systems --data=amazon-toys --base=smollm2
  python -m benchmarks.systems --todo
  python -m benchmarks.systems --table [--write]

Without --system all of a data set and seed are made, in an order that works.
Started again, a command goes on where it was; a cell that is there is left as
it is. --users=40 shows that all works: its cells stay under .scratch/systems.
"""

import argparse
import logging as python_logging
import pathlib
import sys

from benchmarks.quality import page as quality_page, product
from benchmarks.systems import page, shared
from bigrec_jax import errors
from bigrec_jax.workdir import interrupts, large_pages


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--data", choices=shared.DATA)
  parser.add_argument("--base", choices=shared.BASES, default="small")
  parser.add_argument("--system", default="", help="empty = all")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--users", type=int, default=shared.USERS)
  parser.add_argument(
    "--shared", type=pathlib.Path, default=pathlib.Path("../shared/data")
  )
  parser.add_argument("--table", action="store_true")
  parser.add_argument(
    "--todo", action="store_true", help="the commands that are left"
  )
  parser.add_argument("--write", action="store_true", help="into the page")
  parser.add_argument("--results", type=pathlib.Path, default=shared.RESULTS)
  arguments = parser.parse_args()
  if not (arguments.table or arguments.todo or arguments.data):
    parser.error("--data, --todo or --table expected")
  return arguments


def main() -> int:
  """Returns the exit status."""
  arguments = _arguments()
  if arguments.table or arguments.todo:
    if arguments.todo:
      for line in page.todo(arguments.results):
        print(f"python -m benchmarks.systems {line}")
      return 0
    found = page.tables(arguments.results)
    return quality_page.show(found, page.PAGE, arguments.write)
  large_pages.ask()
  interrupts.install()
  product.set_up_jax()
  python_logging.getLogger("absl").setLevel(python_logging.WARNING)
  from benchmarks.systems import make

  at = shared.place(
    arguments.data, arguments.base, arguments.shared, arguments.users
  )
  systems = [arguments.system] if arguments.system else page.of(arguments.data)
  try:
    for system in systems:
      make.make(at, system, arguments.seed)
  except errors.UserError as error:
    print(f"error: {error}", file=sys.stderr)
    return error.status
  return 0


if __name__ == "__main__":
  sys.exit(main())
