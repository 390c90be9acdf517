"""Stages that are cut short at many places, and what comes out in the end."""

import contextlib
import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from bigrec_jax import progress
from bigrec_jax.decoding import generate as decoding
from bigrec_jax.rankers import engine
from bigrec_jax.stages import (
  artefacts,
  embed,
  generate,
  ground_eval,
  pretrain,
  session,
)
from bigrec_jax.workdir import parts as parts_lib
from tests import demo_workdir
from tests.stages import command

pytestmark = pytest.mark.slow


@pytest.fixture
def workdir(evaluated_demo, tmp_path, monkeypatch):
  """A workdir that is evaluated; parts of more are written at once."""
  monkeypatch.setattr(parts_lib, "SECONDS", -1.0)
  shutil.copytree(evaluated_demo, tmp_path / "workdir")
  return tmp_path / "workdir"


class Kill(BaseException):
  """Nobody catches it by mistake."""


@contextlib.contextmanager
def _killed(label, after):
  """Ends a stage after so many units; it has to come so far."""
  update = progress.Progress.update

  def killing(self, count, **figures):
    update(self, count, **figures)
    if self._label == label and self.done >= after:
      raise Kill(label)

  with pytest.MonkeyPatch.context() as patch, pytest.raises(Kill):
    patch.setattr(progress.Progress, "update", killing)
    yield


def _forget(workdir, stage):
  """Takes away a stage's artefact; returns where it would be."""
  run = session.Session(demo_workdir.config(), workdir)
  where = stage.where(run)
  if where.is_dir():
    shutil.rmtree(where)
  else:
    where.unlink()
  run.paths.record(stage.name).unlink()
  return where


def _left(workdir):
  return sorted(path.name for path in (workdir / ".parts").glob("*"))


def _assert_same(path, expected):
  found = json.loads(path.read_text())
  assert len(found) == len(expected)
  for row, other in zip(found, expected, strict=True):
    np.testing.assert_allclose(row["scores"], other["scores"], rtol=1e-6)
    assert {**row, "scores": None} == {**other, "scores": None}


class Decoded:
  """Counts whom the decoder was asked for."""

  def __init__(self, monkeypatch):
    self.rows, take = [], decoding._Collector._take

    def counting(collector, row, *found):
      self.rows.append(row)
      return take(collector, row, *found)

    monkeypatch.setattr(decoding._Collector, "_take", counting)

  def pop(self):
    found, self.rows = sorted(self.rows), []
    return found


def test_no_user_is_decoded_twice_and_no_options_mix(workdir, monkeypatch):
  config, stage = demo_workdir.config(), generate.stage("test")
  drawn = dataclasses.replace(
    config, generate=dataclasses.replace(config.generate, sample=True)
  )
  path = workdir / "predictions" / "test.json"
  expected = json.loads(path.read_text())
  everybody = list(range(len(expected)))
  session.Session(drawn, workdir).make(stage)
  expected_drawn = json.loads(path.read_text())
  assert expected_drawn != expected
  _forget(workdir, stage)
  decoded = Decoded(monkeypatch)
  rows = {"beams": [], "drawn": []}
  for name, own, after in (
    ("beams", config, 1),
    ("drawn", drawn, 9),
    ("beams", config, 9),
    ("drawn", drawn, 1),
  ):
    with _killed("generate test", after):
      session.Session(own, workdir).make(stage)
    rows[name] += decoded.pop()
    assert not path.exists()
  assert len(_left(workdir)) == 2
  session.Session(config, workdir).make(stage)
  assert sorted(rows["beams"] + decoded.pop()) == everybody
  _assert_same(path, expected)
  # What those who draw had finished waits for them.
  assert len(_left(workdir)) == 1
  session.Session(drawn, workdir).make(stage)
  assert sorted(rows["drawn"] + decoded.pop()) == everybody
  _assert_same(path, expected_drawn)
  assert _left(workdir) == []


def test_a_kill_between_decoding_and_the_record_decodes_nobody(
  workdir, monkeypatch
):
  stage = generate.stage("valid")
  path = _forget(workdir, stage)
  with pytest.MonkeyPatch.context() as patch, pytest.raises(Kill):
    patch.setattr(
      session.Session, "keep_throughput", _raise
    )  # Secondary, and after all users.
    session.Session(demo_workdir.config(), workdir).make(stage)
  decoded = Decoded(monkeypatch)
  with pytest.MonkeyPatch.context() as patch, pytest.raises(Kill):
    patch.setattr(artefacts.Artefacts, "keep", _raise)
    session.Session(demo_workdir.config(), workdir).make(stage)
  assert path.exists()
  session.Session(demo_workdir.config(), workdir).make(stage)
  assert decoded.rows == [] and _left(workdir) == []


def _raise(*_, **__):
  raise Kill


