"""Mistakes on the command line: one line, exit status 2."""

import pytest

from tests.stages import command

DEMO = "--config=configs/demo.py:tiny"


@pytest.mark.parametrize(
  ("flags", "words"),
  [
    (["--mode=prepare"], ["--config is missing"]),
    (
      ["--mode=train", "--workdir=runs/none", "--config.seed=1"],
      ["--config is missing", "no runs/none/config.json"],
    ),
    ([DEMO], ["--mode", "ground_eval"]),
    ([DEMO, "--mode=prepair"], ["prepair", "did you mean prepare"]),
    ([DEMO, "--mode=prepare", "extra"], ["'extra'", "not a flag"]),
    ([DEMO, "--mode=prepare", "--wrkdir=x"], ["wrkdir", "workdir"]),
    (["--config=configs/none.py", "--mode=train"], ["configs/none.py"]),
    (["--config=configs/demo.py:big", "--mode=train"], ["'big'", "tiny"]),
    (
      [DEMO, "--mode=train", "--config.train.lerning_rate=1"],
      ["lerning_rate", "config.train.learning_rate"],
    ),
    (
      [DEMO, "--mode=train", "--config.trane.batch_size=1"],
      ["config.trane.batch_size", "config.train.batch_size"],
    ),
    (
      [DEMO, "--mode=train", "--config.train.batch_size=many"],
      ["config.train.batch_size", "many"],
    ),
    (
      [DEMO, "--mode=train", "--config.train.batch_size=0"],
      ["config.train.batch_size", "0 found", "from 1 to"],
    ),
    (
      [DEMO, "--mode=prepare", "--workdir=gs://bucket/run"],
      ["--workdir", "gs://bucket/run", "gcsfuse"],
    ),
    (
      [DEMO, "--mode=train", "--config.model.path=s3://bucket/llama"],
      ["--config.model.path", "s3://bucket/llama", "mount"],
    ),
    (
      [DEMO, "--mode=train", "--config.prompt.style=alpaca"],
      ["config.prompt.style", "alpaca", "bigrec"],
    ),
  ],
)
def test_a_mistake_in_the_flags_is_one_line(flags, words):
  line = command.mistake(*flags)
  for word in words:
    assert word in line


def test_a_workdir_that_is_a_file_is_refused(tmp_path):
  file = tmp_path / "file"
  file.write_text("precious")
  line = command.mistake(DEMO, "--mode=prepare", f"--workdir={file}")
  assert str(file) in line and "folder expected" in line
  assert file.read_text() == "precious"


def test_missing_raw_files_are_named(tmp_path):
  flags = ["--config=configs/movie.py:tiny", "--mode=prepare"]
  flags += [f"--workdir={tmp_path}/run", f"--config.data.raw_dir={tmp_path}"]
  line = command.mistake(*flags)
  assert str(tmp_path) in line and "ratings.dat" in line


def test_a_mesh_that_does_not_fit_the_devices_is_refused(tmp_path):
  line = command.mistake(
    DEMO,
    "--mode=embed",
    f"--workdir={tmp_path}",
    "--config.mesh.data=3",
    devices=2,
  )
  assert "config.mesh" in line and "2" in line
