import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigrec_jax import errors
from bigrec_jax.decoding import (
  beam_search,
  constraints,
  sampling,
  selection,
  stepping,
)
from bigrec_jax.testing import lookup_model

VOCAB, EOS = 37, 4
PROMPTS = [(3, 5), (7,), (2, 2, 11), (29, 1), (13, 8)]


def _titles(seed, count, longest):
  rng = np.random.default_rng(seed)
  other = [t for t in range(VOCAB) if t != EOS]
  # Few distinct tokens, so that titles share beginnings and some are the
  # beginnings of others.
  return [
    [*rng.choice(other[:5], size=rng.integers(1, longest)).tolist(), EOS]
    for _ in range(count)
  ]


@functools.partial(jax.jit, static_argnames=("model", "search"))
def _search(model, starts, rows, trie, search):
  active = jnp.ones(len(PROMPTS), jnp.bool_)
  return lookup_model.search(search, model, starts, active, rows, trie.expand)


def _run(model, sequences, num_beams, penalty=1.0, like=None):
  trie = constraints.build_trie(sequences, like=like)
  starts = np.array([model.start(p) for p in PROMPTS], np.int32)
  norms = stepping.length_norms(len(PROMPTS), trie.depth, penalty, None)
  search = beam_search.BeamSearch(num_beams, trie.depth, (EOS,), False)
  state = jax.device_get(
    _search(model, starts, stepping.RowFacts(norms, None), trie, search)
  )
  return starts, [
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


def test_trie_holds_the_titles_and_no_other():
  sequences = _titles(0, 60, 6)
  trie = constraints.build_trie(sequences)
  assert trie.longest == max(map(len, sequences)) <= trie.depth
  found = set()

  def walk(node, tokens):
    first, past = trie.first_child[node : node + 2]
    if first == past:
      found.add(tokens)
    children = trie.tokens[first:past]
    assert np.all(np.diff(children) > 0)
    assert len(children) <= trie.max_children
    for child in range(first, past):
      walk(child, (*tokens, int(trie.tokens[child])))

  walk(0, ())
  assert found == {tuple(ids) for ids in sequences}


def test_as_many_beams_as_titles_scores_them_all(model):
  sequences = _titles(1, 15, 6)
  sequences.append(sequences[0])  # Duplicate titles are one hypothesis.
  distinct = len({tuple(ids) for ids in sequences})
  for beams in (distinct, 18):
    starts, rows = _run(model, sequences, beams)
    for start, found in zip(starts, rows, strict=True):
      expected = lookup_model.all_titles_by_score(model, int(start), sequences)
      assert [tokens for tokens, _ in found] == [ids for _, ids in expected]
      np.testing.assert_allclose(
        [score for _, score in found],
        [score for score, _ in expected],
        atol=1e-4,
        rtol=1e-5,
      )


def test_fewer_beams_write_titles_only(model):
  sequences = _titles(2, 200, 8)
  starts, rows = _run(model, sequences, 4, penalty=0.0)
  titles = {tuple(ids) for ids in sequences}
  for start, found in zip(starts, rows, strict=True):
    assert len(found) == 4
    for tokens, score in found:
      assert tokens in titles
      # Not renormalised over what is allowed: the model's own probability.
      assert score == pytest.approx(model.walk(int(start), tokens), abs=1e-4)


def test_expand_equals_a_mask_over_the_vocabulary(model):
  sequences = _titles(3, 40, 5)
  trie = constraints.build_trie(sequences)
  logits = jnp.asarray(model.table[:6].reshape(2, 3, VOCAB))
  nodes = jnp.asarray([[0, 1, 2], [3, 5, 4]], jnp.int32)
  found = trie.expand(logits, nodes, None)
  np.testing.assert_allclose(
    found.log_normaliser, jax.nn.logsumexp(logits, axis=-1), rtol=1e-6
  )
  for b in range(2):
    for w in range(3):
      node = int(nodes[b, w])
      first, past = trie.first_child[node : node + 2]
      masked = np.full(VOCAB, -np.inf, np.float32)
      masked[trie.tokens[first:past]] = logits[b, w][trie.tokens[first:past]]
      back = np.full(VOCAB, -np.inf, np.float32)
      for slot in np.flatnonzero(np.isfinite(found.logits[b, w])):
        token = int(found.tokens[b, w, slot])
        back[token] = found.logits[b, w, slot]
        child = int(found.nodes[b, w, slot])
        assert first <= child < past and trie.tokens[child] == token
      np.testing.assert_array_equal(back, masked)


def test_sampling_draws_titles_only(model):
  sequences = _titles(4, 50, 6)
  trie = constraints.build_trie(sequences)
  starts = np.array([model.start(p) for p in PROMPTS], np.int32)

  numbers = jnp.arange(len(PROMPTS), dtype=jnp.int32)
  norms = stepping.length_norms(len(PROMPTS), trie.depth, 1.0, None)
  rows = stepping.RowFacts(norms, sampling.row_keys(np.uint32(0), numbers))
  search = sampling.Sampling(
    3, trie.depth, (EOS,), sampling.Warpers(2.0, 0, 0.95)
  )
  state = jax.device_get(_search(model, starts, rows, trie, search))
  titles = {tuple(ids) for ids in sequences}
  drawn = {
    tuple(state.tokens[b, w, : state.lengths[b, w]].tolist())
    for b in range(5)
    for w in range(3)
  }
  assert drawn <= titles and len(drawn) > 3


def _encode_batch(texts):
  """Characters, with a mark at the start and "\n\"" merged with an x."""
  merged = [t.replace('\n"x', "\u0001") for t in texts]
  return [[1, *map(ord, text)] for text in merged]


def _decode(ids):
  """Characters; what is beyond ASCII is unknown."""
  return "".join(chr(i) if i < 128 else "?" for i in ids)


def _title_tokens(titles):
  return constraints.title_tokens(
    titles, "Response:\n", _encode_batch, _decode, EOS
  )


def test_titles_are_tokenised_in_context():
  titles = ['"ab"', '"c"']
  found = _title_tokens(titles)
  assert found.sequences == [[*map(ord, t), EOS] for t in titles]
  assert found.rows.tolist() == [0, 1]


def test_what_reads_as_no_title_is_left_out(caplog):
  titles = [
    *('"a"', '""', '"caf\u00e9"', '" "', '"y\u0004z"'),
    *('"b ### Response:\nc"', '"d"'),
  ]
  found = _title_tokens(titles)
  assert [titles[row] for row in found.rows] == ['"a"', '"d"']
  assert found.sequences == [[*map(ord, t), EOS] for t in ('"a"', '"d"')]
  assert "5 of 7 titles are never written" in caplog.text
  with pytest.raises(errors.UserError, match="none of 2 found"):
    _title_tokens(titles[1:3])


def test_merge_with_the_prompt_is_refused():
  with pytest.raises(errors.UserError, match="xyz"):
    _title_tokens(['"ab"', '"xyz"'])


def test_titles_under_every_node():
  sequences = _titles(6, 80, 7)
  sequences += sequences[:9]  # Equal ones are neighbours, in their order.
  names = np.arange(len(sequences)) * 3 + 1
  trie = constraints.build_trie(sequences, names, with_titles=True)
  order = sorted(range(len(sequences)), key=lambda row: (sequences[row], row))
  count = len(order)
  assert trie.titles.rows[:count].tolist() == names[order].tolist()
  assert np.all(trie.titles.rows[count:] == -1)
  seen = set()

  def walk(node, tokens):
    seen.add(node)
    places = [
      place
      for place, row in enumerate(order)
      if tuple(sequences[row][: len(tokens)]) == tokens
    ]
    assert places == list(range(trie.titles.start[node], trie.titles.end[node]))
    for child in range(*trie.first_child[node : node + 2]):
      walk(child, (*tokens, int(trie.tokens[child])))

  walk(0, ())
  others = np.setdiff1d(np.arange(len(trie.tokens)), list(seen))
  assert trie.nowhere in others
  assert np.all(trie.titles.start[others] == trie.titles.end[others])
  assert np.all(trie.first_child[others] == trie.first_child[others + 1])


@pytest.mark.parametrize("keep", [1, 5, 24, 200])
def test_the_best_children_of_narrow_and_wide_nodes(keep):
  vocab = 700
  rng = np.random.default_rng(7)
  sequences = [[t, EOS] for t in range(5, 655)]
  sequences += [[3, t, EOS] for t in range(100, 130)] + [[5, 6, 7, EOS]]
  trie = constraints.build_trie(sequences)
  assert trie.widths == (16, 128, 704)
  # Whole numbers: many are equal, and the lower token comes first.
  logits = rng.integers(0, 9, (2, 2, vocab)).astype(np.float32)
  expand = jax.jit(lambda trie, *beams: trie.expand(*beams, keep))
  three, five = (np.flatnonzero(trie.tokens[1:652] == t)[0] + 1 for t in (3, 5))
  leaf = trie.first_child[five]
  for nodes in (
    [[0, three], [five, leaf]],
    [[five, three], [trie.nowhere, three]],
    [[five, leaf], [trie.nowhere, five]],
  ):
    found = expand(trie, logits, jnp.asarray(nodes, jnp.int32))
    assert found.logits.shape == (2, 2, keep)
    for b, w in np.ndindex(2, 2):
      children = range(*trie.first_child[nodes[b][w] : nodes[b][w] + 2])
      best = sorted(
        children, key=lambda c: (-logits[b, w, trie.tokens[c]], trie.tokens[c])
      )[:keep]
      count = len(best)
      assert found.nodes[b, w, :count].tolist() == list(best)
      assert found.tokens[b, w, :count].tolist() == list(trie.tokens[best])
      np.testing.assert_array_equal(
        found.logits[b, w, :count], logits[b, w, trie.tokens[best]]
      )
      assert np.all(found.logits[b, w, count:] == -np.inf)
      assert np.all(found.nodes[b, w, count:] == trie.nowhere)


def test_a_trie_with_more_titles_runs_in_the_same_program(model):
  sequences = _titles(8, 60, 6)
  _run(model, sequences, 3)
  compiled = _search._cache_size()
  more = [*sequences, [7, 8, EOS], [9, EOS]]
  first = constraints.build_trie(sequences)
  _, rows = _run(model, more, 3, like=first)
  assert _search._cache_size() == compiled
  known = {tuple(ids) for ids in more}
  assert all(tokens in known for row in rows for tokens, _ in row)


def test_trie_needs_tokens():
  with pytest.raises(ValueError):
    constraints.build_trie([])
  with pytest.raises(ValueError):
    constraints.build_trie([[1, 2], []])


def test_selection_pick_without_table():
  where = jnp.asarray([[2, 0]], jnp.int32)
  np.testing.assert_array_equal(selection.pick(None, where), where)
