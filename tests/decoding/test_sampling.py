import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigrec_jax.decoding import sampling, selection, stepping
from bigrec_jax.testing import lookup_model

VOCAB, T = 37, 9
PROMPTS = [(3, 5), (7,), (2, 2, 11), (29, 1), (13, 8)]


@functools.partial(jax.jit, static_argnames=("model", "search"))
def _sample(model, starts, numbers, active, norms, seed, search):
  rows = stepping.RowFacts(norms, sampling.row_keys(seed, numbers))
  state = lookup_model.search(
    search,
    model,
    starts,
    active,
    rows,
    selection.all_tokens,
  )
  return search.found(state, rows)


def _rows(found):
  tokens, scores, lengths = jax.device_get(found)
  return [
    lookup_model.hypotheses(*row)
    for row in zip(tokens, scores, lengths, strict=True)
  ]


def _run(model, prompts, rows, warpers, width=1, seed=0, active=None):
  starts = np.array([model.start(p) for p in prompts], np.int32)
  if active is None:
    active = np.ones(len(prompts), np.bool_)
  return _rows(
    _sample(
      model,
      starts,
      np.array(rows, np.int32),
      active,
      stepping.length_norms(len(prompts), T, 1.0, None),
      np.uint32(seed),
      sampling.Sampling(width, T, (4,), warpers),
    )
  )


@pytest.fixture(scope="module")
def model():
  return lookup_model.LookupModel(VOCAB, seed=3, eos_bias={4: 3.0})


def test_greedy_equals_naive(model):
  found = _run(model, PROMPTS, range(5), None)
  lengths = set()
  for prompt, hypotheses in zip(PROMPTS, found, strict=True):
    tokens, total = lookup_model.naive_greedy(
      model, model.start(prompt), T, (4,)
    )
    ((found_tokens, score),) = hypotheses
    assert list(found_tokens) == tokens
    assert score == pytest.approx(total / len(tokens), abs=1e-4)
    lengths.add(len(tokens))
  assert len(lengths) > 1  # Some end before the others.


def test_a_rows_text_is_its_own(model):
  warpers = sampling.Warpers(1.3, 11, 0.9)
  everyone = _run(model, PROMPTS, range(5), warpers, width=3)
  turned = _run(model, PROMPTS[::-1], range(4, -1, -1), warpers, width=3)
  assert turned[::-1] == everyone
  some = np.array([False, True, True, False, True])
  partial = _run(model, PROMPTS, range(5), warpers, width=3, active=some)
  for row, hypotheses in enumerate(partial):
    assert hypotheses == (everyone[row] if some[row] else [])
  other_seed = _run(model, PROMPTS, range(5), warpers, width=3, seed=1)
  assert other_seed != everyone
  for hypotheses, prompt in zip(everyone, PROMPTS, strict=True):
    scores = [score for _, score in hypotheses]
    assert scores == sorted(scores, reverse=True)
    assert len({tokens for tokens, _ in hypotheses}) > 1
    for tokens, score in hypotheses:
      total = model.walk(model.start(prompt), tokens)
      assert score == pytest.approx(total / len(tokens), abs=1e-4)


def _warped_probabilities(logits, warpers):
  """Probabilities after the warpers, by their definitions."""
  logits = logits.astype(np.float64) / warpers.temperature
  order = np.argsort(-logits, kind="stable")
  kept = order[: warpers.top_k] if warpers.top_k else order
  p = np.exp(logits[kept] - logits[kept].max())
  p /= p.sum()
  # The smallest set of likeliest tokens that reaches top_p.
  size = int(np.searchsorted(np.cumsum(p), warpers.top_p - 1e-12)) + 1
  result = np.zeros(len(logits))
  result[kept[:size]] = p[:size] / p[:size].sum()
  return result


@pytest.mark.parametrize(
  "warpers",
  [
    sampling.Warpers(1.0, 0, 1.0),
    sampling.Warpers(0.7, 5, 1.0),
    sampling.Warpers(2.0, 0, 0.8),
    sampling.Warpers(1.5, 9, 0.6),
    sampling.Warpers(1.0, 1, 0.0),
  ],
)
def test_warpers_and_frequencies(warpers):
  logits = (np.random.default_rng(5).normal(size=VOCAB) * 1.5).astype(
    np.float32
  )
  expected = _warped_probabilities(logits, warpers)
  values, slots = sampling.warp(jnp.asarray(logits), warpers)
  found = np.zeros(VOCAB)
  found[np.asarray(slots)] = np.asarray(jax.nn.softmax(values))
  np.testing.assert_allclose(found, expected, atol=1e-5)

  draws = 4000
  numbers = jnp.arange(draws, dtype=jnp.int32)
  keys = sampling.sample_keys(sampling.row_keys(np.uint32(9), numbers), 1)
  candidates = selection.all_tokens(
    jnp.broadcast_to(jnp.asarray(logits)[None, None], (draws, 1, VOCAB)),
    None,
    None,
  )
  drawn = sampling._draw(candidates, warpers, keys, jnp.zeros(draws, jnp.int32))
  counts = np.bincount(np.asarray(drawn)[:, 0], minlength=VOCAB)
  assert np.all(counts[expected == 0] == 0)
  deviation = np.sqrt(draws * expected * (1 - expected)) + 1e-9
  assert np.all(np.abs(counts - draws * expected) < 4.5 * deviation)
