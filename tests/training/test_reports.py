import math
import types

import jax.numpy as jnp
import pytest

from bigrec_jax.training import not_finite, reports


class _Listener:
  """Keeps what a writer or a bar is told."""

  def __init__(self):
    self.lines = []
    self.speeds = []

  def write(self, step, values):
    self.lines.append((step, values))

  def write_events(self, step, values):
    self.speeds.append(values["tokens_per_second"])

  def update(self, count, **shown):
    assert count == 1
    assert shown["tokens/s"] == round(self.speeds[-1])


@pytest.fixture(name="clock")
def _clock(monkeypatch):
  clock = types.SimpleNamespace(now=100.0)
  monkeypatch.setattr(reports.time, "monotonic", lambda: clock.now)
  return clock


def _metrics(loss):
  return {"loss": jnp.float32(loss), "grad_norm": jnp.float32(1.0)}


def test_steps_that_block_are_reported_at_once_with_their_own_time(clock):
  listener = _Listener()
  report = reports.StepReport(listener, listener, late=False)
  for number, seconds in enumerate((4.0, 2.0, 5.0), 1):
    clock.now += 7.0  # Evaluation, or compiling: no part of a step.
    report.begin()
    clock.now += seconds
    report.add(number, 0.1, _metrics(number), 100)
    assert [step for step, _ in listener.lines] == [*range(1, number + 1)]
  report.flush()
  assert listener.speeds == [25.0, 50.0, 20.0]
  assert [line["loss"] for _, line in listener.lines] == [1.0, 2.0, 3.0]


def test_steps_that_return_early_are_reported_at_the_next_one(clock):
  listener = _Listener()
  report = reports.StepReport(listener, listener)
  for number in (1, 2, 3):
    report.begin()
    report.add(number, 0.1, _metrics(number), 100)
    assert [step for step, _ in listener.lines] == [*range(1, number)]
    clock.now += 4.0  # Until the device is done with it.
  report.flush()
  assert listener.speeds == [25.0, 25.0, 25.0]
  clock.now += 60.0  # Evaluation.
  report.begin()
  report.add(4, 0.1, _metrics(4), 100)
  clock.now += 2.0
  report.flush()
  assert listener.speeds[3] == 50.0


def test_a_loss_that_is_no_number_stops_and_names_the_step():
  listener = _Listener()
  report = reports.StepReport(listener, listener, late=False)
  report.begin()
  with pytest.raises(not_finite.NotFinite, match="loss.*step 3"):
    report.add(3, 0.1, _metrics(math.nan), 100)
  assert not listener.lines


@pytest.mark.parametrize(
  ("first", "rates", "section", "moved"),
  [
    (1, [], "train", False),
    (1, [0.0], "train", False),  # Warm-up begins at 0.
    (1, [0.0, 0.1], "train", True),
    (1, [0.1], "pretrain", True),
    (1, [], "pretrain", False),
    (7, [0.0], "train", True),  # Resumed.
  ],
)
def test_no_update_no_blame(first, rates, section, moved):
  listener = _Listener()
  report = reports.StepReport(listener, listener, late=False, section=section)
  for number, rate in enumerate(rates, first):
    report.begin()
    report.add(number, rate, _metrics(1.0), 100)
  report.begin()
  with pytest.raises(not_finite.NotFinite) as error:
    report.add(first + len(rates), 0.1, _metrics(math.inf), 100)
  line = str(error.value)
  assert (f"a lower config.{section}.learning_rate" in line) == moved
  assert ("before any update, so the learning rate is not" in line) != moved
