"""The table of a system's parts; its pipeline only notes what it is given."""

import pytest

from benchmarks import ablations
from bigrec_jax.results import rows
from bigrec_jax.workdir import paths as paths_lib
from configs import rsllm


@pytest.fixture
def runs(monkeypatch):
  """Notes (workdir's name, configuration, what was there) of each run."""
  noted = []

  def pipeline(config, workdir, asked):
    asked.remember()
    there = sorted(path.name for path in workdir.iterdir())
    noted.append((workdir.name, config, there))
    for name in ("data", "base", "adapter"):
      (workdir / name).mkdir(exist_ok=True)
      (workdir / name / "file").write_text(workdir.name)
    value = 1.0 - config.train.contrastive.target_weight + config.seed
    rows.write_task(
      paths_lib.Paths(workdir).task_metrics("rsllm"),
      [
        rows.TaskRow("test", system, {"hit": value * scale}, {}, 8, [0])
        for system, scale in (("rsllm", 1.0), ("most_pop", 9.0))
      ],
    )

  monkeypatch.setattr(ablations.pipeline, "run", pipeline)
  return noted


def test_each_part_is_left_out_once_a_seed(tmp_path, runs):
  changes = {"train.also": ("runs/other",)}
  found = ablations.run(rsllm, "tiny", tmp_path, changes, [3, 5])
  names = list(rsllm.ABLATIONS)
  assert [row.system for row in found] == names
  assert len(runs) == 2 * len(names)
  by_name = {
    name: {row.system: row for row in found}[name].metrics["hit"]
    for name in names
  }
  assert by_name["rsllm"] == pytest.approx(4 + 0.875)  # The mean of seeds.
  assert by_name["without target-target"] == pytest.approx(5)
  assert all(row.seeds == (3, 5) for row in found)
  stored = rows.read_task(tmp_path / "metrics" / "ablations.json")
  assert list(stored) == found

  configs = {name: config for name, config, _ in runs}
  assert configs["without_stage_1-5"].train.first.num_epochs == 0
  assert configs["without_user_target-3"].train.contrastive.user_weight == 0
  assert configs["without_soft_tokens-3"].task.choose.schedule == "text"
  assert all(
    config.train.also == ("runs/other",) for config in configs.values()
  )
  assert configs["rsllm-5"].seed == 5


def test_what_no_part_changes_is_made_once_a_seed(tmp_path, runs):
  ablations.run(rsllm, "tiny", tmp_path, {}, [0, 1])
  for name, _, there in runs:
    whole = name.startswith("rsllm")
    assert ("data" in there) != whole and "adapter" not in there
  copied = tmp_path / "without_stage_1-1" / "base"
  assert copied.is_dir() and (tmp_path / "without_stage_1-0").is_dir()
  # Again: workdirs stay as they are, and the pipeline finds what is current.
  before = len(runs)
  ablations.run(rsllm, "tiny", tmp_path, {}, [0])
  assert all("adapter" in there for _, _, there in runs[before:])
