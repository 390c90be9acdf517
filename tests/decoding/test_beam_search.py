import functools

import jax
import numpy as np
import pytest

from bigrec_jax.decoding import beam_search, selection, stepping
from bigrec_jax.testing import lookup_model

VOCAB, T = 37, 9
PROMPTS = [(3, 5), (7,), (2, 2, 11), (29, 1), (13, 8)]


@functools.partial(jax.jit, static_argnames=("model", "search"))
def _run(model, starts, active, norms, search):
  return lookup_model.search(
    search,
    model,
    starts,
    active,
    stepping.RowFacts(norms, None),
    selection.all_tokens,
  )


def _search(model, starts, active, norms, **options):
  search = beam_search.BeamSearch(**options)
  return _run(model, starts, active, norms, search)


def _rows(state):
  state = jax.device_get(state)
  return [
    lookup_model.hypotheses(
      state.finished_tokens[b],
      state.finished_scores[b],
      state.finished_lengths[b],
    )
    for b in range(len(state.improvable))
  ]


def _assert_equal(found, expected):
  assert [tokens for tokens, _ in found] == [tokens for tokens, _ in expected]
  np.testing.assert_allclose(
    [score for _, score in found],
    [score for _, score in expected],
    atol=1e-4,
    rtol=1e-5,
  )


@pytest.fixture(scope="module")
def model():
  return lookup_model.LookupModel(VOCAB, seed=0, eos_bias={4: 3.0, 9: 2.0})


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("eos_ids", [(4,), (4, 9)])
@pytest.mark.parametrize("num_beams", [1, 2, 4, 10])
def test_equals_naive_search(model, num_beams, eos_ids, early_stopping):
  starts = np.array([model.start(p) for p in PROMPTS], np.int32)
  active = np.ones(len(PROMPTS), np.bool_)
  capped = ended = 0
  for penalty in (0.0, 1.0, 2.0, -0.5):
    norms = stepping.length_norms(len(PROMPTS), T, penalty, None)
    state = _search(
      model,
      starts,
      active,
      norms,
      num_beams=num_beams,
      max_new_tokens=T,
      eos_ids=eos_ids,
      early_stopping=early_stopping,
    )
    for start, found in zip(starts, _rows(state), strict=True):
      expected = lookup_model.naive_beam_search(
        model,
        int(start),
        num_beams=num_beams,
        max_new_tokens=T,
        eos_ids=eos_ids,
        early_stopping=early_stopping,
        norm=lambda n, _, penalty=penalty: n**penalty,
      )
      _assert_equal(found, expected)
      capped += sum(tokens[-1] not in eos_ids for tokens, _ in found)
      ended += sum(tokens[-1] in eos_ids for tokens, _ in found)
  # Both ways to end occur, so that both are compared.
  assert ended
  if num_beams > 1 and not early_stopping:
    assert capped


def test_length_norm_with_prompt(model):
  """The rule of before transformers 4.36: prompt counted, EOS not."""
  starts = np.array([model.start(p) for p in PROMPTS], np.int32)
  lengths = np.array([23, 2, 5, 17, 11])
  norms = stepping.length_norms(len(PROMPTS), T, 1.0, lengths)
  state = _search(
    model,
    starts,
    np.ones(len(PROMPTS), np.bool_),
    norms,
    num_beams=4,
    max_new_tokens=T,
    eos_ids=(4,),
    early_stopping=False,
  )
  plain = []
  for start, length, found in zip(starts, lengths, _rows(state), strict=True):
    options = dict(
      num_beams=4, max_new_tokens=T, eos_ids=(4,), early_stopping=False
    )
    expected = lookup_model.naive_beam_search(
      model,
      int(start),
      norm=lambda n, ended, length=length: length + n - ended,
      **options,
    )
    _assert_equal(found, expected)
    plain.append(
      lookup_model.naive_beam_search(
        model, int(start), norm=lambda n, _: n, **options
      )
      == found
    )
  assert not all(plain)


def test_rows_are_independent(model):
  """Padding rows and companions change nothing; inactive rows are empty."""
  starts = np.array([model.start(p) for p in PROMPTS], np.int32)
  norms = stepping.length_norms(len(PROMPTS), T, 1.0, None)
  options = dict(
    num_beams=4, max_new_tokens=T, eos_ids=(4,), early_stopping=False
  )
  everyone = np.ones(len(PROMPTS), np.bool_)
  whole = _rows(_search(model, starts, everyone, norms, **options))
  turned = _search(model, starts[::-1], everyone, norms, **options)
  assert _rows(turned)[::-1] == whole
  some = np.array([True, False, True, False, False])
  partial = _search(model, starts, some, norms, **options)
  for row, (found, expected) in enumerate(
    zip(_rows(partial), whole, strict=True)
  ):
    assert found == (expected if some[row] else [])


def test_stops_early(model):
  certain = lookup_model.LookupModel(VOCAB, seed=1, eos_bias={4: 60.0})
  starts = np.array([certain.start(p) for p in PROMPTS], np.int32)
  norms = stepping.length_norms(len(PROMPTS), 50, 0.0, None)
  state = _search(
    certain,
    starts,
    np.ones(len(PROMPTS), np.bool_),
    norms,
    num_beams=2,
    max_new_tokens=50,
    eos_ids=(4,),
    early_stopping=False,
  )
  assert np.all(state.step < 5)


@pytest.mark.parametrize("size,k", [(5, 5), (1000, 3), (4099, 8), (4096, 1)])
def test_top_k_equals_lax(size, k):
  rng = np.random.default_rng(size)
  # Small integers: ties everywhere, within blocks and between them.
  values = rng.integers(0, 9, size=(2, 3, size)).astype(np.float32)
  values[0, 0, :] = -np.inf
  for given in (values, rng.normal(size=(2, 3, size)).astype(np.float32)):
    found = jax.jit(selection.top_k, static_argnums=1)(given, k)
    expected = jax.lax.top_k(given, k)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])
