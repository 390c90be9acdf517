"""Losses over items against whole texts one by one, and against torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigrec_jax.data.text import candidates
from bigrec_jax.training import answers, items, optimizer, step
from tests.training import tiny

PROMPTS, SIZE = 7, 5
RNG = np.random.default_rng(5)
ANSWERS = [
  RNG.integers(3, tiny.V, length).tolist()
  for length in [1, 2, 3, 4, 9, 13, 5, 5, 1, 6, 16]
]
ASKED = [RNG.integers(3, tiny.V, n).tolist() for n in (3, 9, 14, 1, 16, 8, 30)]
RIGHT = RNG.integers(0, len(ANSWERS), PROMPTS)


def layout(size=SIZE, rows=4, lengths=(8, 16)):
  """Prompt 6 is longer than any width: its last tokens are read."""

  def drawn(numbers):
    if size == len(ANSWERS):
      every = np.arange(size, dtype=np.int32)
      return np.broadcast_to(every, (len(numbers), size))
    return candidates.drawn(RIGHT, len(ANSWERS), size, 3, numbers)

  asked = candidates.Asked(
    lambda numbers: [ASKED[n] for n in numbers], ANSWERS, drawn, RIGHT, size
  )
  return candidates.Layout(asked, rows, lengths, 0, str), drawn


def wide(monkeypatch, width):
  monkeypatch.setattr(candidates, "_WIDE", width)


def one_by_one(model, variables, size=SIZE, most=16):
  """Returns mean log-probabilities [N, M] by whole texts, and candidates."""
  _, drawn = layout(size)
  places = np.array(drawn(range(PROMPTS)))
  tokens = np.zeros((places.size, 32), np.int32)
  counts = np.zeros((places.size, 31), np.float32)  # Of what predicts a title.
  for n, place in enumerate(places.ravel()):
    prompt, answer = ASKED[n // size][-most:], ANSWERS[place]
    tokens[n, : len(prompt + answer)] = prompt + answer
    counts[n, len(prompt) - 1 :][: len(answer)] = 1 / len(answer)
  at = jnp.broadcast_to(jnp.arange(32, dtype=jnp.int32), tokens.shape)
  hidden = model.apply(
    variables, jnp.asarray(tokens), at, jnp.ones_like(at), True
  )
  logits = model.apply(variables, hidden, method="logits")[:, :-1]
  logs = jnp.take_along_axis(
    jax.nn.log_softmax(logits), tokens[:, 1:, None], axis=-1
  )
  means = jnp.sum(logs[:, :, 0] * counts, axis=1)
  return means.reshape(PROMPTS, size), places


def slow_loss(scores, right, kind, margin):
  """Both losses by their formulas."""
  own = jnp.sum(scores * right, axis=1)
  if kind == "item_softmax":
    return jnp.sum(jnp.log(jnp.sum(jnp.exp(scores), axis=1)) - own)
  lacking = jnp.maximum(0.0, margin + scores - own[:, None])
  return jnp.sum(lacking * (1 - right))


def total(own, model, variables, batches, chunk=40, mesh=None):
  found = [
    own(
      model,
      variables,
      {k: jnp.asarray(v) for k, v in batch.items()},
      None,
      chunk=chunk,
      mesh=mesh,
      prefix=None,
    )
    for batch in batches
  ]
  return (
    sum(one.loss for one in found),
    (
      sum(one.count for one in found),
      sum(one.extras["first"] for one in found),
    ),
  )


def test_loss_and_gradients_equal_whole_texts_one_by_one(monkeypatch):
  wide(monkeypatch, 16)
  _, model, base, adapter = tiny.build()
  own = items.ItemLoss("item_hinge", 0.5)
  make, _ = layout()
  assert make.width == 16
  batches = make(range(PROMPTS))
  assert len({batch["answer_tokens"].shape for batch in batches}) == 1

  def ours(adapter):
    variables = step.adapter_variables(base, adapter)
    return total(own, model, variables, batches, 7)

  def slow(adapter):
    variables = step.adapter_variables(base, adapter)
    scores, places = one_by_one(model, variables)
    right = (places == RIGHT[:, None]).astype(np.float32)
    best = jnp.argmax(scores, axis=1) == np.argmax(right, axis=1)
    return slow_loss(scores, right, own.loss, own.margin), jnp.sum(best)

  (loss, (count, first)), grads = jax.jit(
    jax.value_and_grad(ours, has_aux=True)
  )(adapter)
  (loss_, first_), grads_ = jax.jit(jax.value_and_grad(slow, has_aux=True))(
    adapter
  )
  assert int(count) == PROMPTS
  np.testing.assert_allclose(loss, loss_, rtol=1e-5)
  assert int(first) == int(first_)
  assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(grads_)) > 1e-2
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), grads, grads_
  )


def test_all_answers_may_be_the_candidates_of_every_prompt(monkeypatch):
  wide(monkeypatch, 32)
  _, model, base, adapter = tiny.build()
  variables = step.adapter_variables(base, adapter)
  size = len(ANSWERS)
  make, _ = layout(size)
  assert make.rows_each == 2
  own = items.ItemLoss("item_softmax")

  @jax.jit
  def both(variables):
    found = total(own, model, variables, make(range(PROMPTS)), 5)
    scores, places = one_by_one(model, variables, size)
    right = (places == RIGHT[:, None]).astype(np.float32)
    return found[0], slow_loss(scores, right, own.loss, 0.0)

  found, expected = both(variables)
  np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.torch
@pytest.mark.parametrize("kind", items.LOSSES)
def test_losses_are_those_of_torch(kind, monkeypatch):
  torch = pytest.importorskip("torch")
  scores = RNG.normal(size=(8, SIZE)).astype(np.float32)
  right = RNG.integers(0, SIZE, 8)
  monkeypatch.setattr(
    items.answers, "mean_logs", lambda *args: jnp.asarray(args[1])
  )
  batch = {
    "answer_lengths": jnp.ones((8, SIZE), jnp.int32),
    "answer_right": jnp.asarray(right, jnp.int32),
  }
  own = items.ItemLoss(kind, 1.0)

  def ours(scores):
    found = own(None, scores, batch, None, chunk=1, mesh=None, prefix=None)
    return found.loss / 8.0

  loss, grads = jax.value_and_grad(ours)(jnp.asarray(scores))
  theirs = torch.tensor(scores, requires_grad=True)
  labels = torch.tensor(right)
  if kind == "item_softmax":
    expected = torch.nn.functional.cross_entropy(theirs, labels)
  else:  # Torch divides by the classes, and leaves the right one out, too.
    expected = SIZE * torch.nn.functional.multi_margin_loss(theirs, labels)
  expected.backward()
  np.testing.assert_allclose(loss, expected.item(), rtol=1e-5)
  np.testing.assert_allclose(grads, theirs.grad.numpy(), atol=1e-5)


def step_on(sizes):
  """One optimizer step; returns the new adapter and the metrics."""
  mesh, model, base, adapter = tiny.build(sizes)
  steps = step.make_steps(
    model.clone(unrolled=False),  # Compiles faster.
    optimizer.AdamW(0.0, 1.0),
    mesh,
    adapter,
    loss_chunk=40,
    dropout_seed=None,
    objective=items.ItemLoss("item_softmax"),
  )
  state, sums = steps.init(adapter)
  batches = layout(rows=8)[0](range(PROMPTS))
  sums = steps.add_up(sums, state, steps.prepare(base), batches)
  state, _, metrics = steps.apply(state, sums, jnp.float32(0.01))
  return tiny.numpy_tree((state.params, metrics))


def test_sharded_equals_one_device():
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
    step_on((2, 2, 2)),
    step_on((1, 1, 1)),
  )


def test_dropout_reaches_prompts_and_answers():
  _, model, base, adapter = tiny.build((1, 1, 1), 0.5)
  adapter = jax.tree.map(lambda x: x + 0.1, adapter)
  variables = step.adapter_variables(base, adapter)
  (batch,) = layout(rows=8)[0](range(PROMPTS))
  batch = {k: jnp.asarray(v) for k, v in batch.items()}

  @jax.jit
  def states(key):
    own = model.clone(unrolled=False), variables, batch
    return answers.states(*own, key, None), answers.states(*own, None, None)

  dropped, plain = states(jax.random.key(3))
  for one, other in zip(dropped, plain, strict=True):
    assert float(jnp.abs(one - other).max()) > 1e-3


def test_candidates_depend_on_seed_and_number_alone():
  one = candidates.drawn(RIGHT, len(ANSWERS), 6, 3, range(PROMPTS))
  np.testing.assert_array_equal(
    candidates.drawn(RIGHT, len(ANSWERS), 6, 3, [4, 2]), one[[4, 2]]
  )
  assert all(len(set(row)) == 6 for row in one.tolist())
  np.testing.assert_array_equal(one[:, 0], RIGHT)
  assert (
    candidates.drawn(RIGHT, len(ANSWERS), 6, 4, range(PROMPTS)) != one
  ).any()


def test_rows_hold_every_candidate_once(monkeypatch):
  wide(monkeypatch, 16)
  make, drawn = layout(8, rows=4, lengths=(16,))
  batches = make(range(PROMPTS))
  assert [len(batch["tokens"]) for batch in batches] == [4, 4]
  order = sorted(range(PROMPTS), key=lambda n: -min(len(ASKED[n]), 16))
  for number, row in zip(order, range(8), strict=False):
    batch, at = batches[row // 4], row % 4
    own = slice(at * make.rows_each, (at + 1) * make.rows_each)
    (places,) = drawn([number])
    assert places[batch["answer_right"][at]] == RIGHT[number]
    for column, place in enumerate(places):
      ids = ANSWERS[place]
      assert batch["answer_first"][at, column] == ids[0]
      assert batch["answer_lengths"][at, column] == len(ids)
      there = batch["answer_places"][own] == column
      assert batch["answer_tokens"][own][there].tolist() == ids[:-1]
      assert batch["answer_targets"][own][there].tolist() == ids[1:]
      assert batch["answer_offsets"][own][there].tolist() == list(
        range(len(ids) - 1)
      )
  assert (batches[1]["answer_lengths"][-1] == 0).all()
