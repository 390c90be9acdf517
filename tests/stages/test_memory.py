"""What a workdir remembers, which adapter is used, what isn't needed."""

import json
import shutil

import numpy as np
import pytest
from safetensors import numpy as safetensors

from bigrec_jax import config as config_lib, errors
from bigrec_jax.data.text import prompts
from bigrec_jax.recommend import decoder
from bigrec_jax.stages import export, generate, ground_eval, pretrain, train
from bigrec_jax.stages.session import Asked, Session
from configs import demo
from tests.stages import command

pytestmark = pytest.mark.slow

DEMO = "--config=configs/demo.py:tiny"
ONE = {"devices": 1}


def tiny(**model):
  tree = demo.get_config("tiny")
  tree.data.num_train, tree.data.num_valid, tree.data.num_test = 16, 8, 8
  tree.train.num_epochs = 1
  tree.recommend.injection = "none"
  tree.mesh.data, tree.mesh.fsdp = 4, 2  # As conftest.py forces devices.
  for key, value in model.items():
    tree.model[key] = value
  return tree


def config(**model):
  return config_lib.from_config_dict(tiny(**model))


def content(root):
  """Returns all files with their time: what writing anything would change."""
  return {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
  """A base that is in no workdir."""
  root = tmp_path_factory.mktemp("base")
  pretrain.run(config(), root / "run")
  (root / "run" / "base").rename(root / "llama")
  return root / "llama"


@pytest.fixture(scope="module")
def trained(base, tmp_path_factory):
  """A workdir by main.py, of flags alone: trained on `base`, embedded."""
  root = tmp_path_factory.mktemp("memory") / "run"
  flags = [
    f"--config.{key}={value}"
    for key, value in {
      "model.path": base,
      "data.num_train": 16,
      "data.num_valid": 8,
      "data.num_test": 8,
      "train.num_epochs": 1,
      "recommend.injection": "none",
    }.items()
  ]
  command.run(DEMO, "--mode=train", f"--workdir={root}", *flags, **ONE)
  shown = command.run("--mode=embed", f"--workdir={root}", **ONE).stdout
  assert "config:" not in shown and "train: " not in shown
  return root


@pytest.fixture
def workdir(trained, tmp_path):
  shutil.copytree(trained, tmp_path / "run")
  return tmp_path / "run"


@pytest.fixture
def item(trained):
  line = (trained / "data" / "catalogue.jsonl").open().readline()
  return json.loads(line)["external_id"]


def test_a_later_command_needs_the_workdir_alone(workdir, item, base):
  kept = json.loads((workdir / "config.json").read_text())
  assert kept["name"] == "demo"
  assert kept["config"]["model"]["path"] == str(base)
  flags = ["--mode=recommend", f"--workdir={workdir}", f"--history={item}"]
  result = command.run(*flags, "--config.recommend.k=3", **ONE)
  assert "config: recommend.k 10 -> 3 (flag)" in result.stdout
  (line,) = (workdir / "recommendations.jsonl").read_text().splitlines()
  assert len(json.loads(line)["recommendations"]) == 3
  # A mode that reads changes no memory.
  assert json.loads((workdir / "config.json").read_text()) == kept


def test_without_the_base_that_training_was_given_nothing_is_made(
  workdir, item, base
):
  """It once made a random base, trained, and renamed the trained adapter."""
  flags = ["--mode=recommend", f"--workdir={workdir}", f"--history={item}"]
  before = content(workdir)
  line = command.mistake(*flags, "--config.model.path=", **ONE)
  assert f"{workdir}/base isn't there" in line and "--mode=pretrain" in line
  assert "--make" in line and content(workdir) == before
  # A workdir of before there was a memory: its records know the base.
  (workdir / "config.json").unlink()
  before = content(workdir)
  result = command.run(DEMO, *flags, "--dry_run", **ONE)
  assert f"config: model.path {str(base)!r} (as the workdir's" in result.stdout
  assert "base isn't there" not in result.stdout
  assert content(workdir) == before


def test_a_dry_run_says_what_and_why_and_writes_nothing(workdir):
  before = content(workdir)
  flags = ["--mode=generate", f"--workdir={workdir}", "--dry_run"]
  shown = command.run(*flags, "--config.prompt.style=bigrec", **ONE).stdout
  lines = [line.replace(f"{workdir}/", "") for line in shown.splitlines()]
  assert lines[0] == "config: prompt.style 'consistent' -> 'bigrec' (flag)"
  assert lines[1] == "prepare: data is current"
  assert lines[2].startswith(
    "train: adapter would be made: prompt.style: consistent -> bigrec; at most"
    " 1 steps, "
  )
  assert lines[3:] == [
    f"generate: predictions/{split}.json would be made: after adapter; 8 users"
    for split in ("valid", "test")
  ]
  assert content(workdir) == before


def test_what_can_be_known_at_once_is_said_at_once(workdir, tmp_path):
  before = content(workdir)
  flags = ["--mode=generate", f"--workdir={workdir}"]
  for key, value, word in (
    ("model.adapter", tmp_path, "adapter_config.json"),
    ("generate.batch_size", 9, "a multiple of"),
    ("model.path", tmp_path / "no", "no: not found"),
  ):
    line = command.mistake(*flags, f"--config.{key}={value}", devices=2)
    assert f"config.{key}: " in line and word in line
  assert content(workdir) == before


@pytest.fixture
def other(trained, tmp_path):
  """An adapter like the workdir's with weights of its own."""
  folder = tmp_path / "other"
  shutil.copytree(trained / "adapter", folder)
  file = folder / "adapter_model.safetensors"
  weights = safetensors.load_file(file)
  rng = np.random.default_rng(0)
  for name, value in weights.items():
    weights[name] = rng.normal(size=value.shape).astype(np.float32)
  safetensors.save_file(weights, file)
  return folder


def test_an_adapter_that_is_named_is_the_one_exported(workdir, other, base):
  named = Asked(adapter=str(other))
  export.run(config(path=str(base), adapter=str(other)), workdir, named)
  weights = "adapter_model.safetensors"
  found = (workdir / "export" / "adapter" / weights).read_bytes()
  assert found == (other / weights).read_bytes()
  # Where it is but where training started, the workdir's own is.
  export.run(config(path=str(base), adapter=str(other)), workdir)
  found = (workdir / "export" / "adapter" / weights).read_bytes()
  assert found == (workdir / "adapter" / weights).read_bytes()


def test_predictions_of_a_named_adapter_are_kept_apart(
  workdir, other, base, monkeypatch
):
  tree = tiny(path=str(base))
  tree.generate.split = "test"
  own = config_lib.from_config_dict(tree)
  tree.model.adapter = str(other)
  named = config_lib.from_config_dict(tree)
  path = workdir / "predictions" / "test.json"
  generate.run(own, workdir)
  first = path.read_text()
  generate.run(named, workdir, Asked(adapter=str(other)))
  second = path.read_text()
  assert second != first
  record = workdir / "records" / "predictions_test.json"
  session = Session(named, workdir, Asked(adapter=str(other)))
  adapter = json.loads(record.read_text())["adapter"]
  assert adapter == train.used(session).fingerprint
  monkeypatch.setattr(decoder.Decoder, "__call__", None)
  generate.run(own, workdir)
  assert path.read_text() == first
  generate.run(named, workdir, Asked(adapter=str(other)))
  assert path.read_text() == second


def test_an_adapter_of_another_base_is_refused(workdir, base, tmp_path):
  elsewhere = tmp_path / "elsewhere"
  shutil.copytree(workdir, elsewhere)
  record = elsewhere / "records" / "adapter.json"
  made_from = json.loads(record.read_text())
  record.write_text(json.dumps(made_from | {"base": "0123456789abcdef"}))
  asked = Asked(adapter=str(elsewhere / "adapter"))
  with pytest.raises(errors.UserError, match="on base 0123456789abcdef, one"):
    export.run(config(path=str(base)), workdir, asked)


def test_given_predictions_need_no_train_file_and_no_adapter(
  base, tmp_path, capsys
):
  titles = [f"The {n}th Game" for n in range(30)]
  (tmp_path / "id2name.txt").write_text(
    "".join(f"{title}\t{n}\n" for n, title in enumerate(titles))
  )
  tree = tiny(path=str(base))
  tree.data.format, tree.data.num_valid, tree.data.num_test = "bigrec", -1, -1
  tree.data.catalogue = str(tmp_path / "id2name.txt")
  tree.ground.cf_model = ""
  prompt = prompts.Prompt.from_config(config_lib.from_config_dict(tree).prompt)
  for split, first in (("valid", 0), ("test", 10)):
    rows = [
      {
        "instruction": prompt.instruction,
        "input": prompt.input_text(titles[n : n + 3]),
        "output": prompt.output_text(titles[n + 3]),
        "predict": [f'"{titles[n + 3]}"'],
      }
      for n in range(first, first + 8)
    ]
    path = tmp_path / f"{split}.json"
    path.write_text(json.dumps(rows))
    tree.data[split] = tree.ground.predictions[split] = str(path)
  given, root = config_lib.from_config_dict(tree), tmp_path / "run"
  ground_eval.run(given, root)
  assert "popularity is left out" in capsys.readouterr().out
  assert not (root / "adapter").exists()
  found = json.loads((root / "metrics" / "ground_eval.json").read_text())
  assert {row["injection"] for row in found["results"]} == {"none"}
  assert {row["hr"]["1"] for row in found["results"]} == {1.0}
  names = {row["name"] for row in found["baselines"]}
  assert "random" in names and "most_pop" not in names
  with pytest.raises(errors.UserError, match=r"config\.data\.train: empty"):
    train.run(given, root)
  # Popularity that is given is injected.
  counts = tmp_path / "popularity.json"
  counts.write_text(json.dumps({str(n): n for n in range(30)}))
  tree.ground.popularity = str(counts)
  ground_eval.run(config_lib.from_config_dict(tree), root)
  found = json.loads((root / "metrics" / "ground_eval.json").read_text())
  assert {row["injection"] for row in found["results"]} == {
    "none",
    "popularity",
  }
