"""`python -m bigrec_jax` and the command `bigrec_jax`: both run main.py."""

import runpy
import sys

from bigrec_jax import home


def main() -> None:
  """Runs main.py with this process's arguments, and leaves as it does."""
  # As of any script that Python is given; configs/ import each other so.
  sys.path.insert(0, str(home.FOLDER))
  runpy.run_path(str(home.FOLDER / "main.py"), run_name="__main__")


if __name__ == "__main__":
  main()
