"""The text-free assistant against loops over titles and a trie of dicts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from bigrec_jax.decoding import beam_search, constraints, stepping
from bigrec_jax.testing import lookup_model
from tests.decoding import test_generate

VOCAB, EOS = 37, 4
PROMPTS = [(3, 5), (7,), (2, 2, 11), (29, 1), (13, 8)]


def _titles(seed, count, longest, eos=EOS):
  rng = np.random.default_rng(seed)
  others = [t for t in range(5, 12) if t != eos]
  return [
    [*rng.choice(others, size=rng.integers(1, longest)).tolist(), eos]
    for _ in range(count)
  ]


def _log_share(titles, chances, prefix, token):
  """L_TF by its definition, in float64."""
  begun = [t[: len(prefix)] == prefix for t in titles]
  longer = [t[: len(prefix) + 1] == [*prefix, token] for t in titles]
  return np.log(chances[longer].sum()) - np.log(chances[begun].sum())


def _slow_search(titles, chances, log_probs, beams, weight, penalty):
  """Beam search over dicts: [(tokens, score)], best first.

  Args:
    titles: token lists.
    chances: p_TF of each.
    log_probs: prefix -> [V] float64.
    beams: W.
    weight: 1 - a.
    penalty: exponent of the length norm.
  """
  running, finished = [(0.0, [])], []
  for step in range(max(map(len, titles))):
    found = []
    for score, prefix in running:
      legal = {t[step] for t in titles if t[:step] == prefix and len(t) > step}
      for token in legal:
        mixed = (1 - weight) * log_probs(prefix)[token]
        mixed += weight * _log_share(titles, chances, prefix, token)
        found.append((score + mixed, [*prefix, token]))
    found = sorted(found, key=lambda pair: -pair[0])[: 2 * beams]
    ends = [pair for pair in found[:beams] if pair[1][-1] == EOS]
    finished += [(s / (step + 1) ** penalty, t) for s, t in ends]
    finished = sorted(finished, key=lambda pair: -pair[0])[:beams]
    running = [pair for pair in found if pair[1][-1] != EOS][:beams]
    if not running:
      break
    bound = running[0][0] / (step + 1) ** penalty
    if len(finished) == beams and bound <= finished[-1][0]:
      break
  return [(tuple(tokens), score) for score, tokens in finished]


@functools.partial(jax.jit, static_argnames=("model", "search"))
def _search(model, starts, rows, trie, search):
  expand = trie.expand
  if rows.log_masses is not None:
    adjust = trie.prior.of_users(rows.log_masses)
    expand = functools.partial(expand, adjust=adjust)
  active = jnp.ones(len(PROMPTS), jnp.bool_)
  return lookup_model.search(search, model, starts, active, rows, expand)


def _run(model, titles, scores, beams, weight, penalty):
  """Returns the hypotheses of every prompt; scores None = no prior."""
  trie = constraints.build_trie(titles, with_titles=True)
  masses = constraints.Masses(trie, np.arange(len(titles)))
  trie = trie.replace(titles=None, prior=masses.prior(weight))
  starts = np.array([model.start(p) for p in PROMPTS], np.int32)
  norms = stepping.length_norms(len(PROMPTS), trie.depth, penalty, None)
  rows = stepping.RowFacts(
    norms, None, None if scores is None else masses(scores)
  )
  search = beam_search.BeamSearch(beams, trie.depth, (EOS,), False)
  state = jax.device_get(_search(model, starts, rows, trie, search))
  return [
    lookup_model.hypotheses(
      state.finished_tokens[b],
      state.finished_scores[b],
      state.finished_lengths[b],
    )
    for b in range(len(PROMPTS))
  ]


@pytest.fixture(scope="module")
def model():
  return lookup_model.LookupModel(VOCAB, seed=5)


def _scores(seed, titles, scale=3.0):
  shape = (len(PROMPTS), len(titles))
  return (np.random.default_rng(seed).normal(size=shape) * scale).astype(
    np.float32
  )


def _log_probs(model, prompt):
  def of(prefix):
    state = model.start(prompt)
    for token in prefix:
      state = (state * 31 + token + 1) % lookup_model.STATES
    return model.log_probs(state)

  return of


@pytest.mark.parametrize("beams, penalty", [(3, 0.0), (10, 0.0), (4, 1.0)])
@pytest.mark.parametrize("weight", [0.3, 0.9])
def test_equals_a_slow_trie_search(model, beams, penalty, weight):
  titles = _titles(1, 60, 7)
  scores = _scores(2, titles)
  found = _run(model, titles, scores, beams, weight, penalty)
  changed = 0
  plain = _run(model, titles, None, beams, 0.0, penalty)
  for n, prompt in enumerate(PROMPTS):
    chances = scipy.special.softmax(scores[n].astype(np.float64))
    expected = _slow_search(
      titles, chances, _log_probs(model, prompt), beams, weight, penalty
    )
    assert [t for t, _ in found[n]] == [t for t, _ in expected]
    np.testing.assert_allclose(
      [s for _, s in found[n]], [s for _, s in expected], atol=1e-4, rtol=1e-5
    )
    changed += [t for t, _ in plain[n]] != [t for t, _ in expected]
  assert changed  # The prior matters.


def test_a_weight_near_0_is_the_plain_search(model):
  titles = _titles(3, 60, 7)
  plain = _run(model, titles, None, 5, 0.0, 0.0)
  found = _run(model, titles, _scores(0, titles), 5, 0.0, 0.0)
  for one, other in zip(found, plain, strict=True):
    assert [t for t, _ in one] == [t for t, _ in other]
    np.testing.assert_allclose(
      [s for _, s in one], [s for _, s in other], rtol=1e-5
    )


def test_the_model_out_of_it_titles_come_in_the_priors_order(model):
  """With a = 0 a title's score is the log of its own p_TF."""
  titles = sorted(set(map(tuple, _titles(3, 40, 7))))
  titles = [list(title) for title in titles]
  scores = _scores(1, titles)
  found = _run(model, titles, scores, len(titles), 1.0, 0.0)
  for n, own in enumerate(found):
    logs = scipy.special.log_softmax(scores[n].astype(np.float64))
    order = np.argsort(-logs)
    assert [t for t, _ in own] == [tuple(titles[i]) for i in order]
    np.testing.assert_allclose([s for _, s in own], logs[order], atol=1e-4)


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_masses_keep_their_digits(scale):
  """Also those that a difference of cumulative sums would lose."""
  titles = _titles(5, 900, 9)
  rng = np.random.default_rng(0)
  # Items: titles that several have, that none has, and items without one.
  title_of = rng.integers(-1, len(titles) - 100, 2000)
  scores = (rng.normal(size=(3, 2000)) * scale).astype(np.float32)
  trie = constraints.build_trie(titles, with_titles=True)
  masses = constraints.Masses(trie, title_of)
  found = masses(scores)
  range_of = masses.prior(0.5).range_of
  chances = scipy.special.softmax(scores.astype(np.float64), axis=1)
  smallest = 1.0

  def walk(node, prefix):
    nonlocal smallest
    under = [n for n, t in enumerate(titles) if t[: len(prefix)] == prefix]
    for user in range(len(scores)):
      total = 0.0
      for item in np.flatnonzero(np.isin(title_of, under)):
        total += chances[user, item]
      if total:
        smallest = min(smallest, total)
        mass = found[user, range_of[node]]
        np.testing.assert_allclose(mass, np.log(total), atol=1e-4)
    first, past = trie.first_child[node : node + 2]
    for child in range(first, past, 3 if len(prefix) > 1 else 1):
      walk(child, [*prefix, int(trie.tokens[child])])

  walk(0, [])
  assert found.dtype == np.float32 and np.isfinite(found).all()
  assert (
    found.shape[1]
    == masses.count
    <= constraints.building.rounded(2 * len(titles))
  )
  if scale > 1:
    assert smallest < 1e-40


