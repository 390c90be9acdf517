"""Files of a workdir that are damaged, gone, or another's: healed or refused.

One workdir of the tiny demo; every case begins with it as it was finished.
"""

import dataclasses
import errno
import importlib
import json
import os
import pathlib
import re
import shutil

import numpy as np
import pytest

from bigrec_jax import config as config_lib, errors
from bigrec_jax.recommend import finished, recommender
from bigrec_jax.stages import (
  generate,
  ground_eval,
  predictions,
  recommend,
  rows_of,
  train,
  train_cf,
)
from bigrec_jax.stages.session import Asked, Session
from bigrec_jax.workdir import paths as paths_lib, seals, storage
from tests import demo_workdir

_SHARD = "data/bigrec_windows/1.0.0/bigrec_windows-test.array_record-00000-of"
# Every kind of file that a mode owns, the mode, and another file of the kind.
FILES = (
  ("data/catalogue.jsonl", "prepare", "data/doctor.json"),
  ("data/manifest.json", "prepare", "data/doctor.json"),
  ("data/doctor.json", "prepare", "data/manifest.json"),
  (f"{_SHARD}-00001", "prepare", f"{_SHARD.replace('test', 'valid')}-00001"),
  ("data/bigrec_windows/1.0.0/dataset_info.json", "prepare", "chosen.json"),
  ("base/config.json", "pretrain", "adapter/adapter_config.json"),
  ("base/model.safetensors", "pretrain", "adapter/adapter_model.safetensors"),
  ("base/tokenizer.json", "pretrain", "base/tokenizer_config.json"),
  ("adapter/adapter_config.json", "train", "base/config.json"),
  ("adapter/adapter_model.safetensors", "train", "base/model.safetensors"),
  ("predictions/valid.json", "generate", "predictions/test.json"),
  ("predictions/test.json", "generate", "predictions/valid.json"),
  ("embeddings/embeddings.json", "embed", "data/manifest.json"),
  ("embeddings/items-00000-of-00001.npy", "embed", "embeddings/rows.npy"),
  ("embeddings/rows.npy", "embed", "embeddings/items-00000-of-00001.npy"),
  ("cf/sasrec/valid.npy", "train_cf", "cf/sasrec/test.npy"),
  ("cf/sasrec/test.states.npy", "train_cf", "cf/sasrec/valid.states.npy"),
  ("cf/sasrec/test.json", "train_cf", "cf/sasrec/valid.json"),
  ("metrics/cf.json", "train_cf", "metrics/throughput.json"),
  ("metrics/ground_eval.json", "ground_eval", "chosen.json"),
  ("ranks/test.npz", "ground_eval", "ranks/valid.npz"),
  ("ranks/test_examples.json", "ground_eval", "metrics/cf.json"),
  ("records/data.json", "prepare", "records/base.json"),
  ("records/base.json", "pretrain", "records/data.json"),
  ("records/adapter.json", "train", "records/base.json"),
  ("records/predictions_test.json", "generate", "records/adapter.json"),
  ("records/embeddings.json", "embed", "records/adapter.json"),
  ("records/cf_sasrec.json", "train_cf", "records/adapter.json"),
  ("records/ground_eval.json", "ground_eval", "records/adapter.json"),
  # Nobody's work is lost with these.
  ("chosen.json", "ground_eval", "metrics/cf.json"),
  ("metrics/throughput.json", "ground_eval", "metrics/cf.json"),
  ("metrics/train.jsonl", "ground_eval", "metrics/pretrain.jsonl"),
  ("checkpoints/current.json", "train", "chosen.json"),
)


def _flip(path, other):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 0x55
  path.write_bytes(bytes(content))


def _cut(path, other):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _delete(path, other):
  path.unlink()


def _another(path, other):
  content = other.read_bytes()
  path.unlink()  # It may be a link to what every case begins with.
  path.write_bytes(content)


def _empty(path, other):
  path.write_bytes(b"")


def _null(path, other):
  path.write_text("null\n")


