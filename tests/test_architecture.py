"""The import layers and size limits of docs/design.md."""

import ast
import collections
import dataclasses
import pathlib
import subprocess
import sys
import typing

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "bigrec_jax"
# Top to bottom: a module imports only from its own layer and those below.
LAYERS = (
  "stages",
  "serving",
  "selfcheck",
  "testing",
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
  "home",
)
SOURCES = sorted(PACKAGE.rglob("*.py"))


def layer_of(module: str) -> int:
  parts = module.split(".")
  if len(parts) == 1 or parts[1] in ("__init__", "__main__"):
    return -1  # The package itself: its few public names; main.py.
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


# Who may know a system: tasks, keys by section, and the mode that chats.
SYSTEMS = ("tasks", "config", "stages/chat.py", "recommend/conversation.py")
WORLDS = ("testing", "selfcheck")  # Made of BIGRec's texts.


def test_no_engine_file_knows_a_system():
  """A task says itself what it needs; nobody asks which one it is."""
  from bigrec_jax.config import train
  from bigrec_jax.tasks import registry

  named = {*registry.MODULES, *train.OBJECTIVES} - {"language_model"}
  sections = {*registry.MODULES} - {"next_title", "exact_title"}
  open_to_all = ("bigrec_jax.tasks.protocol", "bigrec_jax.tasks.registry")
  losses = ("contrastive", "legal_tokens", "adaptive", "items")
  for path in SOURCES:
    own = path.relative_to(PACKAGE)
    if own.parts[0] in SYSTEMS or own.as_posix() in SYSTEMS:
      continue
    if own.parts[0] not in WORLDS:
      for name in imports_of(path):
        if name.startswith("bigrec_jax.tasks."):
          assert name.startswith(open_to_all), f"{own} imports {name}"
        if path.stem not in losses:
          of = [f"bigrec_jax.training.{loss}" for loss in losses]
          assert not name.startswith(tuple(of)), f"{own} imports {name}"
    for node in ast.walk(ast.parse(path.read_text())):
      text = ast.unparse(node) if isinstance(node, ast.expr) else ""
      if isinstance(node, ast.Attribute) and node.attr in sections:
        assert not text.endswith(f"task.{node.attr}"), f"{own}: {text}"
      if isinstance(node, ast.Compare):
        asks = ast.unparse(node.left).endswith(("objective", "task.name"))
        constants = {
          each.value
          for each in ast.walk(node)
          if isinstance(each, ast.Constant)
        }
        assert not (asks and named & constants), f"{own}: {text}"


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
    if path.stem not in ("__init__", "grounded_examples", "fusion")
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


class KeyReads(ast.NodeVisitor):
  """Collects which attributes of which section a module reads.

  A section is known by its annotation (`config: TrainConfig`), by how it was
  reached (`session.config.train`, also under another name or kept in `self`),
  or by where it lies in another section (`ground.predictions`).
  """

  def __init__(self, sections, members, found):
    self.sections = sections  # Class name -> section.
    self.members = members  # (section, attribute) -> section.
    self.found = found
    self.names: list[dict[str, str]] = [{}]

  def section_of(self, node) -> str | None:
    if isinstance(node, ast.Name):
      return next((n[node.id] for n in self.names[::-1] if node.id in n), None)
    if isinstance(node, ast.Attribute):
      if ast.unparse(node.value) == "self" and len(self.names) > 1:
        known = self.names[0].get(f"self.{node.attr}")
        if known is not None:
          return known
      owner = self.section_of(node.value)
      if owner is not None:
        return self.members.get((owner, node.attr))
      if node.attr in ("config", "_config"):
        return self.members.get(("", ""))  # The whole configuration.
    return None

  def annotated(self, annotation) -> str | None:
    text = "" if annotation is None else ast.unparse(annotation)
    name = text.strip("\"' ").removesuffix(" | None").split(".")[-1]
    return self.sections.get(name)

  def visit_ClassDef(self, node):
    """In its own properties `self` is the section; its checks are no use."""
    section = self.sections.get(node.name)
    self.names.append({} if section is None else {"self": section})
    for each in node.body:
      if getattr(each, "name", "") != "__post_init__":
        self.visit(each)
    self.names.pop()

  def visit_FunctionDef(self, node):
    own = {}
    for each in (*node.args.args, *node.args.kwonlyargs):
      section = self.annotated(each.annotation)
      if section is not None:
        own[each.arg] = section
    self.names.append(own)
    self.generic_visit(node)
    self.names.pop()

  def visit_AnnAssign(self, node):
    section = self.annotated(node.annotation)
    if section is not None and isinstance(node.target, ast.Name):
      self.names[-1][node.target.id] = section
      self.names[0][f"self.{node.target.id}"] = section
    self.generic_visit(node)

  def visit_Assign(self, node):
    values = [node.value]
    targets = node.targets
    if isinstance(node.value, ast.Tuple) and isinstance(targets[0], ast.Tuple):
      values, targets = node.value.elts, targets[0].elts
    for target, value in zip(targets, values, strict=False):
      section = self.section_of(value)
      if section is not None and isinstance(target, ast.Name):
        self.names[-1][target.id] = section
      elif section is not None and isinstance(target, ast.Attribute):
        self.names[0][f"self.{target.attr}"] = section
    self.generic_visit(node)

  def visit_Attribute(self, node):
    owner = self.section_of(node.value)
    if owner is not None:
      self.found.add(f"{owner}.{node.attr}".lstrip("."))
    self.generic_visit(node)


def config_keys(cls, prefix=""):
  """Yields (dotted key, its dataclass or None) of all sections."""
  for name, hint in typing.get_type_hints(cls).items():
    nested = dataclasses.is_dataclass(hint)
    yield f"{prefix}{name}", hint if nested else None
    if nested:
      yield from config_keys(hint, f"{prefix}{name}.")


def test_every_config_key_is_read():
  """A key that no code reads is a promise broken; whole keys are matched."""
  from bigrec_jax import config as config_lib

  keys = dict(config_keys(config_lib.Config))
  places = collections.defaultdict(list)
  for key, cls in keys.items():
    if cls is not None:
      places[cls.__name__].append(key)
  sections = {n: k[0] for n, k in places.items() if len(k) == 1}
  sections["Config"] = ""
  members = {("", ""): ""}
  for key, cls in keys.items():
    if cls is not None:
      owner, _, name = key.rpartition(".")
      members[owner, name] = key
  found = set()
  for path in SOURCES:
    tree = ast.parse(path.read_text())
    KeyReads(sections, members, found).visit(tree)
  # Read by a name that is put together: by split, by the role of a file or a
  # column, and all of a shape.
  built = {f"data.num_{split}" for split in ("train", "valid", "test")}
  built |= {"data.valid", "data.test", "data.interactions", "data.items"}
  built |= {key for key in keys if key.startswith("data.columns.")}
  built |= {
    f"{key}.{split}"
    for key in places["PerSplit"]
    for split in ("valid", "test")
  }
  built |= {key for key in keys if key.startswith("model.arch.")}
  leaves = [key for key, cls in keys.items() if cls is None]
  unread = [key for key in leaves if key not in found | built]
  assert unread == []
