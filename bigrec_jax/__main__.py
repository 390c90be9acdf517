"""`python -m bigrec_jax` and the command `bigrec_jax`: both run main.py.

In a checkout main.py and configs/ lie beside the package; an installed package
has them in `bigrec_jax/installed/`, where setup.py puts them.
"""

import pathlib
import runpy
import sys

_PACKAGE = pathlib.Path(__file__).resolve().parent
_INSTALLED = _PACKAGE / "installed"


def main() -> None:
  """Runs main.py with this process's arguments, and leaves as it does."""
  home = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent
  # As of any script that Python is given; configs/ import each other so.
  sys.path.insert(0, str(home))
  runpy.run_path(str(home / "main.py"), run_name="__main__")


if __name__ == "__main__":
  main()