DAMAGES = (_flip, _cut, _delete, _another, _empty, _null)


@pytest.fixture(scope="module")
def finished_demo(evaluated_demo, tmp_path_factory):
  """The workdir and what it holds when it is finished."""
  folder = tmp_path_factory.mktemp("content")
  root, kept = folder / "workdir", folder / "kept"
  shutil.copytree(evaluated_demo, root)
  ground_eval.run(demo_workdir.config(), root)
  shutil.copytree(root, kept)
  return root, kept


@pytest.fixture
def workdir(finished_demo):
  root, kept = finished_demo
  shutil.rmtree(root)
  shutil.copytree(kept, root)
  return root


def _run(mode, root, config=None):
  module = importlib.import_module(f"bigrec_jax.stages.{mode}")
  module.run(config or demo_workdir.config(), root)


def _results(root):
  found = {}
  for name in ("metrics/ground_eval.json", "metrics/cf.json", "chosen.json"):
    found[name] = json.loads((root / name).read_text())
  # Of the model that is injected; another mode adds others.
  model = found["metrics/cf.json"] = found["metrics/cf.json"]["sasrec"]
  for key in [k for k in model if "seconds" in k or k == "curve"]:
    del model[key]
  for split in ("valid", "test"):
    with np.load(root / "ranks" / f"{split}.npz") as ranks:
      found[split] = {name: ranks[name].tolist() for name in ranks.files}
    path = root / "predictions" / f"{split}.json"
    found[path] = json.loads(path.read_text())
  return found


def _assert_as_before(root, kept):
  expected = _results(kept)
  for split in ("valid", "test"):
    own = pathlib.Path("predictions", f"{split}.json")
    expected[root / own] = expected.pop(kept / own)
  # Adapters name the path of their base, so a moved workdir's is another.
  found = _results(root)
  for results in (found, expected):
    for value in results.values():
      if isinstance(value, dict) and "fingerprints" in value:
        value["fingerprints"].pop("adapter", None)
        value.pop("seal", None)
  assert found == expected


@pytest.mark.slow
@pytest.mark.parametrize(
  ("case", "name"), list(enumerate(own[0] for own in FILES))
)
def test_what_is_damaged_is_made_again(finished_demo, workdir, case, name):
  """By its own mode; `test_all_at_once` by one that only uses it."""
  _, kept = finished_demo
  _, mode, other = FILES[case]
  DAMAGES[case % len(DAMAGES)](workdir / name, kept / other)
  _run(mode, workdir)
  if mode != "ground_eval":
    ground_eval.run(demo_workdir.config(), workdir)
  _assert_as_before(workdir, kept)


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
def test_all_at_once(finished_demo, workdir, damage):
  _, kept = finished_demo
  for name, _, other in FILES:
    damage(workdir / name, kept / other)
  ground_eval.run(demo_workdir.config(), workdir)
  _assert_as_before(workdir, kept)


# What a list is made with, and the mode that makes it again.
READ = [own for own in FILES if own[1] in ("prepare", "pretrain", "train")]
READ += [own for own in FILES if own[1] == "embed"]


@pytest.mark.slow
@pytest.mark.parametrize(("case", "name"), list(enumerate(r[0] for r in READ)))
def test_a_mode_that_reads_refuses_and_its_hint_works(
  finished_demo, workdir, case, name
):
  _, kept = finished_demo
  config = demo_workdir.config(history=("1",), injection="none", unknown="skip")

  def look():
    asked = Asked(flags=(f"--workdir={workdir}",))
    return Session(config, workdir, asked).begin(recommend.STAGE, reads=True)

  assert look()
  damage = DAMAGES[(case + 2) % len(DAMAGES)]
  damage(workdir / name, kept / READ[case][2])
  for _ in range(4):  # One thing after the other may be missing.
    try:
      if look():
        break
    except errors.UserError as error:
      line = str(error)
      assert "\n" not in line and str(workdir) in line, line
      _run(re.search(r"--mode=(\w+)", line)[1], workdir)
  else:
    pytest.fail(f"{name}: {line}")
  ground_eval.run(demo_workdir.config(), workdir)
  _assert_as_before(workdir, kept)