_CHILD = """
import os, sys, signal
from bigrec_jax.workdir import parts
from bigrec_jax.stages import generate, session
from tests import demo_workdir
parts.SECONDS = -1.0
flush, flushed = parts.Parts.flush, []

def killing(self):
  flushed.append(self)
  if len(flushed) > int(sys.argv[2]):
    key, content, head = self._waiting[-1]
    with open(self.path, "ab") as file:
      file.write(content[: len(content) // 2])
    os.kill(os.getpid(), signal.SIGKILL)
  flush(self)

parts.Parts.flush = killing
session.Session(demo_workdir.config(), sys.argv[1]).make(generate.stage("test"))
"""


def test_sigkill_in_the_middle_of_a_write(workdir, monkeypatch):
  stage = generate.stage("test")
  expected = json.loads((workdir / "predictions" / "test.json").read_text())
  path = _forget(workdir, stage)
  for seed in range(2):
    after = int(np.random.default_rng(seed).integers(1, 4))
    result = subprocess.run(
      [sys.executable, "-c", _CHILD, str(workdir), str(after)],
      cwd=command.ROOT,
      capture_output=True,
      text=True,
    )
    assert result.returncode == -9, result.stderr[-2000:]
    assert not path.exists() and len(_left(workdir)) == 1
  decoded = Decoded(monkeypatch)
  session.Session(demo_workdir.config(), workdir).make(stage)
  assert 0 < len(decoded.rows) < len(expected) - 2
  _assert_same(path, expected)


def test_two_processes_go_on_where_one_was_killed(workdir):
  if why := command.why_not_together():
    pytest.skip(why)
  stage = generate.stage("test")
  expected = json.loads((workdir / "predictions" / "test.json").read_text())
  path = _forget(workdir, stage)
  with _killed("generate test", 9):
    session.Session(demo_workdir.config(), workdir).make(stage)
  flags = ["--config=configs/demo.py:tiny", f"--workdir={workdir}"]
  flags += ["--mode=generate", "--config.generate.split=test"]
  flags += ["--config.mesh.data=4", "--config.mesh.fsdp=2"]
  first, second = command.run_together(2, *flags)
  for result in (first, second):
    assert result.returncode == 0, result.stderr[-2000:]
  assert "were done before" in first.stderr
  _assert_same(path, expected)
  assert _left(workdir) == []


def _bytes(folder):
  return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_no_title_is_embedded_twice(workdir, monkeypatch):
  expected = _bytes(workdir / "embeddings")
  _forget(workdir, embed.STAGE)
  added, add = [], parts_lib.Vectors.add

  def counting(self, rows, values):
    added.extend(rows.tolist())
    add(self, rows, values)

  monkeypatch.setattr(parts_lib.Vectors, "add", counting)
  for after in (1, 40):
    with _killed("embed", after):
      session.Session(demo_workdir.config(), workdir).make(embed.STAGE)
  session.Session(demo_workdir.config(), workdir).make(embed.STAGE)
  assert len(added) == len(set(added)) == max(added) + 1
  assert _bytes(workdir / "embeddings") == expected
  assert _left(workdir) == []


def test_ground_eval_ranks_nothing_twice(workdir, monkeypatch):
  expected = (workdir / "metrics" / "ground_eval.json").read_bytes()
  with np.load(workdir / "ranks" / "test.npz") as ranks:
    expected_ranks = dict(ranks)
  _forget(workdir, ground_eval.STAGE)
  calls, call = [], engine.Ranks.__call__

  def make():
    session.Session(demo_workdir.config(), workdir).make(ground_eval.STAGE)

  for label, after in (("embed valid", 1), ("ground", 1), ("ground", 24)):
    with _killed(label, after):
      make()
  for after in (1, 3, 7):

    def killing(self, ranker, after=after):
      if len(calls) == sum((1, 3, 7)[: (1, 3, 7).index(after) + 1]):
        raise Kill
      calls.append(ranker)
      return call(self, ranker)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Kill):
      patch.setattr(engine.Ranks, "__call__", killing)
      make()

  def counting(self, ranker):
    calls.append(ranker)
    return call(self, ranker)

  monkeypatch.setattr(engine.Ranks, "__call__", counting)
  make()
  (workdir / "metrics" / "ground_eval.json").rename(workdir / "resumed.json")
  assert (workdir / "resumed.json").read_bytes() == expected
  with np.load(workdir / "ranks" / "test.npz") as ranks:
    for name, array in dict(ranks).items():
      np.testing.assert_array_equal(array, expected_ranks[name])
  assert _left(workdir) == []
  asked, calls[:] = len(calls), []
  make()
  assert len(calls) == asked  # In all runs together no more than in one.


def test_pretraining_goes_on_and_ends_equal(workdir):
  weights = workdir / "base" / "model.safetensors"
  expected = weights.read_bytes()
  config = demo_workdir.config()
  config = dataclasses.replace(
    config, pretrain=dataclasses.replace(config.pretrain, save_every_steps=1)
  )
  _forget(workdir, pretrain.STAGE)
  for after in (2, 1):
    with _killed("pretrain", after):
      session.Session(config, workdir).make(pretrain.STAGE)
    assert not weights.exists() and len(_left(workdir)) == 1
  session.Session(config, workdir).make(pretrain.STAGE)
  assert weights.read_bytes() == expected
  assert _left(workdir) == []
