"""Two processes find what one does, whatever the task."""

import json
import shutil

import jax
import pytest

from bigrec_jax.devices import sharding
from bigrec_jax.testing import tiny_base
from tests.stages import command
from tests.tasks import evaluated

pytestmark = pytest.mark.slow
# Of evaluated.CONFIGS those that compile least: packed likelihoods with and
# without the adapter; heads of a task's own; ranks of all items.
SAMPLED = ("title_likelihood", "heads", "query")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
  return tiny_base.write(tmp_path_factory.mktemp("base") / "base")


def test_two_processes_evaluate_as_one(base, tmp_path):
  if reason := command.why_not_together():
    pytest.skip(reason)
  for name in ("one", "two"):
    shutil.copytree(base, tmp_path / name / "base")
  mesh = sharding.make_mesh(evaluated.MESH, jax.devices()[:2])
  own = ("-m", "tests.tasks.evaluated", tmp_path / "two", *SAMPLED)
  for result in command.processes_together(2, own, devices=2):
    assert result.returncode == 0, result.stderr[-3000:]
  for name in SAMPLED:
    expected = evaluated.found(name, tmp_path / "one", mesh)
    for process in (0, 1):
      path = tmp_path / "two" / f"{name}.{process}.json"
      _assert_alike(json.loads(path.read_text()), expected, name)


def _assert_alike(one, other, name):
  if isinstance(one, float):
    assert one == pytest.approx(other), name
    return
  for mine, theirs in zip(one, other, strict=True):
    assert mine[:2] == theirs[:2], name
    assert mine[2] == pytest.approx(theirs[2], nan_ok=True), (name, mine[:2])
