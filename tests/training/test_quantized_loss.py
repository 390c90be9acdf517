"""On a real model, a quantised base learns within the noise of a bfloat16 one.

`test_quantized_base.py` asks the same of random weights, in seconds. What is
noise, and why, says benchmarks/quantized_loss.py, which this runs in small.
"""

import numpy as np
import pytest

from benchmarks import quantized_loss

# Texts are cut early: that halves the time.
SETTING = quantized_loss.Setting(
  examples=32, held_out=16, epochs=4, max_length=224
)
SEEDS = range(3)
# Standard deviations. The benchmark is read against one; of three seeds it is
# known to a half only, and rounding differs between processors, so that a
# test that fails by chance alone needs more.
BOUND = 2


@pytest.fixture(scope="module")
def runs(shared_data, tmp_path_factory):
  kinds = list(quantized_loss.KINDS)
  folder = tmp_path_factory.mktemp("base")
  made = quantized_loss.Runs(SETTING, kinds, shared_data, folder)
  return {kind: [made.run(kind, seed) for seed in SEEDS] for kind in kinds}


def _ends(each, name):
  steps = SETTING.examples // SETTING.batch
  return np.array([np.mean(run[name][-steps:]) for run in each])


def test_the_difference_is_compared_with_what_a_seed_does():
  def seeds(*ends):
    return [
      {"loss": [9.0, 9.0, end - 0.5, end + 0.5], "eval_loss": [9.0, end]}
      for end in ends
    ]

  found = quantized_loss.judge(
    {"bfloat16": seeds(1.0, 3.0), "nf4": seeds(1.5, 3.1)}, epochs=2
  )
  for name in ("loss", "eval_loss"):
    one = found["nf4"][name]
    assert one["mean"] == pytest.approx(2.3)
    assert one["difference"] == pytest.approx(0.3)  # Of 0.5 and 0.1.
    assert one["noise"] == pytest.approx(2**0.5)
    assert one["ratio"] == pytest.approx(0.3 / 2**0.5)


@pytest.mark.slow
def test_runs_learn_and_differ_in_the_base_alone(runs):
  for each in runs.values():
    assert min(run["loss"][0] for run in each) > 4
    assert _ends(each, "loss").max() < 3.5
  first = {kind: [r["loss"][0] for r in each] for kind, each in runs.items()}
  # The same examples first, before anything is learnt: only rounding differs.
  apart = np.abs(np.array(first["nf4"]) - first["bfloat16"])
  assert 0 < apart.max() < 0.2
  apart = np.abs(np.array(first["int8"]) - first["bfloat16"])
  assert 0 < apart.max() < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_the_last_epoch_is_within_the_noise_of_bfloat16(runs, kind):
  found = quantized_loss.judge(runs, SETTING.epochs)[kind]
  assert found["loss"]["ratio"] <= BOUND
  assert found["eval_loss"]["ratio"] <= BOUND
