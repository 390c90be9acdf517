"""Commands in the documents can be typed: nothing is run, all is looked up.

Of main.py: the configuration file, the mode, every key and every value are
checked by the program's own parser. Of launch scripts and benchmarks: the file
is there and its source knows every option. What can't be checked so is listed
with its reason.
"""

import contextlib
import io
import re
import shlex
import sys
from unittest import mock

import pytest
from absl.testing import flagsaver

import main
from bigrec_jax import config as config_lib
from tests import test_docs

ROOT = test_docs.ROOT
_FENCED = re.compile(r"^( *)```\w*\n(.*?)^\1```", re.M | re.S)
_CONTINUED = re.compile(r"\\\n\s*")
_ENVIRONMENT = re.compile(r"[A-Z][A-Z0-9_]*=\S*")
# What a shell line may begin with, beside `python` and `bash`.
NOT_CHECKED = {
  "curl": "needs a server; tests/serving sends the same requests",
  "pip": "installs; launch/test.sh does the same in CI",
  "uvicorn": "none of ours",
}
# A shell's own words, and programs of others that are given our flags.
_STARTERS = ("python", ".venv/bin/python", "bash", "sbatch", *NOT_CHECKED)
# Placeholders of a reader's own: the defaults stand in for them.
_OWN = ("...", "configs/mine.py", "configs/<name>.py")


def _commands():
  """Yields (document, words) of every command in a fenced block."""
  for path in test_docs.DOCUMENTS:
    for block in _FENCED.finditer(path.read_text()):
      for line in _CONTINUED.sub(" ", block.group(2)).splitlines():
        try:
          words = shlex.split(line, comments=True)
        except ValueError:  # An apostrophe: what a command printed.
          continue
        while words and _ENVIRONMENT.fullmatch(words[0]):
          words = words[1:]
        if words and words[0] in _STARTERS:
          yield path.name, words


COMMANDS = list(_commands())


def _ids(found):
  return [f"{name}-{n}" for n, (name, _) in enumerate(found)]


OF_MAIN = [
  (name, words[words.index("main.py") + 1 :])
  for name, words in COMMANDS
  if "main.py" in words
]
SCRIPTS = [
  (name, words) for name, words in COMMANDS if words[0] in ("bash", "sbatch")
]
MODULES = [(name, words) for name, words in COMMANDS if words[1] == "-m"]


def _parse(flags):
  """Has main.py parse flags and check the configuration; it runs nothing."""
  flags = [flag for flag in flags if flag not in ("<", ">", "|", "&")]
  given = [flag for flag in flags if flag.startswith("-")]
  named = [flag for flag in given if flag.startswith("--config=")]
  own = [flag for flag in named if flag.partition("=")[2] in _OWN]
  if own or not named:
    given = [flag for flag in given if flag not in own]
    given.insert(0, f"--config={ROOT / 'configs' / 'common.py'}")
  argv = ["main.py", *given]
  with (
    mock.patch.object(sys, "argv", argv),  # config_flags looks there.
    flagsaver.flagsaver(),
    contextlib.redirect_stderr(io.StringIO()),
  ):
    main._parse(argv)
    return config_lib.from_config_dict(main._CONFIG.value)


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
  monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(("name", "flags"), OF_MAIN, ids=_ids(OF_MAIN))
def test_flags_of_main(name, flags):
  assert any(flag.startswith("--mode=") for flag in flags), flags
  _parse(flags)


@pytest.mark.parametrize(("name", "words"), SCRIPTS, ids=_ids(SCRIPTS))
def test_scripts_are_there_and_their_flags_parse(name, words):
  (script,) = [w for w in words if w.startswith("launch/")]
  source = (ROOT / script).read_text()
  given = words[words.index(script) + 1 :]
  ours = [word for word in given if word.startswith(("--config", "--mode="))]
  if ours:
    _parse([*ours, *([] if "--mode" in str(ours) else ["--mode=pipeline"])])
  for word in given:
    option = word.partition("=")[0]
    if option.startswith("--") and word not in ours and option != "--workdir":
      assert option in source, f"{script} {option}"


@pytest.mark.parametrize(("name", "words"), MODULES, ids=_ids(MODULES))
def test_modules_are_there_and_know_their_options(name, words):
  module = ROOT.joinpath(*words[2].split("."))
  files = (
    list(module.glob("*.py"))
    if module.is_dir()
    else [module.with_suffix(".py")]
  )
  source = "".join(path.read_text() for path in files)
  # Options that several benchmarks share are in modules that they import.
  for imported in re.findall(r"from benchmarks import (\([^)]*\)|.+)", source):
    for one in re.findall(r"\w+", imported):
      path = ROOT / "benchmarks" / f"{one}.py"
      source += path.read_text() if path.exists() else ""
  for word in words[3:]:
    option = word.partition("=")[0]
    if option.startswith("--"):
      assert f'"{option}"' in source, f"{words[2]} {option}"


def test_every_command_is_one_of_these():
  known = {id(words) for _, words in [*SCRIPTS, *MODULES]}
  rest = [
    words
    for _, words in COMMANDS
    if id(words) not in known and "main.py" not in words
  ]
  assert [w for w in rest if w[0] not in NOT_CHECKED] == []
  assert len(OF_MAIN) > 40 and len(SCRIPTS) > 8 and len(MODULES) > 20


def test_a_wrong_key_mode_file_or_value_is_seen():
  for flags in (
    ["--config=configs/demo.py", "--mode=train", "--config.train.rank=1"],
    ["--config=configs/demo.py", "--mode=tran"],
    ["--config=configs/demos.py", "--mode=train"],
    ["--config=configs/demo.py", "--mode=train", "--config.mesh.data=x"],
    ["--config=configs/demo.py:small", "--mode=train"],
    ["--config=configs/demo.py", "--mode=train", "--config.seeds=1,1"],
  ):
    with pytest.raises(main.errors.UserError):
      _parse(flags)


def test_documents_name_nothing_of_the_developers():
  private = re.compile(r"\.\./shared|/tmp/w\b|/work/")
  found = [
    f"{path.name}: {line}"
    for path in test_docs.DOCUMENTS
    for line in path.read_text().splitlines()
    if private.search(line)
  ]
  assert found == []
