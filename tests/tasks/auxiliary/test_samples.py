"""What each kind of sample says, and what it is drawn from."""

import dataclasses
import re

import numpy as np
import pytest

from bigrec_jax import errors
from bigrec_jax.tasks.auxiliary import blanks, mixture, negatives, samples
from tests.tasks.auxiliary import made_up

TITLES = ("Halo 3", "Fable II", "Braid", "Iron City Racer")


def _titled(made, attributes=None):
  """Returns samples whose first items have the titles above."""
  own = dataclasses.replace(
    made.wording,
    catalogue=made_up.titled(TITLES),
    attributes=attributes or {},
  )
  return dataclasses.replace(made, wording=own)


def _inside(text):
  """Returns the quoted names in a text."""
  return re.findall(r'"([^"]*)"', text)


ROW = made_up.one([0, 2], 1, [5, 2.5], 4)


def test_retrieval_and_rating_read_as_they_should():
  made = _titled(made_up.make(ROW), {"B000": "Action, FPS"})
  assert made.parts("retrieval", 0) == (
    "What comes next?",
    'Had: "Halo 3" (Action, FPS), "Braid"',
    '"Fable II"',
  )
  assert made.parts("rating", 0)[1:] == (
    'Had: "Halo 3" (Action, FPS; rated 5), "Braid" (rated 2.5)\n'
    'Item: "Fable II"',
    '"4"',
  )


@pytest.mark.parametrize(
  ("options", "history", "answer"),
  [
    ({"item": "id"}, 'Had: "0", "2" (Puzzle)', '"1"'),
    (
      {"item": "both"},
      'Had: "0" (Halo 3), "2" (Braid; Puzzle)',
      '"1"',
    ),
    (
      {"item": "both", "ids": "external"},
      'Had: "B000" (Halo 3), "B002" (Braid; Puzzle)',
      '"B001"',
    ),
  ],
)
def test_items_are_titles_or_ids_or_both(options, history, answer):
  made = _titled(made_up.make(ROW, **options), {"B002": "Puzzle"})
  assert made.parts("retrieval", 0)[1:] == (history, answer)
  assert made.wording.item_of(answer) == 1
  assert made.wording.item_of("nothing") is None
  assert len(made.wording.answers) == made_up.ITEMS


def test_ranking_lists_the_target_among_what_the_user_never_had():
  rows = made_up.examples()
  made = made_up.make(rows)
  groups, places = made.wording.catalogue.groups, set()
  for n in range(len(rows)):
    listed = made.candidates(n)
    assert len(listed) == made.config.candidates
    assert len(set(groups[listed].tolist())) == len(listed)
    (place,) = np.flatnonzero(listed == rows.target[n])
    places.add(int(place))
    own = rows.user == rows.user[n]
    had = {*rows.history[own].ravel().tolist(), *rows.target[own].tolist()}
    had = {int(groups[item]) for item in had if item >= 0}
    others = groups[listed[listed != rows.target[n]]]
    assert not had & set(others.tolist())
    instruction, asked, answer = made.parts("ranking", n)
    names = [made.wording.name(item) for item in listed]
    assert _inside(asked.partition("Candidates: ")[2]) == names
    assert _inside(answer) == [made.wording.name(rows.target[n])]
  assert len(places) > 4  # Anywhere.


def test_bpr_is_the_target_and_an_item_the_user_never_had():
  rows = made_up.examples(count=60)
  made = made_up.make(rows)
  firsts = []
  for n in range(len(rows)):
    _, asked, answer = made.parts("bpr", n)
    history, _, pair = asked.partition("\nTwo others: ")
    names = _inside(pair)
    target = made.wording.name(rows.target[n])
    assert _inside(answer) == [target] and names.count(target) == 1
    firsts.append(names[0] == target)
    had = [made.wording.name(i) for i in rows.history[n] if i >= 0]
    assert _inside(history) == had
    assert not set(names) - {target} <= set(had)
  assert 15 < sum(firsts) < 45


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("window", [0, 4])
def test_hidden_items_put_back_are_the_window(window, count):
  rows = made_up.examples(count=40)
  made = made_up.make(rows, window=window, masked_items=count)
  usable = made.usable("mim").tolist()
  assert usable == [n for n in range(40) if rows.history[n, 0] >= 0]
  for n in usable:
    _, asked, answer = made.parts("mim", n)
    hidden, items = _inside(answer), [*rows.history[n], rows.target[n]]
    items = [item for item in items if item >= 0][-window if window else 0 :]
    assert len(hidden) == min(count, len(items) - 1)
    for number, name in enumerate(hidden):
      assert asked.count(f"<{number}>") == 1
      asked = asked.replace(f"<{number}>", f'"{name}"')
    assert _inside(asked) == [made.wording.name(item) for item in items]


