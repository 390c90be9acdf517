"""The curve against Hugging Face Trainer and PEFT, run live."""

import dataclasses

import jax
import numpy as np
import pytest

from bigrec_jax.models import peft_import

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module", params=[True, False])
def peer(request, tmp_path_factory):
  for name in ("torch", "transformers", "peft"):
    pytest.importorskip(name)
  from tests.training import twin

  config = twin.config(train_on_inputs=request.param).train
  return twin.Peer(tmp_path_factory.mktemp("peer"), config), config


@pytest.mark.parametrize(
  "changes",
  [
    {"packing": True, "micro_batch_size": 2},
    {"packing": False, "micro_batch_size": 2},
    {"packing": True, "micro_batch_size": 16, "mesh": (2, 2, 2)},
  ],
)
def test_equals_transformers_and_peft(tmp_path, peer, changes):
  from tests.training import twin

  theirs, config = peer
  mesh_sizes = changes.pop("mesh", (1, 1, 1))
  config = dataclasses.replace(config, **changes)
  curve, adapter, arch = twin.ours(tmp_path, theirs, config, mesh_sizes)

  steps = [x for x in curve if "loss" in x]
  expected = [x for x in theirs.history if "loss" in x]
  assert len(steps) == len(expected) == 4 * twin.EPOCHS
  for one, other in zip(steps, expected, strict=True):
    assert one["step"] == other["step"]
    assert one["learning_rate"] == other["learning_rate"]
    np.testing.assert_allclose(one["loss"], other["loss"], atol=1e-3)
    np.testing.assert_allclose(one["grad_norm"], other["grad_norm"], rtol=1e-3)
  assert steps[-1]["loss"] < steps[0]["loss"] - 0.1  # It does learn.
  assert max(x["grad_norm"] for x in steps) > 1.0  # Clipping is tested.

  losses = [x["eval_loss"] for x in curve if "eval_loss" in x]
  expected = [x["eval_loss"] for x in theirs.history if "eval_loss" in x]
  np.testing.assert_allclose(losses, expected, atol=1e-3)

  assert np.argmin(losses) == twin.EPOCHS - 1  # So the best is the last.
  _, ours = peft_import.load_adapter(adapter, arch)
  _, end = peft_import.load_adapter(theirs.end_dir, arch)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), ours, end
  )