@pytest.mark.parametrize(
  ("name", "stage", "mode"),
  [
    ("data/catalogue.jsonl", "data", "prepare"),
    ("base/model.safetensors", "base", "pretrain"),
    ("adapter/adapter_model.safetensors", "adapter", "train"),
    ("embeddings/items-00000-of-00001.npy", "embeddings", "embed"),
  ],
)
@pytest.mark.slow
def test_the_library_refuses_what_was_changed(workdir, name, stage, mode):
  del stage
  _flip(workdir / name, None)
  with pytest.raises(errors.UserError) as error:
    recommender.Recommender.load(workdir, injection="none")
  assert f"{workdir / name}: its content isn't what was written" in str(
    error.value
  )
  assert f"--mode={mode} makes it again" in str(error.value)


@pytest.mark.slow
def test_what_valid_chose_is_sealed(workdir):
  path = workdir / "chosen.json"
  chosen = json.loads(path.read_text())
  injection = {"injection": "popularity", "gamma": {"popularity": 3.0}}
  path.write_text(json.dumps(chosen | injection))
  config = demo_workdir.config(history=("1",), unknown="skip")
  session = Session(config, workdir)
  with pytest.raises(errors.UserError, match=r"chosen\.json.*--mode=ground_ev"):
    session.begin(recommend.STAGE, reads=True)
  ground_eval.run(demo_workdir.config(), workdir)
  assert json.loads(path.read_text()) == chosen


@pytest.mark.slow
def test_a_model_without_a_whole_checkpoint_is_trained_again(
  finished_demo, workdir, capsys
):
  _, kept = finished_demo
  (training,) = (workdir / "cf" / "sasrec" / "checkpoints").iterdir()
  for damage in (_flip, _delete):
    largest = max(
      (p for p in training.rglob("*") if p.is_file()),
      key=lambda p: p.stat().st_size,
    )
    damage(largest, None)
    assert not seals.has_whole(training)
    ground_eval.run(demo_workdir.config(), workdir)  # Scores are enough.
    assert "train_cf: again" not in capsys.readouterr().out
    train_cf.run(demo_workdir.config(), workdir)
    assert "no checkpoint of it is whole" in capsys.readouterr().out
    assert seals.has_whole(training)
    _assert_as_before(workdir, kept)


@pytest.mark.slow
def test_verify_finds_what_sizes_and_times_hide(workdir, capsys):
  path = workdir / "predictions" / "test.json"
  state = path.stat()
  path.write_text(path.read_text().replace("1", "2"))
  os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
  config = demo_workdir.config()
  session = Session(config, workdir)
  assert session.begin(ground_eval.STAGE)
  assert not session.walk.artefacts.digested
  assert session.walk.look(generate.stage("test")).is_current
  asked = Asked(verify=True, dry_run=True)
  Session(config, workdir, asked).begin(ground_eval.STAGE)
  shown = capsys.readouterr().out
  assert re.search(r"verify: \d+ files, [\d,]+ bytes digested", shown)
  assert "test.json would be made: " in shown and "expected)" in shown


@pytest.mark.slow
def test_other_times_cost_a_digest_once(workdir):
  for path in workdir.rglob("*"):
    path.touch()
  config = demo_workdir.config()
  for expected in (True, False):
    session = Session(config, workdir)
    assert session.begin(ground_eval.STAGE)
    assert bool(session.walk.artefacts.digested) is expected
    assert session.walk.look(ground_eval.STAGE).is_current


@pytest.mark.slow
def test_records_of_before_stay_current_and_learn_what_files_hold(workdir):
  folder = workdir / "records"
  (folder / "data.json").unlink()  # The manifest was its only record.
  for record in folder.glob("*.json"):
    stored = json.loads(record.read_text())
    del stored["digests"]
    record.write_text(json.dumps(stored))
  config = demo_workdir.config()
  session = Session(config, workdir)
  session.make(ground_eval.STAGE)
  assert not session.walk.built
  for record in folder.glob("*.json"):
    if not record.stem.startswith(("recommend", "report")):
      assert "digests" in json.loads(record.read_text()), record