def test_hidden_words_put_back_are_the_titles():
  rows = made_up.examples(count=40)
  made = made_up.make(rows, mask_rate=0.3)
  total = lost = 0
  for n in range(len(rows)):
    _, asked, answer = made.parts("mlm", n)
    spans = re.split(r"<(\d+)>", answer)[1:]
    assert spans[::2] == [str(k) for k in range(len(spans) // 2)]
    for number, words in zip(spans[::2], spans[1::2], strict=True):
      lost += len(words.split())
      assert asked.count(f"<{number}>") == 1
      asked = asked.replace(f"<{number}>", words.strip())
    items = [*rows.history[n][rows.history[n] >= 0], rows.target[n]]
    assert _inside(asked) == [made.wording.name(item) for item in items]
    total += sum(len(made.wording.name(item).split()) for item in items)
  assert lost / total == pytest.approx(0.3, abs=0.03)
  assert not len(made_up.make(rows, item="id").usable("mlm"))


def test_neighbouring_hidden_words_are_one_span_of_one_title():
  rng = np.random.default_rng(0)
  shown, answer = blanks.hide(["a b", "c"], rng, 1.0, "<extra_id_{}>".format)
  assert shown == ["<extra_id_0>", "<extra_id_1>"]
  assert answer == "<extra_id_0> a b <extra_id_1> c"
  shown, answer = blanks.hide(["", "word"], rng, 0.0, "<{}>".format)
  assert (shown, answer) == (["", "<0>"], "<0> word")


def test_draws_depend_on_the_row_and_nothing_else():
  rows = made_up.examples()
  made = made_up.make(rows)
  order = np.random.default_rng(1).permutation(len(rows))
  moved = dataclasses.replace(made, examples=rows.take(order))
  for kind in ("ranking", "mlm", "bpr"):
    for place, n in enumerate(order.tolist()):
      assert moved.parts(kind, place) == made.parts(kind, n)
  for change in ({"seed": 6}, {}):
    other = dataclasses.replace(made, **change)
    texts = [
      one.parts("ranking", n, 0 if change else turn)
      for turn, one in enumerate((made, other))
      for n in range(len(rows))
    ]
    assert len(set(texts)) > 1.9 * len(rows)


def _mixed(made, weights):
  return mixture.Mixture(
    made,
    tuple(mixture.part(made, kind, w, 5) for kind, w in weights.items()),
    "x",
  )


def test_weights_are_samples_for_each_row():
  made = made_up.make()
  weights = {"retrieval": 1.0, "rating": 2.0, "mim": 0.5, "bpr": 2.25}
  mixed = _mixed(made, weights)
  usable = {kind: len(made.usable(kind)) for kind in weights}
  counts = {kind: round(w * usable[kind]) for kind, w in weights.items()}
  assert mixed.counts() == counts and len(mixed) == sum(counts.values())
  assert usable["rating"] == 25 and usable["retrieval"] == 30
  names = [mixed.name(n) for n in range(len(mixed))]
  assert len(set(names)) == len(names)  # No row twice in a turn.
  assert names[0] == f"train row {made.examples.rows[0]} (retrieval)"
  assert sum("(bpr 3)" in name for name in names) == round(0.25 * 30)
  # Another draw in each turn, the same one every time.
  assert mixed.text(len(mixed) - 1) == mixed.text(len(mixed) - 1)
  bpr = [mixed.text(n).training for n in range(len(mixed))][-counts["bpr"] :]
  assert len(set(bpr)) > 0.9 * len(bpr)


def test_a_kind_left_out_leaves_the_others_as_they_are():
  made = made_up.make()
  kinds = dict.fromkeys(samples.KINDS, 1.5)
  every = _mixed(made, kinds)
  whole = {every.name(n): every.text(n) for n in range(len(every))}
  less = _mixed(made, kinds | {"mim": 0.0})
  rest = {less.name(n): less.text(n) for n in range(len(less))}
  assert rest == {name: t for name, t in whole.items() if "(mim" not in name}
  assert every.fingerprints != less.fingerprints
  content = less.content(0)
  assert set(content) == {"instruction", "input", "output"}
  assert less.text(0).training.endswith(content["output"])


def test_too_many_candidates_are_refused_before_any_work():
  rows = made_up.examples()
  groups = made_up.catalogue().groups
  had = negatives.Negatives(lambda: [rows], groups, np.ones(len(groups), bool))
  most = max(
    len(
      {
        int(groups[item])
        for item in [*rows.history[own].ravel(), *rows.target[own]]
        if item >= 0
      }
    )
    for own in (rows.user == user for user in range(10))
  )
  left = len(set(groups.tolist())) - most
  had.check(rows, left, "config.x")
  with pytest.raises(errors.UserError, match=f"at most {left} others expected"):
    had.check(rows, left + 1, "config.x")
  # Down to the last item, by shuffling what is left.
  rng = np.random.default_rng(0)
  for user in range(10):
    drawn = had.draw(rng, user, rows.target[:0], left)
    assert len(set(drawn.tolist())) == left


def test_ids_that_cleaning_makes_equal_are_refused():
  made = made_up.make(item="id", ids="external")
  ids = ('a"', "a", *made.wording.catalogue.external_ids[2:])
  catalogue = dataclasses.replace(made.wording.catalogue, external_ids=ids)
  own = dataclasses.replace(made.wording, catalogue=catalogue)
  with pytest.raises(errors.UserError, match="items 0 and 1 are both 'a'"):
    own.item_of('"a"')
