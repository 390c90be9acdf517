"""RSLLM from made-up worlds to its rows: two stages, two data sets."""

import dataclasses
import json

import numpy as np
import pytest

from bigrec_jax import config as config_lib, errors
from bigrec_jax.models import tensor_files
from bigrec_jax.results import rows
from bigrec_jax.stages import (
  first,
  mixed,
  pipeline,
  prepare,
  session as session_lib,
  train,
)
from bigrec_jax.workdir import paths as paths_lib, records, settings
from configs import rsllm

pytestmark = pytest.mark.slow


def _config(arg="tiny", **changes):
  values = rsllm.get_config(arg)
  values.pretrain.num_steps = 0
  values.data.num_train = 16
  values.data.num_valid = values.data.num_test = 8
  values.lora.target_modules = ("q_proj",)
  values.train.batch_size = 8
  values.generate.max_new_tokens = 4
  values.cf.num_epochs = 1
  values.report.num_examples = 2
  with values.unlocked():
    values.update_from_flattened_dict(
      {key.replace("__", "."): value for key, value in changes.items()}
    )
  return config_lib.from_config_dict(values)


def _session(config, root):
  paths = paths_lib.Paths(root)
  return session_lib.Session(
    config,
    root,
    session_lib.Asked(
      flags=(f"--workdir={root}",),
      remember=lambda: settings.remember(paths, config, "rsllm", {}),
    ),
  )


@pytest.fixture(scope="module")
def other(tmp_path_factory):
  """A prepared workdir of another domain, with its own words."""
  root = tmp_path_factory.mktemp("other") / "run"
  config = _config(
    data__synthetic__seed=8, task__choose__domain="artist", data__num_train=9
  )
  _session(config, root).make(prepare.STAGE)
  return root


@pytest.fixture(scope="module")
def made(tmp_path_factory, other):
  """(config, workdir) of a whole pipeline."""
  root = tmp_path_factory.mktemp("rsllm") / "run"
  config = _config(train__also=(f"{other}:2",))
  pipeline.run(config, root)
  return config, root


def test_rows_and_report(made):
  _, root = made
  found = rows.read_task(root / "metrics" / "rsllm.json")
  systems = ["rsllm", "most_pop", "sasrec"]
  assert [row.system for row in found if row.split == "test"] == systems
  own = found[0].metrics
  assert set(own) >= {"hit_ratio@1", "valid_ratio"}
  assert (root / "report" / "index.html").is_file()


def _curve(folder):
  lines = (folder / "metrics" / "train.jsonl").read_text().splitlines()
  lines = [json.loads(line) for line in lines]
  return [line for line in lines if "loss" in line]


def test_both_stages_are_contrastive_and_the_first_reads_both_sets(made):
  config, root = made
  session = _session(config, root)
  texts = mixed.samples(session, first.version)
  ours, theirs = texts.sources
  assert texts.shares.tolist() == [len(ours), 2 * len(theirs)]
  read = texts.at_step(0, 9, range(len(texts)))
  asked = [texts.text(n).prompt for n in read]
  assert sum("artist" in prompt for prompt in asked) == 2 * len(theirs)
  assert not any(texts.text(n).soft for n in read)
  assert texts.target(5) == theirs.target(2)
  assert texts.group(5) == f"1:{theirs.group(2)}"
  # Steps of 8, the second stage of this set alone.
  steps = [-(-size // 8) for size in (len(texts), len(ours))]
  curves = _curve(root / "first"), _curve(root)
  assert [len(curve) for curve in curves] == steps
  for curve in curves:
    for line in curve:
      mean = 0.85 * line["language"] + 0.125 * line["target_target"]
      mean += 0.025 * line["user_target"]
      assert line["loss"] == pytest.approx(mean, rel=1e-5)
    # The last step may be one sample, which has no negatives.
    assert curve[0]["user_target"] > 0 and curve[0]["target_target"] > 0


def test_the_second_stage_starts_from_the_first(made):
  config, root = made
  record = records.read(root / "records" / "adapter.json")
  session = _session(config, root)
  assert record["start"] == first.fingerprint(session)
  assert "also" not in record
  stored = records.read(root / "records" / "first_adapter.json")
  assert stored["also"] and not stored["start"]
  files = {path.name for path in (root / "adapter").iterdir()}
  assert "adapter_own.safetensors" in files  # The projector.
  files = {path.name for path in (root / "first" / "adapter").iterdir()}
  assert "adapter_own.safetensors" not in files

  def weights(folder):
    stored = tensor_files.read_file(folder / "adapter_model.safetensors")
    return {name: np.array(one.view()) for name, one in stored.items()}

  ours, theirs = weights(root / "adapter"), weights(root / "first" / "adapter")
  assert set(ours) == set(theirs)
  # Two steps of Adam move a weight by 2 learning rates at most, and a little.
  for name, value in ours.items():
    moved = np.abs(value - theirs[name]).max()
    assert 0 < moved < 3 * config.train.learning_rate


def test_what_is_made_again(made, other, capsys):
  config, root = made
  asked = dataclasses.replace(_session(config, root).asked, dry_run=True)

  def told(changed):
    session = session_lib.Session(changed, root, asked)
    session.make(*train.stages(session))
    return capsys.readouterr().out

  assert "would be made" not in told(config)
  weights = dataclasses.replace(config.train, also=(str(other),))
  lines = told(dataclasses.replace(config, train=weights))
  assert "first/adapter would be made: also: " in lines
  assert "run/adapter would be made: after first_adapter" in lines
  rate = dataclasses.replace(config.train, learning_rate=1e-3)
  lines = told(dataclasses.replace(config, train=rate))
  assert "first/adapter is current" in lines
  alone = dataclasses.replace(config.train.first, num_epochs=0)
  alone = dataclasses.replace(config.train, first=alone, also=())
  assert "run/adapter would be made: start: " in told(
    dataclasses.replace(config, train=alone)
  )


def test_mistakes_with_other_workdirs(made, other, tmp_path):
  config, root = made

  def refusal(**changes):
    changed = dataclasses.replace(config.train, **changes)
    with pytest.raises(errors.UserError) as caught:
      session = _session(dataclasses.replace(config, train=changed), root)
      session.make(*train.stages(session))
    return str(caught.value)

  assert "a workdir expected that" in refusal(also=(str(tmp_path),))
  assert "which is this workdir" in refusal(also=(str(root),))
  none = dataclasses.replace(config.train.first, num_epochs=0)
  assert "where texts have soft tokens" in refusal(first=none)


def test_full_ranking_is_grounded_with_cf_beside(tmp_path):
  config = _config(
    "tiny_full",
    train__first__num_epochs=0,
    ground__injections=("none", "cf"),
    ground__protocols=("single_gamma",),
  )
  pipeline.run(config, tmp_path / "run")
  stored = json.loads(
    (tmp_path / "run" / "metrics" / "ground_eval.json").read_text()
  )
  assert stored["num_examples"] == {"valid": 8, "test": 8}
  assert {row["injection"] for row in stored["results"]} == {"none", "cf"}
  predicted = json.loads(
    (tmp_path / "run" / "predictions" / "test.json").read_text()
  )
  assert len(predicted) == 8 and "candidates" not in predicted[0]
