"""Where main.py and configs/ are: beside the package, or in it.

In a checkout they lie beside the package; an installed package has them in
`bigrec_jax/installed/`, where setup.py puts them.
"""

import pathlib

_PACKAGE = pathlib.Path(__file__).resolve().parent
IS_INSTALLED = (_PACKAGE / "installed").is_dir()
FOLDER = _PACKAGE / "installed" if IS_INSTALLED else _PACKAGE.parent