def test_a_forced_token_leaves_the_prior_alone(model):
  """All of a title's ghost tokens share one mass: L_TF is 0, exactly."""
  titles = [[5, 6, 7, EOS], [5, 8, EOS], [9, 9, 9, 9, EOS]]
  trie = constraints.build_trie(titles, with_titles=True)
  masses = constraints.Masses(trie, np.arange(3))
  range_of = masses.prior(1.0).range_of
  node, seen = 0, []
  for token in titles[2]:
    first, past = trie.first_child[node : node + 2]
    node = int(first + np.flatnonzero(trie.tokens[first:past] == token)[0])
    seen.append(range_of[node])
  assert len(set(seen)) == 1


def test_ghost_tokens_need_no_length_norm():
  """Tokens of p near 1 win by the norm and by nothing else.

  The plain title has the higher probability; divided by lengths, the one with
  many certain tokens comes first. Without the norm it does not.
  """
  model = lookup_model.LookupModel(VOCAB, seed=0, scale=0.0)
  plain, ghostly = [5, EOS], [6, 7, 7, 7, 7, 7, 7, EOS]
  for prompt in PROMPTS:
    state = model.start(prompt)
    model.table[state, 5], model.table[state, 6] = 12.0, 11.5
    for title in (plain, ghostly):
      place = state
      for token, following in zip(title, title[1:], strict=False):
        place = (place * 31 + token + 1) % lookup_model.STATES
        model.table[place, following] = 20.0
  chances = [
    _log_probs(model, PROMPTS[0])([])[5],
    _log_probs(model, PROMPTS[0])([])[6],
  ]
  assert chances[0] > chances[1]
  ghosts = [_log_probs(model, PROMPTS[0])(ghostly[:n]) for n in range(1, 7)]
  assert all(np.exp(row[7]) > 0.999 for row in ghosts[:-1])
  for penalty, first in ((1.0, ghostly), (0.0, plain)):
    found = _run(model, [plain, ghostly], None, 2, 0.0, penalty)
    assert [own[0][0] for own in found] == [tuple(first)] * len(PROMPTS)


