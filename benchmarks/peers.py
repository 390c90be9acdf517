"""An interpreter with the peers (torch, transformers, peft), made if needed."""

import importlib.util
import os
import pathlib
import subprocess
import sys
import venv

_PACKAGES = ("torch", "transformers", "peft", "numpy")
_FOLDER = pathlib.Path(__file__).parent / ".peers"


def interpreter() -> str:
  """Returns a Python that can import torch, transformers and peft.

  The present one if it can; else that of a scratch environment beside this
  file, made on the first call from PyPI.
  """
  if all(importlib.util.find_spec(name) for name in _PACKAGES):
    return sys.executable
  folder = "Scripts" if os.name == "nt" else "bin"
  python = _FOLDER / folder / "python"
  ready = _FOLDER / "ready"
  if not ready.exists():
    print(f"installing {', '.join(_PACKAGES)} into {_FOLDER}", file=sys.stderr)
    venv.create(_FOLDER, with_pip=True, clear=True)
    command = [str(python), "-m", "pip", "install", "-q", *_PACKAGES]
    subprocess.run(command, check=True)
    ready.touch()
  return str(python)
