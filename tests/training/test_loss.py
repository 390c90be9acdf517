import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from bigrec_jax import config
from bigrec_jax.devices import sharding
from bigrec_jax.training import loss

B, T, D, V = 4, 23, 7, 31


def _problem(seed=0, rows=B):
  rng = np.random.default_rng(seed)
  hidden = rng.normal(size=(rows, T, D)).astype(np.float32)
  head = rng.normal(size=(D, V)).astype(np.float32)
  labels = rng.integers(0, V, (rows, T)).astype(np.int32)
  mask = rng.random((rows, T)) < 0.6
  mask[0] = False  # A padded row.
  mask[1] = True
  return hidden, head, labels, mask


def _naive(hidden, head, labels, mask):
  logits = hidden @ head
  logp = jax.nn.log_softmax(logits, axis=-1)
  picked = jnp.take_along_axis(logp, labels[..., None], axis=-1)[..., 0]
  return -jnp.sum(jnp.where(mask, picked, 0.0)), jnp.sum(mask)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("chunk", [1, 5, 23, 100])
def test_equals_full_logits(chunk, tied):
  hidden, head, labels, mask = _problem()

  def ours(hidden, head):
    total, count = loss.cross_entropy(
      hidden, head, labels, mask, chunk, tied=tied
    )
    return 0.5 * total, count

  def naive(hidden, head):
    total, count = _naive(hidden, head, labels, mask)
    return 0.5 * total, count

  grad = jax.jit(jax.value_and_grad(ours, argnums=(0, 1), has_aux=True))
  (value, count), grads = grad(hidden, head)
  (value_, count_), grads_ = jax.value_and_grad(
    naive, argnums=(0, 1), has_aux=True
  )(hidden, head)
  assert count == count_ == mask.sum()
  np.testing.assert_allclose(value, value_, rtol=1e-5)
  np.testing.assert_allclose(grads[0], grads_[0], atol=1e-5)
  np.testing.assert_allclose(grads[1], grads_[1], atol=1e-5)


def test_a_frozen_head_gets_no_gradient_work():
  hidden, head, labels, mask = _problem()

  def ours(hidden):
    return loss.cross_entropy(hidden, head, labels, mask, 5)[0]

  text = str(jax.make_jaxpr(jax.grad(ours))(hidden))
  assert text.count("dot_general") == 2  # Logits and d_hidden; no d_head.
  assert f"f32[{B},{T},{V}]" not in text  # Never the logits of the batch.


def test_no_labels_at_all_is_zero():
  hidden, head, labels, _ = _problem()
  mask = np.zeros((B, T), bool)
  total, count = loss.cross_entropy(hidden, head, labels, mask, 5)
  assert total == 0 and count == 0


def test_bfloat16_states_keep_a_float32_softmax():
  hidden, head, labels, mask = _problem()
  hidden, head = hidden.astype(jnp.bfloat16), head.astype(jnp.bfloat16)
  total, _ = loss.cross_entropy(hidden, head, labels, mask, 5)
  expected, _ = _naive(
    hidden.astype(np.float32), head.astype(np.float32), labels, mask
  )
  np.testing.assert_allclose(total, expected, rtol=1e-5)


def test_sharded_rows_and_vocabulary_give_the_same():
  hidden, head, labels, mask = _problem(rows=8)
  head = np.pad(head, ((0, 0), (0, 1)))  # 32 divides over `tensor`.
  mesh = sharding.make_mesh(config.MeshConfig(2, 2, 2))

  def put(value, *spec):
    return jax.device_put(value, NamedSharding(mesh, PartitionSpec(*spec)))

  def ours(hidden, head, labels, mask):
    return loss.cross_entropy(hidden, head, labels, mask, 5, mesh)[0]

  step = jax.jit(jax.value_and_grad(ours))
  args = (
    put(hidden, ("data", "fsdp")),
    put(head, None, "tensor"),
    put(labels, ("data", "fsdp")),
    put(mask, ("data", "fsdp")),
  )
  value, grad = step(*args)
  expected = jax.value_and_grad(lambda *a: _naive(*a)[0])(
    hidden, head, labels, mask
  )
  np.testing.assert_allclose(value, expected[0], rtol=1e-5)
  np.testing.assert_allclose(grad, expected[1], atol=1e-5)
  # Rows stay where they are and logits are never collected.
  text = step.lower(*args).compile().as_text()
  assert "all-gather" not in text


def test_targets_stay_within_their_example():
  tokens = np.array([[5, 6, 7, 8, 9, 0, 0]], np.int32)
  segments = np.array([[1, 1, 1, 2, 2, 0, 0]], np.int32)
  loss_mask = np.array([[0, 1, 1, 0, 1, 0, 0]], np.int32)
  labels, mask = loss.next_token_targets(tokens, segments, loss_mask)
  assert mask.tolist() == [[True, True, False, True, False, False, False]]
  assert np.asarray(labels)[np.asarray(mask)].tolist() == [6, 7, 9]


def test_a_wrapped_first_token_is_no_target():
  tokens = np.array([[5, 6]], np.int32)
  ones = np.ones((1, 2), np.int32)
  _, mask = loss.next_token_targets(tokens, ones, ones)
  assert mask.tolist() == [[True, False]]


def test_a_tied_head_is_not_copied():
  hidden, head, labels, mask = _problem()
  table = np.ascontiguousarray(head.T)  # [V, D]

  def ours(hidden, table, tied):
    return loss.cross_entropy(hidden, table.T, labels, mask, 5, tied=tied)[0]

  def exists_transposed(tied):
    gradient = jax.jit(jax.grad(ours), static_argnums=2)
    text = gradient.lower(hidden, table, tied).compile().as_text()
    return f"f32[{D},{V}]" in text

  assert exists_transposed(False) and not exists_transposed(True)


def test_logits_in_memory_are_those_of_a_chunk_whatever_the_tokens():
  width, vocabulary, chunk = 8, 4096, 16

  def temporaries(tokens):
    given = [
      jax.ShapeDtypeStruct((1, tokens, width), jnp.float32),
      jax.ShapeDtypeStruct((width, vocabulary), jnp.float32),
      jax.ShapeDtypeStruct((1, tokens), jnp.int32),
      jax.ShapeDtypeStruct((1, tokens), jnp.bool_),
    ]

    def total(hidden, head, labels, mask):
      return loss.cross_entropy(hidden, head, labels, mask, chunk)[0]

    compiled = jax.jit(jax.grad(total)).lower(*given).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  logits = 4 * chunk * vocabulary
  few, many = temporaries(64), temporaries(1024)
  assert few < 4 * logits  # Logits, their gradient, room for a third.
  assert many - few < 4 * 16 * 1024 * width  # States, not logits: 15 MiB.
