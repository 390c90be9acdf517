"""Files, folders and paths that can't be what they are given for: one line."""

import os
import pathlib

import pytest

from bigrec_jax.workdir import settings
from tests import demo_workdir
from tests.stages import command

DEMO = "--config=configs/demo.py:tiny"
GOOD = "from configs import demo\n"
MISTAKES = {
  "raises": (
    "def get_config():\n  return 1 / 0\n",
    ["line 2", "ZeroDivisionError"],
  ),
  "raises on import": ("x = undefined\n", ["line 1", "undefined"]),
  "syntax": ("def get_config(:\n", ["line 1", "SyntaxError"]),
  "no module": ("\nimport no_such_module\n", ["line 2", "no_such_module"]),
  "leaves": ("import sys\nsys.exit('bye')\n", ["line 2", "bye"]),
  "none": (GOOD + "def get_config():\n  pass\n", ["None", "return missing"]),
  "dict": ("def get_config():\n  return {}\n", ["dict", "ConfigDict"]),
  "class": ("class get_config:\n  pass\n", ["get_config", "ConfigDict"]),
  "no function": (GOOD, ["no function get_config"]),
  "no callable": ("get_config = 3\n", ["no function get_config"]),
  "takes more": ("def get_config(a, b):\n  pass\n", ["get_config(a, b)"]),
  "key error": ("def get_config():\n  return {}['x']\n", ["KeyError", "'x'"]),
  "many lines": (
    "def get_config():\n  raise ValueError('a\\nb\\x1b[31m')\n",
    ["line 2", "a b"],
  ),
  "not UTF-8": (b"x = '\xff'\n", ["SyntaxError"]),
  "NUL": (b"x = 1\x00\n", ["null bytes"]),
  "empty": ("", ["no function get_config"]),
  "frozen": (
    "import ml_collections\n"
    "def get_config():\n  return ml_collections.FrozenConfigDict()\n",
    ["FrozenConfigDict"],
  ),
  "another's keys": (
    "import ml_collections\n"
    "def get_config():\n  return ml_collections.ConfigDict({'a': 1})\n",
    ["config.a", "unknown key"],
  ),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_configuration_file_that_makes_none_is_named(tmp_path, kind):
  content, words = MISTAKES[kind]
  file = tmp_path / "own.py"
  file.write_bytes(content if isinstance(content, bytes) else content.encode())
  workdir = tmp_path / "run"
  line = command.refusal(
    f"--config={file}", "--mode=prepare", f"--workdir={workdir}"
  )
  if kind != "another's keys":
    assert str(file) in line
  for word in words:
    assert word in line, line
  assert not workdir.exists()


@pytest.mark.parametrize(
  ("value", "words"),
  [
    ("configs/none.py", ["configs/none.py", "no such file"]),
    ("configs", ["configs", "folder found"]),
    ("configs/demo.py/x.py", ["Not a directory"]),
    ("configs/demo.py:big", ["'big'", "tiny"]),
    ("x" * 300, ["File name too long"]),
    ("a\0b", ["null byte"]),
    ("/dev/full", ["pipe or device"]),
  ],
)
def test_what_is_no_configuration_file_is_named(value, words, tmp_path):
  line = command.refusal(
    f"--config={value}", "--mode=prepare", f"--workdir={tmp_path}/run"
  )
  for word in words:
    assert word in line, line


def test_a_variant_of_a_file_that_has_none_is_named(tmp_path):
  file = tmp_path / "own.py"
  file.write_text(GOOD + "def get_config():\n  return demo.get_config()\n")
  flags = ("--mode=prepare", f"--workdir={tmp_path}/run")
  line = command.refusal(f"--config={file}:tiny", *flags)
  assert "':tiny' found" in line and "get_config()" in line


def _loop(folder):
  (folder / "loop").symlink_to(folder / "loop")
  return folder / "loop" / "x"


def _dangling(folder):
  (folder / "dangling").symlink_to(folder / "gone")
  return folder / "dangling"


def _below_a_file(folder):
  (folder / "file").write_text("precious")
  return folder / "file" / "x"


def _pipe(folder):
  os.mkfifo(folder / "pipe")
  return folder / "pipe"


# Paths that are nothing that could be read or written.
PATHS = {
  "below a file": (_below_a_file, "is a file"),
  "a loop of links": (_loop, "leads back"),
  "a link to nothing": (_dangling, "which is not there"),
  "too long": (lambda folder: folder / ("x" * 300), "too long"),
  "a NUL": (lambda folder: f"{folder}/a\0b", "NUL"),
  "half a character": (lambda folder: f"{folder}/\udcff", "UTF-8"),
  "a tilde": (lambda folder: "~/nowhere", "did you mean /"),
  "a pipe": (_pipe, "pipe"),
}
FILE_KEYS = {
  "data.train": ["--mode=prepare", "--config.data.format=sequences"],
  "data.interactions": ["--mode=prepare", "--config.data.format=csv"],
  "ground.predictions.test": ["--mode=ground_eval"],
  "ground.cf_scores.valid": ["--mode=ground_eval"],
  "ground.popularity": ["--mode=ground_eval"],
}
FOLDER_KEYS = {
  "data.raw_dir": ["--mode=prepare", "--config.data.format=movielens"],
  "embed.model.path": ["--mode=embed"],
}


@pytest.mark.parametrize("key", [*FILE_KEYS, *FOLDER_KEYS])
@pytest.mark.parametrize("kind", [*PATHS, "the other kind", "nothing"])
def test_a_key_that_names_no_such_thing_is_named(tmp_path, key, kind):
  if kind == "the other kind":
    path, word = tmp_path / "other", "found"
    path.mkdir() if key in FILE_KEYS else path.write_text("precious")
  elif kind == "nothing":
    path, word = tmp_path / "nothing", "no"  # No such file; not found.
  else:
    make, word = PATHS[kind]
    path = make(tmp_path)
  line = command.refusal(
    DEMO,
    f"--workdir={tmp_path}/run",
    f"--config.{key}={path}",
    *(FILE_KEYS | FOLDER_KEYS)[key],
  )
  assert f"config.{key}: " in line and word in line, line
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", [*PATHS, "a file"])
def test_a_workdir_that_can_be_none_is_named(tmp_path, kind):
  if kind == "a file":
    path, word = tmp_path / "file", "a file found"
    path.write_text("precious")
  else:
    make, word = PATHS[kind]
    path = make(tmp_path)
  line = command.refusal(DEMO, "--mode=prepare", f"--workdir={path}")
  assert "--workdir" in line and word in line, line


@pytest.mark.parametrize("place", ["/proc/x/run", "/sys/run", "/dev/null/run"])
def test_a_workdir_nobody_can_write_is_named_before_any_work(place):
  if not pathlib.Path(place).parts[1:2]:
    pytest.skip("no such file system")
  line = command.refusal(DEMO, "--mode=prepare", f"--workdir={place}")
  assert "--workdir" in line and place in line


WRONG_PLACES = (
  *("data", "base", "adapter", "checkpoints", "embeddings", "metrics"),
  *("ranks", "records", "predictions", "cf", "config.json", "chosen.json"),
  *("metrics/train.jsonl", "predictions/test.json", "records/adapter.json"),
)


@pytest.mark.parametrize("name", WRONG_PLACES)
def test_a_folder_for_a_file_in_a_workdir_or_the_reverse(tmp_path, name):
  workdir = tmp_path / "run"
  path = workdir / name
  path.parent.mkdir(parents=True, exist_ok=True)
  path.mkdir() if path.suffix else path.write_text("precious")
  line = command.refusal(DEMO, "--mode=pipeline", f"--workdir={workdir}")
  assert str(path) in line, line
  assert not (workdir / "data" / "manifest.json").exists()


@pytest.fixture
def workdir(tmp_path):
  """A workdir that is remembered, with a file in every place."""
  root = tmp_path / "run"
  for name in OWN:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text('{"precious": 1}\n')
  own = demo_workdir.config()
  settings.remember(settings.paths_lib.Paths(root), own, "demo", {})
  return root


OWN = (
  *("data/catalogue.jsonl", "data/manifest.json", "metrics/ground_eval.json"),
  *("records/adapter.json", "adapter/adapter_config.json", "chosen.json"),
  *("predictions/test.json", "cf/sasrec/test.npy", "embeddings/rows.npy"),
  *("adapter.0123abcd/adapter_config.json", "train_1024.json", "plan.json"),
)


def _snapshot(root):
  return {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.mark.parametrize("link", ["plain", "relative", "symbolic", "hard"])
@pytest.mark.parametrize("name", [*OWN, "config.json", "data/new.jsonl"])
def test_lists_never_replace_a_file_of_the_workdir(workdir, name, link):
  output = workdir / name
  if link == "relative":
    output = os.path.relpath(output)
  if link in ("symbolic", "hard"):
    if not output.exists():
      pytest.skip("there is nothing to link to")
    made = workdir.parent / "lists.jsonl"
    (made.symlink_to if link == "symbolic" else made.hardlink_to)(output)
    output = made
  before = _snapshot(workdir.parent)
  line = command.refusal(
    "--mode=recommend",
    f"--workdir={workdir}",
    "--history=x",
    f"--config.recommend.output={output}",
  )
  assert "config.recommend.output" in line, line
  assert _snapshot(workdir.parent) == before


@pytest.mark.parametrize("kind", ["histories", "raw file", "device", "folder"])
def test_lists_never_replace_what_was_given(workdir, tmp_path, kind):
  file = tmp_path / "given.jsonl"
  file.write_text('{"history": ["x"]}\n')
  output = file
  flags = [f"--config.recommend.histories={file}"]
  if kind == "raw file":
    flags = ["--history=x", f"--config.data.train={file}"]
  elif kind in ("device", "folder"):
    flags = ["--history=x"]
    output = os.devnull if kind == "device" else tmp_path
  before = _snapshot(tmp_path)
  line = command.refusal(
    "--mode=recommend",
    f"--workdir={workdir}",
    f"--config.recommend.output={output}",
    *flags,
  )
  assert "config.recommend.output" in line, line
  assert _snapshot(tmp_path) == before


def test_of_a_flag_that_comes_twice_the_last_is_checked(tmp_path):
  flags = [f"--workdir={tmp_path}", "--workdir=~/run", "--mode=prepare"]
  line = command.refusal("--config=configs/demo.py:tiny", *flags)
  assert "~ found" in line


@pytest.mark.parametrize("key", ["ground.predictions.test", "model.adapter"])
def test_a_key_that_leads_to_a_device_is_refused_unread(tmp_path, key):
  flags = [f"--config.{key}=/dev/full", "--mode=ground_eval"]
  line = command.refusal(
    "--config=configs/demo.py:tiny", f"--workdir={tmp_path}", *flags
  )
  assert f"config.{key}: /dev/full: a pipe, socket or device found" in line
