"""Puts main.py and configs/ into the package; all else is in pyproject.toml.

Both lie beside the package in a checkout, where they are edited. Installed
they go into `bigrec_jax/installed/`: modules called `main` and `configs` would
be in the way of whatever else is called so.
"""

import pathlib
import shutil

import setuptools
from setuptools.command import build_py


class BuildPy(build_py.build_py):
  """Builds the package, with what lies beside it unless it stays there."""

  def run(self) -> None:
    """Builds."""
    super().run()
    if self.editable_mode:  # The checkout itself is what is installed.
      return
    home = pathlib.Path(self.build_lib, "bigrec_jax", "installed")
    configs = home / "configs"
    configs.mkdir(parents=True, exist_ok=True)
    shutil.copy("main.py", home)
    for path in sorted(pathlib.Path("configs").glob("*.py")):
      shutil.copy(path, configs)


setuptools.setup(cmdclass={"build_py": BuildPy})
