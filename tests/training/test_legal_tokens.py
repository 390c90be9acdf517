"""MSL's loss against a loop over answers: packed rows, headers, meshes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigrec_jax.data.text import encoding, packing
from bigrec_jax.decoding import constraints
from bigrec_jax.devices import sharding
from bigrec_jax.training import (
  header,
  legal_tokens,
  loss,
  objective,
  optimizer,
  step,
)
from tests.training import tiny

EOS = 2


def _titles(seed=0, count=140):
  """Titles with common beginnings, one of them the beginning of another."""
  rng = np.random.default_rng(seed)
  # More first tokens than a lookup takes at a time would need V > 128; the
  # loss alone is tested with such a root.
  titles = [
    [int(t) for t in rng.integers(3, 9 + 20 * (n % 3), rng.integers(1, 6))]
    for n in range(count)
  ]
  return [[*title, EOS] for title in [*titles, titles[0] + [7, 7, 7]]]


TITLES = _titles()
TRIE = jax.tree.map(jnp.asarray, constraints.build_trie(TITLES))


def _examples(seed, count, max_length=tiny.T, shared=()):
  """Prompts of any tokens and answers that are titles; some answers are cut."""
  rng = np.random.default_rng(seed)
  found = []
  for n in range(count):
    prompt = [*shared, *rng.integers(3, tiny.V, rng.integers(1, 9)).tolist()]
    ids = (prompt + TITLES[int(rng.integers(len(TITLES)))])[:max_length]
    if n == 1:
      ids[len(prompt)] = 60  # No title begins so.
    found.append(encoding.Encoded(np.array(ids, np.int32), len(prompt), False))
  return found


def _batch(seed=0, shared=(), length=tiny.T, count=18):
  header_length = max(len(shared) - 1, 0)
  examples = _examples(seed, count, length, shared)
  own = [
    encoding.Encoded(e.tokens[header_length:], e.first_label - header_length, 0)
    for e in examples
  ]
  (batch,) = packing.packed(own, 16, length, 0, header_length)
  return examples, batch


def _slow(logits, example, temperature):
  """Returns loss sum, count and unknown of an answer, logits [n, V]."""
  total, count, unknown, prefix = 0.0, 0, 0, []
  tokens = example.tokens.tolist()
  for place in range(example.first_label, len(tokens)):
    legal = sorted(
      {t[len(prefix)] for t in TITLES if t[: len(prefix)] == prefix}
      if not unknown
      else set()
    )
    if tokens[place] not in legal:
      unknown += 1
      continue
    scores = logits[place - 1][np.array(legal)] / temperature
    picked = logits[place - 1][tokens[place]] / temperature
    total = total + jax.nn.logsumexp(scores) - picked
    count += 1
    prefix.append(tokens[place])
  return total, count, unknown


def _whole(model, variables, examples, temperature):
  """Returns the loop's sums over examples, each in a row of its own."""
  total, count, unknown = 0.0, 0, 0
  rows = packing.fill([[e] for e in examples], len(examples), 32, 0)
  hidden = model.apply(
    variables,
    *(jnp.asarray(rows[k]) for k in ("tokens", "positions", "segment_ids")),
    deterministic=True,
  )
  logits = model.apply(variables, hidden, method="logits")
  for row, example in zip(logits, examples, strict=True):
    parts = _slow(row, example, temperature)
    total, count, unknown = (
      total + parts[0],
      count + parts[1],
      unknown + parts[2],
    )
  return total, (count, unknown)


def _terms(own, model, variables, batch, chunk=40, mesh=None, prefix=None):
  told = {k: jnp.asarray(v) for k, v in batch.items()} | own.tables
  return own(
    model, variables, told, None, chunk=chunk, mesh=mesh, prefix=prefix
  )


@pytest.mark.parametrize("temperature, chunk", [(1.0, 40), (4.5, 3)])
def test_equals_a_loop_over_answers(temperature, chunk):
  _, model, base, adapter = tiny.build()
  examples, batch = _batch()
  own = legal_tokens.LegalTokens(TRIE, temperature)

  def ours(adapter):
    variables = step.adapter_variables(base, adapter)
    found = _terms(own, model, variables, batch, chunk)
    return found.loss, (found.count, found.extras["unknown"])

  def slow(adapter):
    variables = step.adapter_variables(base, adapter)
    return _whole(model, variables, examples, temperature)

  (total, counts), grads = jax.jit(jax.value_and_grad(ours, has_aux=True))(
    adapter
  )
  (total_, counts_), grads_ = jax.value_and_grad(slow, has_aux=True)(adapter)
  assert [int(n) for n in counts] == list(counts_)
  assert counts_[1] > 0
  np.testing.assert_allclose(total, total_, rtol=1e-4)
  assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(grads_)) > 1e-2
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), grads, grads_
  )


def test_the_shared_beginning_is_left_out_and_the_loss_the_same():
  _, model, base, adapter = tiny.build()
  shared = list(range(20, 28))
  examples, batch = _batch(3, shared)
  own = legal_tokens.LegalTokens(TRIE, 2.0)
  variables = step.adapter_variables(base, adapter)
  tokens = jnp.asarray(shared, jnp.int32)
  _, prefix = header.read(*model.executable(variables), tokens, None)
  found = _terms(own, model, variables, batch, prefix=prefix)
  total, (count, _) = _whole(model, variables, examples, 2.0)
  np.testing.assert_allclose(found.loss, total, rtol=1e-4)
  assert int(found.count) == count
  told = batch | {"header": tokens, "header_mask": jnp.zeros_like(tokens)}
  whole = objective.whole_terms(
    own, model, variables, {**told, **own.tables}, 40
  )
  np.testing.assert_allclose(whole[0], total, rtol=1e-4)
  assert int(whole[1]) == count


