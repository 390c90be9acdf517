"""The import layers and size limits of docs/design.md."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "bigrec_jax"
# Top to bottom: a module imports only from its own layer and those below.
LAYERS = (
  "testing",
  "stages",
  "recommend",
  "planning",
  "tasks",
  "rankers",
  "training",
  "decoding",
  "cf",
  "models",
  "devices",
  "results",
  "data",
  "workdir",
  "config",
  "progress",
  "errors",
)
SOURCES = sorted(PACKAGE.rglob("*.py"))


def layer_of(module: str) -> int:
  parts = module.split(".")
  if len(parts) == 1 or parts == ["bigrec_jax", "__init__"]:
    return -1  # The package itself: its few public names.
  return LAYERS.index(parts[1])


def imports_of(path: pathlib.Path) -> set[str]:
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom) and node.module:
      found |= {f"{node.module}.{alias.name}" for alias in node.names}
  return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.name))
def test_a_module_imports_only_from_its_layer_and_below(path):
  module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
  own = layer_of(module)
  for name in imports_of(path):
    if name.startswith("bigrec_jax"):
      assert layer_of(name) >= own, f"{module} imports {name}"
    assert not name.startswith(("torch", "peft", "configs")), module


def test_nothing_outside_models_imports_a_family():
  """A family is a package of models/; a registry finds it by name."""
  from bigrec_jax.models import encoders, registry

  families = {f.__name__ for f in registry.FAMILIES + encoders.FAMILIES}
  assert "bigrec_jax.models.llama" in families
  others = [p for p in SOURCES if PACKAGE / "models" not in p.parents]
  others += [ROOT / "main.py", *(ROOT / "benchmarks").rglob("*.py")]
  shared = [p for p in (PACKAGE / "models").glob("*.py")]
  shared = [p for p in shared if p.stem not in ("registry", "encoders")]
  for path in [*others, *shared]:
    for name in imports_of(path):
      parts = name.split(".")
      assert ".".join(parts[:3]) not in families, f"{path} imports {name}"


def loaded_by(modules: list[str], heavy: tuple[str, ...]) -> str:
  """Returns which of `heavy` a fresh interpreter has after the imports."""
  code = (
    "import importlib, sys\n"
    f"for name in {modules!r}: importlib.import_module(name)\n"
    f"print([m for m in {heavy!r} if m in sys.modules])"
  )
  result = subprocess.run(
    [sys.executable, "-c", code],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  )
  return result.stdout.strip()


def test_data_and_text_modules_do_not_load_jax():
  modules = [
    "bigrec_jax.config",
    "bigrec_jax.progress",
    "bigrec_jax.results.metrics",
    "bigrec_jax.workdir.records",
  ] + [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (PACKAGE / "data").rglob("*.py")
    if path.stem != "__init__"
  ]
  assert loaded_by(modules, ("jax", "torch", "tensorflow")) == "[]"


def test_a_mode_loads_what_is_slow_to_import_only_for_work():
  """A start that finds everything current is over in a second or two."""
  heavy = ("jax", "flax", "optax", "orbax", "scipy", "grain", "matplotlib")
  heavy += ("tensorflow_datasets", "torch", "tensorboardX")
  modes = ["main", "bigrec_jax.data.prepared.examples"]
  modes += [
    f"bigrec_jax.stages.{path.stem}"
    for path in (PACKAGE / "stages").glob("*.py")
    if path.stem not in ("__init__", "grounded_examples")
  ]
  assert loaded_by(modes, heavy) == "[]"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.name))
def test_files_and_functions_stay_short(path):
  source = path.read_text()
  assert source.count("\n") <= 400
  assert path.name != "utils.py"
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
      assert node.end_lineno - node.lineno < 80, node.name


def test_every_config_key_is_read():
  """A key that no code reads is a promise broken."""
  from bigrec_jax import config as config_lib
  from configs import common

  code = "\n".join(
    path.read_text() for path in SOURCES if path.parent.name != "config"
  )

  def keys(node, prefix):
    for key, value in node.items():
      if isinstance(value, dict):
        yield from keys(value, f"{prefix}{key}.")
      else:
        yield prefix + key

  values = config_lib.from_config_dict(common.get_config()).to_dict()
  names = [key.split(".")[-1] for key in keys(values, "")]
  # Read by getattr with a built name: num_train, num_valid, num_test.
  built = {"num_train", "num_valid", "num_test"}
  unread = [n for n in names if n not in built and f".{n}" not in code]
  assert unread == []