@pytest.mark.slow
def test_shuffled_predictions_of_before_are_made_again(
  finished_demo, workdir, capsys
):
  _, kept = finished_demo
  record = workdir / "records" / "predictions_test.json"
  stored = json.loads(record.read_text())
  del stored["digests"]
  record.write_text(json.dumps(stored))
  path = workdir / "predictions" / "test.json"
  path.write_text(json.dumps(json.loads(path.read_text())[::-1]))
  ground_eval.run(demo_workdir.config(), workdir)
  assert "row 0" in capsys.readouterr().out
  _assert_as_before(workdir, kept)


@pytest.mark.slow
def test_the_other_splits_file_is_named(workdir, capsys):
  folder = workdir / "predictions"
  (folder / "valid.json").replace(folder / "third.json")
  (folder / "test.json").replace(folder / "valid.json")
  (folder / "third.json").replace(folder / "test.json")
  asked = Asked(dry_run=True)
  Session(demo_workdir.config(), workdir, asked).begin(ground_eval.STAGE)
  shown = capsys.readouterr().out
  assert "bytes found" in shown or "it is that of predictions/" in shown


@pytest.mark.slow
def test_a_changed_adapter_is_exported_again_not_trained_again(
  finished_demo, workdir, monkeypatch, capsys
):
  from bigrec_jax.training import loop

  _, kept = finished_demo
  steps = []
  monkeypatch.setattr(
    loop.TrainingRun, "_step", lambda self, report: steps.append(1)
  )
  _flip(workdir / "adapter" / "adapter_model.safetensors", None)
  train.run(demo_workdir.config(), workdir)
  shown = capsys.readouterr().out
  assert "train: again, because of" in shown and not steps
  assert "adapter.changed." in shown  # Whosever it was, it isn't lost.
  name = "adapter/adapter_model.safetensors"
  assert (workdir / name).read_bytes() == (kept / name).read_bytes()


@pytest.mark.slow
def test_an_adapter_says_of_which_base_it_is(workdir, tmp_path):
  given = tmp_path / "given"
  shutil.copytree(workdir / "adapter", given)
  config = demo_workdir.config()
  model = dataclasses.replace(config.model, adapter=str(given))
  named = dataclasses.replace(config, model=model)
  asked = Asked(adapter=str(given))
  train.check_used(Session(named, workdir, asked))
  # Another base of the same shapes.
  other = tmp_path / "other"
  shutil.copytree(workdir, other)
  seed = dataclasses.replace(named, seed=named.seed + 1)
  with pytest.raises(errors.UserError, match="trained on base .* says so"):
    session = Session(seed, other, asked)
    session.make(importlib.import_module("bigrec_jax.stages.pretrain").STAGE)
    train.check_used(session)
  shutil.rmtree(other / "adapter")
  with pytest.raises(errors.UserError, match="trained on base"):
    finished.find_adapter(Session(seed, other))


def _samples(session, split="test"):
  return session.task.samples(split)


@pytest.mark.slow
def test_given_predictions_of_other_rows_are_refused(workdir, tmp_path, caplog):
  session = Session(demo_workdir.config(), workdir)
  samples = _samples(session)
  rows = [samples.content(n) | {"predict": ["x"]} for n in range(len(samples))]
  path = tmp_path / "given.json"
  rows_of.check(path, rows, samples, "test")
  swapped = [rows[1] | {"output": rows[0]["output"]}, rows[0], *rows[2:]]
  swapped[1] = rows[0] | {"output": rows[1]["output"]}
  with pytest.raises(errors.UserError, match="row 0: input .*2 rows differ"):
    rows_of.check(path, swapped, samples, "test")
  # Other words in all prompts are no other rows.
  other = [row | {"input": f"Seen: {row['input']}"} for row in rows]
  rows_of.check(path, other, samples, "test")
  rows_of.check(path, [{"predict": ["x"]} for _ in rows], samples, "test")
  assert "taken on trust" in caplog.text