@functools.cache
def _run(mesh_sizes):
  mesh, model, base, adapter = tiny.build(mesh_sizes)
  own = legal_tokens.LegalTokens(TRIE, 1.5)
  steps = step.make_steps(
    model,
    optimizer.AdamW(0.0, 1.0),
    mesh,
    adapter,
    loss_chunk=40,
    dropout_seed=None,
    objective=own,
  )
  told = objective.Told(base, sharding.put_replicated(mesh, dict(own.tables)))
  state, sums = steps.init(adapter)
  seen = []
  for seed in range(2):
    batches = [_batch(10 * seed + n)[1] for n in range(2)]
    sums = steps.add_up(sums, state, told, batches)
    rate = sharding.put_replicated(mesh, np.float32(1e-2))
    state, sums, metrics = steps.apply(state, sums, rate)
    seen.append(jax.device_get(metrics))
  rows = step.put_batch(mesh, _batch(5)[1])
  loss_sum, count = steps.evaluate(state.params, told, rows)
  seen.append({"eval": float(loss_sum) / int(count)})
  return tiny.numpy_tree(state.params), jax.device_get(seen)


@pytest.mark.parametrize("mesh_sizes", [(8, 1, 1), (2, 2, 1), (1, 2, 2)])
def test_meshes_agree(mesh_sizes):
  params, seen = _run(mesh_sizes)
  expected, expected_seen = _run((1, 1, 1))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4),
    seen,
    expected_seen,
  )
  assert 0 < seen[0]["unknown"] < 0.5
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), params, expected
  )


def test_a_node_with_more_children_than_are_looked_up_at_a_time():
  width, vocabulary = 3 * loss._CHILDREN + 5, 7 * loss._CHILDREN
  rng = np.random.default_rng(0)
  first = rng.choice(np.arange(3, vocabulary), width, replace=False)
  trie = constraints.build_trie([[int(t), EOS] for t in first])
  hidden = rng.normal(size=(2, 5, 8)).astype(np.float32)
  head = rng.normal(size=(8, vocabulary)).astype(np.float32)
  labels = rng.choice(first, (2, 5)).astype(np.int32)
  mask = np.array([[1, 1, 0, 1, 1], [0, 1, 1, 1, 0]], bool)
  legal = loss.Legal(
    jnp.zeros((2, 5), jnp.int32),
    jnp.asarray(trie.tokens),
    jnp.asarray(trie.first_child),
    jnp.float32(2.0),
  )

  def ours(hidden, head):
    return loss.cross_entropy(hidden, head, labels, mask, 2, legal=legal)[0]

  def slow(hidden, head):
    logits = (hidden @ head)[:, :, np.sort(first)] / 2.0
    place = np.searchsorted(np.sort(first), labels)
    logp = jax.nn.log_softmax(logits, axis=-1)
    picked = jnp.take_along_axis(logp, place[:, :, None], axis=2)[:, :, 0]
    return -jnp.sum(jnp.where(mask, picked, 0.0))

  found = jax.value_and_grad(ours, argnums=(0, 1))(hidden, head)
  expected = jax.value_and_grad(slow, argnums=(0, 1))(hidden, head)
  np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
  for one, other in zip(found[1], expected[1], strict=True):
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_forced_tokens_cost_the_head_nothing():
  """A catalogue of one title has nothing to learn, and a loss of 0."""
  _, model, base, adapter = tiny.build()
  trie = jax.tree.map(jnp.asarray, constraints.build_trie([[5, 6, 7, EOS]]))
  own = legal_tokens.LegalTokens(trie, 1.0)
  example = encoding.Encoded(np.array([9, 5, 6, 7, EOS], np.int32), 1, False)
  (batch,) = packing.packed([example], 1, 8, 0)

  def ours(adapter):
    variables = step.adapter_variables(base, adapter)
    found = _terms(own, model, variables, batch)
    return found.loss, found.count

  (total, count), grads = jax.value_and_grad(ours, has_aux=True)(adapter)
  assert float(total) == 0.0 and int(count) == 4
  assert all(not np.asarray(g).any() for g in jax.tree.leaves(grads))


def test_nodes_follow_each_answer_of_a_row():
  examples, batch = _batch()
  tokens, segments, mask = (
    jnp.asarray(batch[k]) for k in ("tokens", "segment_ids", "loss_mask")
  )
  _, counts = loss.next_token_targets(tokens, segments, mask)
  nodes = np.asarray(legal_tokens.title_nodes(TRIE, tokens, mask, counts))
  for row, column in np.argwhere(np.asarray(counts)):
    start = column
    while batch["loss_mask"][row, start]:
      start -= 1
    prefix = batch["tokens"][row, start + 1 : column + 1].tolist()
    node = 0
    for token in prefix:
      low, end = TRIE.first_child[node], TRIE.first_child[node + 1]
      below = {int(TRIE.tokens[n]): n for n in range(low, end)}
      node = below.get(token, TRIE.nowhere)
    assert nodes[row, column] == node, (row, column)
