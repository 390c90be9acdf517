"""Contrastive terms: gradients of cut steps equal those of one big batch."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from bigrec_jax import config as config_lib, errors, models
from bigrec_jax.data.text import encoding, pipeline, views
from bigrec_jax.devices import sharding
from bigrec_jax.models import hf_import, lora
from bigrec_jax.testing import store
from bigrec_jax.training import (
  contrastive,
  coupled,
  objective as objective_lib,
  optimizer,
  step,
)
from configs import common
from tests.training import tiny

A, B, T = 0.3, 0.2, 0.5
EXAMPLES = 11  # Of 17 items: some have the same target.
SOURCE = store.source("train", EXAMPLES, 1)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
  return store.tokenizer(tmp_path_factory.mktemp("tokenizer"))


def _config(**contrasts):
  values = common.get_config()
  values.train.update(
    {
      "batch_size": EXAMPLES + 2,  # The step is not full.
      "num_epochs": 1,
      "max_length": 160,
      "train_on_inputs": False,
      "objective": "contrastive",
      "loss_chunk": 64,
    }
  )
  values.train.contrastive.update(
    {"target_weight": A, "user_weight": B, "temperature": T} | contrasts
  )
  return config_lib.from_config_dict(values).train


def _objective(config):
  return contrastive.Contrastive(config.batch_size, config.contrastive)


def _batches(tokenizer, config, rows, share_header=False):
  (batches,) = pipeline.TrainStream(
    SOURCE,
    tokenizer,
    config,
    rows=rows,
    seed=0,
    share_header=share_header,
    views=_objective(config).views(SOURCE, tokenizer, 160, 4),
  )
  return batches


@functools.cache
def _network(vocabulary, mesh_sizes=(1, 1, 1), dropout=0.0):
  mesh, *_ = tiny.build(mesh_sizes)
  arch = dataclasses.replace(tiny.LLAMA, vocab_size=vocabulary)
  shape = arch, tiny.lora_config(dropout)
  model = models.build(arch, tiny.config().model, shape[1], mesh)
  single = sharding.single_device_mesh()
  base = tiny.numpy_tree(hf_import.init_base(arch, 0, "float32", single))
  adapter = tiny.numpy_tree(lora.init(*shape, 1, single))
  rng = np.random.default_rng(0)  # An adapter that does something.
  adapter = jax.tree.map(
    lambda x: x + rng.normal(0, 0.1, x.shape).astype(np.float32), adapter
  )
  like = hf_import.abstract_base(arch, "float32", mesh)
  like = (like, lora.abstract(*shape, mesh))
  placed = jax.tree.map(
    lambda x, y: jax.device_put(x, y.sharding), (base, adapter), like
  )
  return mesh, model, *placed


def _gradients(network, config, batches, dropout_seed=None):
  """Returns mean gradients, loss and extras of one step, as apply has them."""
  mesh, model, base, adapter = network
  steps = step.make_steps(
    model,
    optimizer.AdamW(0.0, 1.0),
    mesh,
    adapter,
    loss_chunk=64,
    dropout_seed=dropout_seed,
    objective=_objective(config),
  )
  state, sums = steps.init(adapter)
  with jax.transfer_guard("disallow"):
    sums = steps.add_up(sums, state, base, batches)
  sums = jax.device_get(sums)
  grads = jax.tree.map(lambda g: g / sums.tokens, sums.grads)
  extras = {name: v / sums.tokens for name, v in sums.extras.items()}
  return grads, sums.loss / sums.tokens, extras


def _slow_loss(hidden, logits, encoded, groups, pooling):
  """Returns the loss of texts that ran a row each, pair by pair, and its terms.

  Args:
    hidden: [3 * examples, T, D] of the texts, the targets, their other views.
    logits: [examples, T, V] of the texts.
    encoded: (text, target, other view) of each example.
    groups: their targets' titles.
    pooling: mean or last.
  """

  def unit(states):
    if not len(states):
      return None  # The answer was cut off.
    vector = states.mean(0) if pooling == "mean" else states[-1]
    return vector / jnp.sqrt((vector**2).sum())

  language, labels = 0.0, 0
  users, targets, others = [], [], []
  for n, (text, alone, other) in enumerate(encoded):
    first, length = text.first_label, len(text.tokens)
    answer = text.tokens[first:]
    if len(answer):
      logp = jax.nn.log_softmax(logits[n, first - 1 : length - 1], axis=-1)
      language -= logp[np.arange(len(answer)), answer].sum()
      labels += len(answer)
    users.append(unit(hidden[n, 1 : min(first, length)]))
    row = len(encoded) + n
    targets.append(unit(hidden[row, 1 : len(alone.tokens)]))
    if other is None:
      others.append(unit(hidden[n, first:length]))
    else:
      others.append(unit(hidden[row + len(encoded), 1 : len(other.tokens)]))
  language /= labels

  def contrast(queries, keys):
    pairs = list(zip(queries, keys, groups, strict=True))
    pairs = [
      pair for pair in pairs if pair[0] is not None and pair[1] is not None
    ]
    total = 0.0
    for query, own, group in pairs:
      kept = [own] + [key for _, key, other in pairs if other != group]
      similar = jnp.stack(kept) @ query / T
      total += jnp.log(jnp.exp(similar).sum()) - similar[0]
    return total / len(pairs)

  terms = (language, contrast(targets, others), contrast(users, targets))
  return sum(
    w * t for w, t in zip((1 - A - B, A, B), terms, strict=True)
  ), terms


def _encode(tokenizer, view):
  """Returns what _slow_loss reads, by the encoder alone."""
  encoder = encoding.Encoder(tokenizer, max_length=160, train_on_inputs=False)
  texts = encoder.encode_batch([SOURCE.text(n) for n in range(EXAMPLES)])
  targets = [SOURCE.target(n) for n in range(EXAMPLES)]
  alone = encoder.encode_batch(targets)
  other = [None] * EXAMPLES
  if view == "words":
    fewer = [
      text._replace(answer=views.fewer_words(text.answer, 4, n))
      for n, text in enumerate(targets)
    ]
    assert any(
      a.answer != b.answer for a, b in zip(fewer, targets, strict=True)
    )
    other = encoder.encode_batch(fewer)
  return list(zip(texts, alone, other, strict=True))


@functools.cache
def _expected(tokenizer, view, pooling):
  _, model, base, adapter = _network(tokenizer.vocab_size)
  encoded = _encode(tokenizer, view)
  groups = [SOURCE.group(n) for n in range(EXAMPLES)]
  assert len(set(groups)) < EXAMPLES
  assert any(len(text.tokens) <= text.first_label for text, *_ in encoded)

  rows = [text for views_of in zip(*encoded, strict=True) for text in views_of]
  tokens = np.zeros((len(rows), 160), np.int32)
  for row, text in zip(tokens, rows, strict=True):
    if text is not None:
      row[: len(text.tokens)] = text.tokens

  def total(adapter):
    places = jnp.arange(160, dtype=jnp.int32)[None].repeat(len(rows), 0)
    variables = {"params": base, "lora": adapter}
    ones = jnp.ones_like(places)
    hidden = model.apply(variables, tokens, places, ones, True)
    texts = hidden[:EXAMPLES]
    logits = model.apply(variables, texts, method="logits")
    return _slow_loss(hidden, logits, encoded, groups, pooling)

  grad = jax.jit(jax.value_and_grad(total, has_aux=True))
  (value, terms), grads = grad(adapter)
  return tiny.numpy_tree(grads), float(value), [float(term) for term in terms]


def _check(found, expected):
  grads, value, extras = found
  np.testing.assert_allclose(value, expected[1], rtol=1e-5)
  terms = [extras[n] for n in ("language", "target_target", "user_target")]
  np.testing.assert_allclose(terms, expected[2], rtol=1e-5)
  scale = max(np.abs(g).max() for g in jax.tree.leaves(expected[0]))
  assert scale > 1e-3
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * max(scale, 1)),
    grads,
    expected[0],
  )


@pytest.mark.parametrize(
  ("mesh_sizes", "rows", "view", "pooling"),
  [
    ((1, 1, 1), 64, "context", "mean"),  # All in one micro-batch.
    ((1, 1, 1), 2, "context", "mean"),
    ((2, 2, 2), 4, "words", "last"),
  ],
)
def test_cut_steps_equal_one_batch(tokenizer, mesh_sizes, rows, view, pooling):
  """Against the pairwise loss, each text alone in the network."""
  config = _config(view=view, pooling=pooling)
  batches = _batches(tokenizer, config, rows, share_header=pooling == "last")
  assert (len(batches) == 1) == (rows == 64)
  assert ("header" in batches[0]) == (pooling == "last")
  network = _network(tokenizer.vocab_size, mesh_sizes)
  found = _gradients(network, config, batches)
  _check(found, _expected(tokenizer, view, pooling))


def test_both_passes_draw_the_same_masks(tokenizer):
  """Against the gradient of all micro-batches in one function."""
  config = _config(view="dropout")
  network = _network(tokenizer.vocab_size, dropout=0.3)
  _, model, base, adapter = network
  batches = _batches(tokenizer, config, 2)
  objective = _objective(config)
  key = jax.random.fold_in(jax.random.key(3), jnp.int32(0))

  def whole(adapter):
    pools = coupled.empty(objective.num_pools, 32)
    language = jnp.float32(0)
    for number, batch in enumerate(batches):
      given = {name: jnp.asarray(x) for name, x in batch.items()}
      variables = {"params": base, "lora": adapter}
      own = jax.random.fold_in(key, jnp.int32(number))
      total, count = objective_lib.batch_loss(model, variables, given, 64, own)
      hidden = objective_lib.states(model, variables, given, own, None)[2]
      pools, language = pools.add(hidden, given, count), language + total
    couple, terms = objective.couple(pools.vectors, pools.present, pools.groups)
    language /= pools.labels.astype(jnp.float32)
    return (1 - A - B) * language + couple, (language, *terms.values())

  (value, terms), grads = jax.jit(jax.value_and_grad(whole, has_aux=True))(
    adapter
  )
  found = _gradients(network, config, batches, dropout_seed=3)
  _check(found, (tiny.numpy_tree(grads), value, terms))
  # One text under two masks is two vectors.
  assert found[2]["target_target"] > 0.1


def test_the_loss_of_vectors_is_torchs():
  """On the same pooled states, with one example missing and one repeated."""
  config = dataclasses.replace(_config(), batch_size=6)
  objective = _objective(config)
  rng = np.random.default_rng(0)
  vectors = rng.normal(size=(6 * 3, 8)).astype(np.float32)
  present = np.ones(18, bool)
  present[12:15] = False  # The fifth.
  groups = np.repeat([0, 1, 2, 1, 0, 3], 3).astype(np.int32)
  given = jnp.asarray(vectors), jnp.asarray(present), jnp.asarray(groups)
  (value, terms), grads = jax.value_and_grad(objective.couple, has_aux=True)(
    *given
  )
  leaf = torch.tensor(vectors, requires_grad=True)
  kept = [0, 1, 2, 3, 5]
  units = torch.nn.functional.normalize(leaf, dim=1).reshape(6, 3, 8)[kept]
  user, target, other = units.unbind(1)
  equal = torch.zeros(5, 5, dtype=torch.bool)
  equal[1, 3] = equal[3, 1] = True  # The second and the fourth.

  def cross_entropy(queries, keys):
    logits = (queries @ keys.T / T).masked_fill(equal, -torch.inf)
    return torch.nn.functional.cross_entropy(logits, torch.arange(5))

  targets, users = cross_entropy(target, other), cross_entropy(user, target)
  theirs = A * targets + B * users
  theirs.backward()
  np.testing.assert_allclose(value, theirs.item(), rtol=1e-5)
  np.testing.assert_allclose(terms["target_target"], targets.item(), rtol=1e-5)
  np.testing.assert_allclose(terms["user_target"], users.item(), rtol=1e-5)
  np.testing.assert_allclose(grads, leaf.grad.numpy(), atol=1e-5)


def test_evaluations_are_of_the_language_model(tokenizer):
  config = _config()
  mesh, model, base, adapter = _network(tokenizer.vocab_size)
  steps = step.make_steps(
    model,
    optimizer.AdamW(0.0, 1.0),
    mesh,
    adapter,
    loss_chunk=64,
    dropout_seed=None,
    objective=_objective(config),
  )
  total, count = 0.0, 0
  for batch in _batches(tokenizer, config, 4):
    one = steps.evaluate(adapter, base, step.put_batch(mesh, batch))
    total, count = total + float(one[0]), count + int(one[1])
  terms = _expected(tokenizer, "context", "mean")[2]
  np.testing.assert_allclose(total / count, terms[0], rtol=1e-5)


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"target_weight": 0.6, "user_weight": 0.4}, "a sum below 1 expected"),
    ({"view": "twice"}, "context, dropout, words expected"),
    ({"pooling": "first"}, "mean, last expected"),
  ],
)
def test_options_are_checked(changes, words):
  with pytest.raises(errors.UserError, match=words):
    _config(**changes)