@pytest.fixture(scope="module")
def setup():
  return test_generate.Setup()


@pytest.mark.parametrize(
  "shape, lookahead", [((1, 1, 1), 0), ((1, 1, 1), 3), ((2, 2, 2), 3)]
)
def test_users_of_any_batch_have_their_own_prior(setup, shape, lookahead):
  """A tiny LLaMA, more users than slots, against scores of whole texts."""
  eos = test_generate.EOS
  titles = [list(t) for t in sorted(set(map(tuple, _titles(7, 14, 5, eos))))]
  prompts = test_generate.make_prompts(13)
  scores = np.random.default_rng(3).normal(size=(13, len(titles))) * 2
  trie = constraints.build_trie(titles, with_titles=True)
  masses = constraints.Masses(trie, np.arange(len(titles)))
  weight = 0.4
  trie = trie.replace(titles=None, prior=masses.prior(weight))
  own = setup if shape == (1, 1, 1) else test_generate.Setup(shape)
  found = own(
    prompts,
    trie=trie,
    max_new_tokens=8,
    num_beams=len(titles),
    length_penalty=0.0,
    log_masses=lambda numbers: masses(scores[numbers]),
    batch_size=8,
    lookahead=lookahead,
  )
  totals = np.array(test_generate.rescored(own, prompts, found))
  place = 0
  for n in range(len(prompts)):
    assert sorted(map(list, found.tokens[n])) == titles
    logs = scipy.special.log_softmax(scores[n])
    prior = [logs[titles.index(list(ids))] for ids in found.tokens[n]]
    text = totals[place : place + len(titles)]
    place += len(titles)
    expected = (1 - weight) * text + weight * np.array(prior)
    np.testing.assert_allclose(found.scores[n], expected, atol=1e-4)
    assert np.all(np.diff(expected) < 1e-4)
