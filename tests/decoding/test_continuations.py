"""Log-probabilities of continuations against Hugging Face, and by hand."""

import jax
import numpy as np
import pytest

from bigrec_jax import errors
from bigrec_jax.decoding import continuations
from tests.models import common

VOCAB = common.VOCAB


def _texts(count: int, seed: int):
  rng = np.random.default_rng(seed)
  halves = [
    [rng.integers(1, VOCAB, rng.integers(1, most)).tolist() for _ in range(2)]
    for most in rng.integers(3, 40, count)
  ]
  return [a for a, _ in halves], [b for _, b in halves]


def _network(on=None):
  model = common.build(common.LLAMA, on=on)
  return model, {"params": common.noisy_params(common.LLAMA, on)}


def _alone(model, variables, first, second) -> float:
  """One text at a time, without padding, a token at a time."""
  text = np.array([[*first, *second]], np.int32)
  positions = np.arange(text.shape[1], dtype=np.int32)[None]
  hidden = model.apply(variables, text, positions, np.ones_like(text), True)
  logits = np.asarray(model.apply(variables, hidden, method="logits"))
  logits = logits[0].astype(np.float64)
  total = 0.0
  for place in range(len(first), text.shape[1]):
    row = logits[place - 1]
    total += row[text[0, place]] - np.log(np.exp(row - row.max()).sum())
    total -= row.max()
  return total


def test_sums_are_those_of_each_text_alone():
  mesh = common.mesh()
  model, variables = _network(mesh)
  first, second = _texts(11, 0)
  found = continuations.log_probabilities(
    model, variables, first, second, mesh, 4
  )
  want = [
    _alone(model, variables, *both) for both in zip(first, second, strict=True)
  ]
  np.testing.assert_allclose(found, want, atol=1e-4)


def test_meshes_agree():
  first, second = _texts(9, 1)
  found = []
  for shape in ((1, 1, 1), (2, 2, 2)):
    mesh = common.mesh(*shape)
    model, variables = _network(mesh)
    found.append(
      continuations.log_probabilities(model, variables, first, second, mesh, 8)
    )
  np.testing.assert_allclose(*found, atol=1e-4)


def test_a_broken_weight_is_told():
  mesh = common.mesh()
  model, variables = _network(mesh)
  broken = jax.tree.map(lambda x: x * np.float32(np.nan), variables)
  with pytest.raises(errors.NonFiniteError, match="log-probability"):
    continuations.log_probabilities(model, broken, [[1]], [[2]], mesh, 1)


@pytest.mark.torch
def test_sums_are_hugging_faces(tmp_path):
  torch = pytest.importorskip("torch")
  pytest.importorskip("transformers")
  from bigrec_jax.models import hf_export
  from tests.peers import hugging_face

  mesh = common.mesh()
  model, variables = _network(mesh)
  path = tmp_path / "model"
  hf_export.save_base(path, common.LLAMA, variables["params"], None)
  peer = hugging_face.load(path)
  first, second = _texts(7, 2)
  found = continuations.log_probabilities(
    model, variables, first, second, mesh, 4
  )
  want = []
  for own, rest in zip(first, second, strict=True):
    ids = torch.tensor([[*own, *rest]])
    with torch.no_grad():
      scores = peer(ids).logits[0].log_softmax(-1)
    places = range(len(own), len(own) + len(rest))
    want.append(float(sum(scores[p - 1, ids[0, p]] for p in places)))
  np.testing.assert_allclose(found, want, atol=1e-4)
