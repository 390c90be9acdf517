"""One command for several seeds."""

import json
import statistics

import pytest

from bigrec_jax.results import (
  ground_file,
  main_rows,
  other_runs,
  paired_tests,
  seeds,
)
from bigrec_jax.testing import tiny_base
from bigrec_jax.workdir import paths as paths_lib
from tests.results import made_up_runs
from tests.stages import command

SMALL = (
  "--config=configs/demo.py:tiny",
  "--config.data.num_train=32",
  "--config.data.num_valid=12",
  "--config.data.num_test=12",
  "--config.train.num_epochs=1",
  "--config.cf.model=item_knn",
  "--config.ground.cf_model=item_knn",
)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
  """What two seeds, and one of them alone, left and printed."""
  root = tmp_path_factory.mktemp("seeds")
  base = f"--config.model.path={tiny_base.write(root / 'base')}"
  both, alone = f"--workdir={root / 'both'}", f"--workdir={root / 'alone'}"
  told = command.run_in_turn(
    [*SMALL, base, both, "--mode=pipeline", "--config.seeds=3,5"],
    [*SMALL, base, alone, "--mode=ground_eval", "--config.seed=5"],
    ["--mode=pipeline", both],
    ["--mode=report", f"{both}/seed-5"],
    ["--mode=recommend", both, "--history=x"],
    ["--mode=train", both, "--dry_run"],
    ["--mode=train", both, "--config.seeds=3,3"],
    ["--mode=pipeline", both, "--config.recommend.output=x"],
  )
  return root, told


def test_each_seed_is_the_run_that_it_would_be_alone(done):
  root, told = done
  assert [status for status, _ in told[:4]] == [0] * 4, told
  one, own = (paths_lib.Paths(root / name) for name in ("alone", "both/seed-5"))
  assert ground_file.read(one.ground_eval).results == (
    ground_file.read(own.ground_eval).results
  )
  for split in ("valid", "test"):
    there, here = one.predictions(split), own.predictions(split)
    assert there.read_bytes() == here.read_bytes()
  assert json.loads(own.config.read_text())["config"]["seed"] == 5


def test_what_does_not_depend_on_the_seed_is_there_once(done):
  root, told = done
  first, second = (root / "both" / f"seed-{n}" for n in (3, 5))
  for pattern in ("data/*", "embeddings/*.npy"):
    files = [p for p in first.glob(pattern) if p.is_file()]
    assert files
    for path in files:
      assert path.samefile(second / path.relative_to(first)), path
  assert not (first / "adapter" / "adapter_model.safetensors").samefile(
    second / "adapter" / "adapter_model.safetensors"
  )
  _, after = told[0][1].split("seed 5: pipeline")
  assert "seed-5/data is current" in after
  assert "seed-5/embeddings is current" in after and "again" not in after


def test_mean_and_deviation_over_seeds(done):
  root, told = done
  paths = paths_lib.Paths(root / "both")
  found = json.loads(paths.seeds.read_text())
  assert found["seeds"] == [3, 5]
  each = [
    ground_file.read(paths_lib.Paths(paths.seed(n)).ground_eval) for n in (3, 5)
  ]
  listed = [paired_tests.ranked(own, {}) for own in each]
  rows = {
    row["system"]: row["metrics"]
    for row in found["results"]
    if row["split"] == "test"
  }
  assert list(rows) == list(listed[0])
  differs = False
  for name, metrics in rows.items():
    for k in ("10", "50"):
      values = [own[name].row.ndcg[k] for own in listed]
      cell = metrics[f"ndcg@{k}"]
      assert cell["values"] == values
      assert cell["mean"] == pytest.approx(statistics.mean(values), rel=1e-12)
      assert cell["std"] == pytest.approx(statistics.stdev(values), abs=1e-12)
      differs |= values[0] != values[1]
  assert differs
  last = told[0][1]
  values = rows["bigrec"]["ndcg@20"]["values"]
  shown = f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}"
  (line,) = [
    line
    for line in last.splitlines()
    if line.startswith(main_rows.label("bigrec") + "  ") and "±" in line
  ]
  assert shown in line
  page = paths.report.read_text()
  assert shown in page and '<a href="../seed-5/report/index.html">' in page


def test_the_workdir_remembers_its_seeds(done):
  _, told = done
  again = told[2][1]
  assert again.count("adapter is current") == 2 and "±" in again
  status, dry = told[5]
  assert status == 0 and "seed 3: train" in dry and "seed 5: train" in dry


def test_mistakes_are_one_line(done):
  _, told = done
  for (status, text), words in zip(
    (told[4], *told[6:]),
    (
      "config.seeds: 3, 5 found with --mode=recommend, the workdir of a single"
      " seed expected (--workdir=",
      "config.seeds: (3, 3) found, each seed once expected",
      "config.recommend.output: x found with several seeds",
    ),
    strict=True,
  ):
    assert status == 2 and words in text, text


def test_rows_that_a_run_lacks_are_left_out(tmp_path):
  for seed in (0, 1):
    made_up_runs.evaluated(tmp_path / str(seed), seed)
  runs = [
    dict(seeds.measured(tmp_path / str(n), "next_title", True)) for n in (0, 1)
  ]
  del runs[1][("test", "cf")]
  found = seeds.over(runs)
  assert {("valid", "cf"), ("test", "bigrec")} <= {
    (row.split, row.system) for row in found
  }
  assert ("test", "cf") not in {(row.split, row.system) for row in found}
  seeds.write(tmp_path / "seeds.json", [0, 1], found)
  assert seeds.read(tmp_path / "seeds.json") == ((0, 1), found)
  together = paths_lib.Paths(tmp_path / "both")
  seeds.write(together.seeds, [0, 1], found)
  assert other_runs.roots(["a", str(together.root)]) == [
    "a",
    str(together.seed(0)),
    str(together.seed(1)),
  ]
  single = seeds.over(runs[:1])
  assert "±" not in str(seeds.cells(single, ["hr@10"]))
