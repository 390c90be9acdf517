"""Prompts that come one after the other, against one call with all of them."""

import jax
import numpy as np
import pytest

from bigrec_jax.decoding import constraints, generate, running
from tests.decoding import test_generate as world

BUCKETS = (8, 32)


def make(setup, prompts, slots=4, trie=None, buckets=BUCKETS, **changes):
  prefix = generate.read_prefix(
    setup.model,
    setup.params,
    setup.lora,
    generate.shared_beginning(prompts),
    setup.mesh,
  )
  network = running.Network(
    setup.model, setup.params, setup.lora, prefix, (world.EOS,), setup.mesh, 0
  )
  own = running.Running(network, world.options(**changes), trie, slots, buckets)
  return own, len(prefix.ids)


def decode(own, prompts, cut, arrivals):
  """Lets `arrivals` users in before each advance, as far as slots are free."""
  waiting = [
    running.Prompt(n, prompt[cut:], len(prompt))
    for n, prompt in enumerate(prompts)
  ]
  found, turns = {}, 0
  while waiting or own.busy:
    count = min(own.free, arrivals)
    own.admit(waiting[:count])
    waiting = waiting[count:]
    for each in own.advance():
      assert each.name not in found and not each.problem
      found[each.name] = each
    turns += 1
    assert turns < 1000
  rows = [found[n] for n in range(len(prompts))]
  return generate.Hypotheses(
    [row.tokens for row in rows], np.stack([row.scores for row in rows])
  )


@pytest.mark.parametrize("way", ["beams on a mesh", "look ahead", "sampled"])
def test_who_comes_later_is_decoded_as_alone(way):
  """And nothing is compiled once all is warm."""
  shape = (2, 1, 1) if way == "beams on a mesh" else (1, 1, 1)
  changes = {"max_new_tokens": 20}
  trie = None
  if way == "look ahead":
    trie = constraints.build_trie(world.chained_titles(4, 50, 9))
    changes |= {"lookahead": 2, "max_new_tokens": 60}
  if way == "sampled":
    changes |= {"sample": True}
  setup = world.Setup(shape)
  prompts = world.make_prompts(9)
  # Two widths where users cross no device; each is many programs.
  buckets = BUCKETS if way == "beams on a mesh" else BUCKETS[1:]
  own, cut = make(setup, prompts, trie=trie, buckets=buckets, **changes)
  own.warm_up()
  compiled = []
  jax.monitoring.register_event_duration_secs_listener(
    lambda name, *_, **__: compiled.append(name) if "compile" in name else None
  )
  found = [decode(own, prompts, cut, arrivals) for arrivals in (1, 3)]
  assert not compiled, compiled
  if way == "sampled":
    # Each is the first of a call of its own: its text hangs on it alone.
    alone = [setup([p], trie=trie, **changes) for p in prompts]
    expected = generate.Hypotheses(
      [row.tokens[0] for row in alone],
      np.concatenate([row.scores for row in alone]),
    )
  else:
    expected = setup(prompts, trie=trie, **changes)
  for each in found:
    world.assert_same(each, expected)


def test_who_is_alone_has_one_slot(monkeypatch):
  """There are more while more are at hand, and who is in the middle moves."""
  monkeypatch.setattr(running, "STEPS", 2)  # So that nobody is done at once.
  setup, prompts = world.Setup(), world.make_prompts(9)
  own, cut = make(setup, prompts, slots=9, max_new_tokens=40)
  waiting = [running.Prompt(n, p[cut:], 0) for n, p in enumerate(prompts)]
  found, counts = {}, []
  for arrivals in (1, 1, 5, 2):
    own.admit(waiting[:arrivals])
    waiting = waiting[arrivals:]
    counts.append(own.count)
    found |= {each.name: each for each in own.advance()}
  assert counts == [1, 2, 9, 9]
  here = [name for name in own._seats.names if name is not None]
  for name in here[2:]:
    own.drop(name)
  assert own.busy == 2 and own.free == 7
  while own.busy:
    found |= {each.name: each for each in own.advance()}
    counts.append(own.count)
  assert counts[-1] < 9  # Fewer would have done for a while.
  expected = setup(prompts, max_new_tokens=40)
  assert found.keys() >= set(here[:2])
  for n in found:
    assert found[n].tokens == expected.tokens[n]
    np.testing.assert_allclose(found[n].scores, expected.scores[n], rtol=1e-4)
  own.admit([running.Prompt("x", prompts[0][cut:], 0)])
  assert own.count == 1


def test_a_slot_that_is_dropped_is_free_at_once():
  setup = world.Setup()
  prompts = world.make_prompts(6)
  own, cut = make(setup, prompts, slots=2, max_new_tokens=20)
  own.admit([running.Prompt(n, prompts[n][cut:], 0) for n in (0, 1)])
  with pytest.raises(ValueError, match="0 free"):
    own.admit([running.Prompt(2, prompts[2][cut:], 0)])
  own.drop(0)
  own.drop("nobody")
  assert own.free == 1
  own.admit([running.Prompt(2, prompts[2][cut:], 0)])
  found = {}
  while own.busy:
    found |= {each.name: each.tokens for each in own.advance()}
  expected = setup(prompts, max_new_tokens=20).tokens
  assert found == {n: expected[n] for n in (1, 2)}
  with pytest.raises(ValueError, match="more than 32"):
    own.admit([running.Prompt(3, [5] * 33, 0)])


def test_other_titles_in_the_same_programs():
  setup = world.Setup()
  titles = world.chained_titles(5, 50, 9)
  first = constraints.build_trie(titles)
  own, cut = make(setup, world.make_prompts(3), trie=first, max_new_tokens=60)
  prompts = world.make_prompts(3)
  decode(own, prompts, cut, 3)
  own.admit([running.Prompt("x", prompts[0][cut:], 0)])
  more = constraints.build_trie([*titles, [8, 9, 10, world.EOS]], like=first)
  with pytest.raises(ValueError, match="1 users found"):
    own.set_trie(more)
  while own.busy:
    own.advance()
  own.set_trie(more)
  expected = setup(prompts, trie=more, max_new_tokens=60)
  world.assert_same(decode(own, prompts, cut, 3), expected)
