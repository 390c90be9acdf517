"""MSL's adaptive temperature against numpy, on meshes and when resumed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigrec_jax.data.text import encoding, packing
from bigrec_jax.decoding import constraints
from bigrec_jax.devices import sharding
from bigrec_jax.training import adaptive, objective, optimizer, state, step
from tests.training import test_legal_tokens as titles, tiny

START = 2.0
QUOTE = 59
FIRST = sorted({title[0] for title in titles.TITLES})


def _example_logits(model, variables, examples):
  rows = packing.fill([[e] for e in examples], len(examples), 32, 0)
  hidden = model.apply(
    variables,
    *(jnp.asarray(rows[k]) for k in ("tokens", "positions", "segment_ids")),
    deterministic=True,
  )
  return np.asarray(model.apply(variables, hidden, method="logits"), np.float64)


def _next_temperature(model, variables, examples, now):
  """As train_trie_token_adatau.py has it, of all examples of a step."""
  labels, legal = [], []
  for logits, example in zip(
    _example_logits(model, variables, examples), examples, strict=True
  ):
    token = int(example.tokens[example.first_label])
    if token in FIRST:
      labels.append(logits[example.first_label - 1][token])
      legal.append(logits[example.first_label - 1][np.array(FIRST)])
  spread = np.log(0.25 * len(FIRST))
  difference = np.mean(labels) - np.mean(legal)
  variance = np.var(np.concatenate(legal), ddof=1)
  root = np.sqrt(max(difference**2 - 2 * spread * variance, 0.0))
  wanted = np.clip((difference + root) / (2 * spread), 1.5, 5)
  return 0.95 * now + 0.05 * wanted


def _loss(model, variables, examples, temperature):
  """Temperature times the mean over tokens that are not forced."""
  total, count = 0.0, 0
  for logits, example in zip(
    _example_logits(model, variables, examples), examples, strict=True
  ):
    tokens, prefix = example.tokens.tolist(), []
    for place in range(example.first_label, len(tokens)):
      size = len(prefix)
      legal = {t[size] for t in titles.TITLES if t[:size] == prefix}
      if tokens[place] not in legal:
        break
      prefix.append(tokens[place])
      if len(legal) > 1:
        scores = logits[place - 1] / temperature
        among = scores[np.array(sorted(legal))]
        total += np.log(np.exp(among).sum()) - scores[tokens[place]]
        count += 1
  return temperature * total / count


@functools.cache
def _built(mesh_sizes):
  mesh, model, base, adapter = tiny.build(mesh_sizes)
  own = adaptive.AdaptiveLegalTokens(titles.TRIE, START)
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
  told = steps.prepare(told)  # As a run does.
  return mesh, model, base, told, adapter, steps


def _batches(number):
  return [titles._batch(10 * number + n) for n in range(2)]


def _run(mesh_sizes, count, begun=None):
  mesh, _, _, told, adapter, steps = _built(mesh_sizes)
  found, sums = steps.init(adapter)
  found = begun or found
  seen = []
  for number in range(int(found.step), count):
    given = [batch for _, batch in _batches(number)]
    sums = steps.add_up(sums, found, told, given)
    rate = sharding.put_replicated(mesh, np.float32(1e-2))
    found, sums, metrics = steps.apply(found, sums, rate)
    seen.append(jax.device_get(metrics))
  return found, seen


def test_temperatures_and_losses_are_those_of_a_loop():
  _, model, base, _, adapter, _ = _built((1, 1, 1))
  found, seen = _run((1, 1, 1), 1)
  examples = [e for own, _ in _batches(0) for e in own]
  variables = step.adapter_variables(base, adapter)
  expected = _next_temperature(model, variables, examples, START)
  assert seen[0]["temperature"] == START
  np.testing.assert_allclose(found.told["temperature"], expected, rtol=1e-4)
  assert abs(expected - START) > 1e-3
  np.testing.assert_allclose(
    seen[0]["loss"], _loss(model, variables, examples, START), rtol=1e-4
  )
  after = step.adapter_variables(base, found.params)
  more = [e for own, _ in _batches(1) for e in own]
  found, seen = _run((1, 1, 1), 2)
  assert seen[1]["temperature"] == pytest.approx(expected, rel=1e-4)
  np.testing.assert_allclose(
    seen[1]["loss"], _loss(model, after, more, expected), rtol=1e-4
  )


def test_statistics_are_of_where_titles_part():
  """Many tokenizers write the quote that begins every answer on its own."""
  _, model, base, _, adapter, _ = _built((1, 1, 1))
  quoted = [[QUOTE, *title] for title in titles.TITLES]
  trie = jax.tree.map(jnp.asarray, constraints.build_trie(quoted))
  own = adaptive.AdaptiveLegalTokens(trie, START)
  examples = [
    encoding.Encoded(np.insert(e.tokens, e.first_label, QUOTE), *e[1:])
    for e in titles._examples(0, 9, tiny.T - 1)
  ]
  variables = step.adapter_variables(base, adapter)
  rows = packing.fill([[e] for e in examples], len(examples), tiny.T, 0)
  batch = {k: jnp.asarray(v) for k, v in rows.items()} | own.tables
  given = dict(chunk=40, mesh=None, prefix=None)
  terms = own(model, variables, batch, None, **given)
  found = own.follow({"temperature": jnp.float32(START)}, terms.extras)
  later = [e._replace(first_label=e.first_label + 1) for e in examples]
  expected = _next_temperature(model, variables, later, START)
  np.testing.assert_allclose(found["temperature"], expected, rtol=1e-4)
  assert abs(expected - START) > 1e-3


def test_where_few_titles_are_the_temperature_stays():
  few = adaptive.AdaptiveLegalTokens(
    constraints.build_trie(titles.TITLES[:2]), START
  )
  sums = dict.fromkeys(few.extras, jnp.float32(3.0))
  assert few.follow({"temperature": START}, sums) == {"temperature": START}


def test_meshes_agree():
  found, seen = _run((2, 2, 2), 2)
  expected, expected_seen = _run((1, 1, 1), 2)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4),
    (seen, dict(found.told)),
    (expected_seen, dict(expected.told)),
  )


def test_the_temperature_is_part_of_the_state():
  """What a checkpoint holds goes on as the uninterrupted run does."""
  whole, _ = _run((1, 1, 1), 3)
  begun, _ = _run((1, 1, 1), 2)
  assert isinstance(begun, state.AdaptiveState)
  kept = jax.tree.map(np.asarray, jax.device_get(begun))
  like, _ = _built((1, 1, 1))[-1].init(_built((1, 1, 1))[-2])
  again = jax.tree.map(lambda x, y: jax.device_put(x, y.sharding), kept, like)
  resumed, _ = _run((1, 1, 1), 3, again)
  jax.tree.map(np.testing.assert_array_equal, whole, resumed)


def test_evaluations_keep_the_first_temperature():
  mesh, model, base, told, adapter, steps = _built((1, 1, 1))
  examples, batch = titles._batch(4)
  total, count = steps.evaluate(adapter, told, step.put_batch(mesh, batch))
  expected = _loss(
    model, step.adapter_variables(base, adapter), examples, START
  )
  np.testing.assert_allclose(float(total) / int(count), expected, rtol=1e-4)
