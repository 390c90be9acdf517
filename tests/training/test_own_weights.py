"""Weights of a task's own, trained beside the adapter."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigrec_jax.models import own_weights
from bigrec_jax.training import (
  loop,
  objective as objective_lib,
  optimizer,
  run_files,
  step,
)
from bigrec_jax.workdir import paths as paths_lib
from tests.training import tiny

SPEC = own_weights.Spec(
  (own_weights.Weight(("shift",), (32,), ("embed",), 0.1),), {}
)


@dataclasses.dataclass(frozen=True)
class Shifted:
  """A language model's loss of states that are moved by an own vector."""

  extras: tuple[str, ...] = ()
  reads_header: bool = False
  tables = {}

  def __call__(self, model, variables, batch, key, *, chunk, mesh, prefix):
    model, variables, hidden = objective_lib.states(
      model, variables, batch, key, prefix
    )
    shift = variables["own"]["shift"][None, None]
    rows = (batch["tokens"], batch["segment_ids"], batch["loss_mask"])
    total, count = objective_lib.loss.of_rows(
      model, variables, hidden + shift, *rows, chunk, mesh
    )
    return objective_lib.Terms(total, count, {})


def _run(root, mesh_sizes=(1, 1, 1), stream=None):
  mesh, model, base, adapter = tiny.build(mesh_sizes)
  trained = own_weights.Trained(adapter, SPEC.init(5, mesh))
  steps = step.make_steps(
    model,
    optimizer.AdamW(0.0, 1.0, own_l2=1e-2),
    mesh,
    trained,
    loss_chunk=40,
    dropout_seed=None,
    objective=Shifted(),
  )

  def write(directory, tree):
    directory.mkdir(parents=True, exist_ok=True)
    SPEC.write(directory, tiny.numpy_tree(tree.own))

  files = run_files.RunFiles(paths_lib.Paths(root), "f", write)
  files.claim()
  run = loop.TrainingRun(
    tiny.config().train,
    steps,
    base,
    trained,
    stream or tiny.Stream(),
    [[tiny.batch(7)]],
    mesh=mesh,
    files=files,
  )
  return tiny.numpy_tree(run.run().adapter)


class _Killed(BaseException):
  pass


def test_they_are_trained_sharded_resumed_and_saved_alike(tmp_path):
  whole = _run(tmp_path / "whole")
  start = SPEC.init(5, tiny.build()[0])["shift"]
  assert np.abs(whole.own["shift"] - start).max() > 1e-3
  saved = SPEC.read(tmp_path / "whole" / "adapter")
  np.testing.assert_array_equal(saved["shift"], whole.own["shift"])

  stream = tiny.Stream()

  def kill(number):
    if number == 5:
      raise _Killed

  stream.on_step = kill
  with pytest.raises(_Killed):
    _run(tmp_path / "cut", stream=stream)
  resumed = _run(tmp_path / "cut")
  jax.tree.map(np.testing.assert_array_equal, resumed, whole)

  sharded = _run(tmp_path / "sharded", (2, 2, 2))
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4), sharded, whole
  )


@pytest.mark.torch
def test_updates_are_those_of_torchs_adam():
  """Two groups; one has no gradient at first, as a frozen projector."""
  torch = pytest.importorskip("torch")
  rng = np.random.default_rng(0)
  shapes = {"lora": (3, 4), "own": (5,)}
  start = {k: rng.normal(size=v).astype(np.float32) for k, v in shapes.items()}
  theirs = {k: torch.nn.Parameter(torch.tensor(v)) for k, v in start.items()}
  adam = torch.optim.Adam(
    [
      {"params": [theirs["lora"]]},
      {"params": [theirs["own"]], "weight_decay": 0.3},
    ],
    lr=0.05,
  )
  ours = own_weights.Trained(
    {"a": jnp.asarray(start["lora"])}, {"b": jnp.asarray(start["own"])}
  )
  adamw = optimizer.AdamW(0.0, 1e30, own_l2=0.3)
  state = adamw.init(ours)
  for number in range(6):
    grads = {
      k: rng.normal(size=v).astype(np.float32) for k, v in shapes.items()
    }
    read = number not in (0, 1, 4)
    if not read:
      grads["own"][:] = 0
    theirs["lora"].grad = torch.tensor(grads["lora"])
    theirs["own"].grad = torch.tensor(grads["own"]) if read else None
    adam.step()
    ours, state, _ = adamw.update(
      ours,
      own_weights.Trained({"a": grads["lora"]}, {"b": grads["own"]}),
      state,
      jnp.int32(number),
      jnp.float32(0.05),
    )
    for mine, other in ((ours.lora["a"], "lora"), (ours.own["b"], "own")):
      np.testing.assert_allclose(
        mine, theirs[other].detach().numpy(), rtol=1e-5, atol=1e-6
      )