@pytest.mark.slow
def test_secondary_files_fail_no_work(
  finished_demo, workdir, caplog, monkeypatch
):
  _, kept = finished_demo
  names = ("throughput.json", "test_examples.json")
  write = storage.write_json

  def full(path, *args, **options):
    if path.name in names:
      raise OSError(errno.ENOSPC, "No space left on device", str(path))
    write(path, *args, **options)

  monkeypatch.setattr(storage, "write_json", full)
  (workdir / "metrics" / "ground_eval.json").unlink()
  ground_eval.run(demo_workdir.config(), workdir)
  _assert_as_before(workdir, kept)
  assert "examples are not kept" in caplog.text
  assert "how fast ground was is not kept" in caplog.text


@pytest.mark.slow
def test_predictions_that_were_kept_aside_come_back_whole_or_not(workdir):
  config = demo_workdir.config()
  folder = workdir / "predictions"
  session = Session(config, workdir)
  inputs = session.walk.look(generate.stage("test")).inputs
  path, first = folder / "test.json", (folder / "test.json").read_bytes()
  other = dict(inputs) | {"adapter": "of somebody else"}
  generate._set_aside(session, "test", other)
  assert not path.exists()
  (kept,) = (folder / "of_other_adapters").glob("test.*[0-9a-f].json")
  assert generate._is_whole(kept) and kept.read_bytes() == first
  _flip(kept, None)
  assert not generate._is_whole(kept)
  assert predictions.titles(session, "valid")


def test_every_stage_says_which_files_are_its_own():
  from bigrec_jax.stages import embed, evaluate, prepare, pretrain, report

  session = Session(demo_workdir.config(), pathlib.Path("nowhere"))
  task = evaluate._of_task("yes_no", ())
  stages = [prepare.STAGE, pretrain.STAGE, train.STAGE, embed.STAGE]
  stages += [ground_eval.STAGE, report.STAGE, task, train_cf.stage("sasrec")]
  stages += [generate.stage(split) for split in ("valid", "test")]
  patterns = [p for one in stages for p in one.files(session)]
  assert len(set(patterns)) == len(patterns)
  assert isinstance(session.config, config_lib.Config)
  assert paths_lib.Paths(session.paths.root) == session.paths


@pytest.mark.slow
def test_a_report_leaves_out_what_cannot_be_believed(workdir, capsys):
  path = workdir / "predictions" / "test.json"
  path.write_text(json.dumps(json.loads(path.read_text())[::-1], indent=1))
  (workdir / "ranks" / "test.npz").write_bytes(
    (workdir / "ranks" / "valid.npz").read_bytes()
  )
  _run("report", workdir)
  shown = capsys.readouterr().out
  for name in ("predictions/test.json", "ranks/test.npz"):
    assert f"left out, because damaged: {workdir / name}: its" in shown


@pytest.mark.slow
def test_a_base_that_was_changed_in_the_middle_is_another(
  workdir, tmp_path, capsys
):
  base = tmp_path / "base"
  shutil.copytree(workdir / "base", base)
  large = base / "large.safetensors"  # Of its ends alone it has its name.
  large.write_bytes(bytes(4 << 20))
  own = demo_workdir.config()
  model = dataclasses.replace(own.model, path=str(base))
  config = dataclasses.replace(own, model=model)
  first = Session(config, workdir)
  first.begin(ground_eval.STAGE)
  with open(large, "r+b") as file:
    file.seek(2 << 20)
    file.write(b"1")
  capsys.readouterr()
  for asked in (Asked(dry_run=True), Asked()):
    second = Session(config, workdir, asked)
    second.begin(ground_eval.STAGE)
    assert second.base_fingerprint != first.base_fingerprint
    assert f"config: {large}: changed since it was read here" in (
      capsys.readouterr().out
    )
