"""What `pip install .` installs can be run, with the configurations."""

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
_BUILD = "from setuptools import build_meta; print(build_meta.build_wheel('.'))"


def _run(*arguments, cwd, path=None):
  environment = os.environ | ({"PYTHONPATH": str(path)} if path else {})
  result = subprocess.run(
    [sys.executable, *arguments],
    cwd=cwd,
    env=environment,
    capture_output=True,
    text=True,
  )
  assert result.returncode == 0, result.stderr[-3000:]
  return result.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
  """The folder that a wheel was unpacked in, which is to install it."""
  source, target = (tmp_path_factory.mktemp(n) for n in ("source", "target"))
  for name in ("bigrec_jax", "configs"):
    skipped = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / name, source / name, ignore=skipped)
  for name in ("main.py", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
    shutil.copy(ROOT / name, source)
  # What pip does with --no-build-isolation.
  wheel = _run("-c", _BUILD, cwd=source).split()[-1]
  with zipfile.ZipFile(source / wheel) as file:
    file.extractall(target)
  return target


def test_nothing_is_installed_beside_the_package(installed):
  names = {p.name for p in installed.iterdir() if p.suffix != ".dist-info"}
  assert names == {"bigrec_jax"}
  own = {p.name for p in (installed / "bigrec_jax/installed/configs").iterdir()}
  assert own == {p.name for p in (ROOT / "configs").glob("*.py")}
  (points,) = installed.glob("*.dist-info/entry_points.txt")
  assert "bigrec_jax = bigrec_jax.__main__:main" in points.read_text()


def test_it_runs_with_a_configuration_of_ours_or_of_the_users(
  installed, tmp_path
):
  mine = tmp_path / "mine.py"
  mine.write_text(
    "from configs import demo\n\n\ndef get_config(arg=''):\n"
    "  return demo.get_config(arg)\n"
  )
  program = (
    "import bigrec_jax.__main__ as m, sys;"
    f" assert m.__file__.startswith({str(installed)!r}); m.main()"
  )

  def run(*flags):
    return _run("-c", program, *flags, cwd=tmp_path, path=installed)

  ours = "--config=configs/demo.py:tiny"
  assert "would be made" in run(ours, "--mode=pipeline", "--dry_run")
  assert [p.name for p in tmp_path.iterdir()] == ["mine.py"]
  run("--config=mine.py:tiny", "--mode=prepare", "--workdir=w")
  # Of a workdir that remembers: the defaults are the package's, too.
  told = run("--mode=train", "--workdir=w", "--dry_run")
  assert "w/adapter would be made" in told
