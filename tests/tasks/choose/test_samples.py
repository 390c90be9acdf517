"""Candidates, texts, schedules and scores of task choose."""

import numpy as np
import pytest

from bigrec_jax import errors
from bigrec_jax.data.prepared.examples import Examples
from bigrec_jax.data.text import source as source_lib
from bigrec_jax.tasks.choose import samples, scoring, templates, texts
from bigrec_jax.training import optimizer
from configs import llara

from bigrec_jax import config as config_lib  # isort: skip

TITLES = tuple(f"Title {n}" for n in range(39)) + ("Title 0",)
GROUPS = np.array([*range(39), 0])


def _examples(split="train", count=50):
  rng = np.random.default_rng(3)
  history = rng.integers(0, 40, (count, 6)).astype(np.int32)
  lengths = rng.integers(1, 7, count)
  history[np.arange(6) >= lengths[:, None]] = -1
  target = rng.integers(0, 40, count).astype(np.int32)
  rows, user = np.arange(count), np.arange(count)
  return Examples(split, rows, history, target, user, rows)


def _drawn(split="train", examples=None, **options):
  values = {"count": 20, "least": 3, "seed": 1} | options
  return samples.draw(examples or _examples(split), GROUPS, **values)


def test_candidates_are_the_target_and_others_that_the_user_lacks():
  drawn = _drawn()
  lengths = (_examples().history >= 0).sum(axis=1)
  assert drawn.kept.tolist() == np.flatnonzero(lengths >= 3).tolist()
  for n, own in enumerate(drawn.candidates):
    examples = drawn.examples
    had = {GROUPS[i] for i in examples.history[n] if i >= 0}
    others = [i for i in own if i != examples.target[n]]
    assert len(others) == 19
    named = [GROUPS[i] for i in own]
    assert len(set(named)) == 20
    assert had.isdisjoint(GROUPS[i] for i in others)
  places = (drawn.candidates == drawn.examples.target[:, None]).argmax(axis=1)
  assert len(set(places.tolist())) > 8  # The target is anywhere.


def test_candidates_depend_on_row_and_seed_alone():
  whole, some = _drawn(), _drawn(examples=_examples().take(slice(20, 40)))
  both = np.isin(whole.examples.rows, some.examples.rows)
  np.testing.assert_array_equal(whole.candidates[both], some.candidates)
  for other in (_drawn(seed=2), _drawn("test")):
    assert (other.candidates != whole.candidates).any()
    assert other.fingerprint != whole.fingerprint
  with pytest.raises(errors.UserError, match="at most 33 expected"):
    _drawn(count=34)


def _train_texts(**options):
  config = llara.get_config()
  config.task.choose.update(options)
  own = config_lib.from_config_dict(config).task.choose
  words = templates.chosen("movie", ())
  return texts.TrainTexts(_drawn(), TITLES, words, True, 5, own, 32, 4)


def test_a_question_names_all_with_a_place_behind_each_title():
  train = _train_texts()
  drawn, count = train.samples, len(train)
  for variant in range(6):
    for n in (0, 7):
      text = train.text(variant * count + n)
      history = [int(i) for i in drawn.examples.history[n] if i >= 0]
      own = drawn.candidates[n].tolist()
      # All templates name the history first.
      wanted = [*history, *own]
      pieces = text.prompt.split(source_lib.SOFT)
      assert len(pieces) == len(wanted) + 1
      for piece, item in zip(pieces, wanted, strict=False):
        assert piece.endswith(TITLES[item])
      real = variant >= 3
      assert text.soft == (tuple(wanted) if real else (-1,) * len(wanted))
      assert text.answer == f" {TITLES[drawn.examples.target[n]]}\n"
      assert text.prompt == text.question and "{" not in text.prompt
  assert train.name(2 * count + 1) == train.name(1)
  asked = texts.Texts(drawn, TITLES, ("{candidates}? {history}",), True, 5)
  assert asked.text(0).soft[:20] == tuple(drawn.candidates[0].tolist())
  plain = texts.Texts(drawn, TITLES, train.templates, False, 5)
  assert source_lib.SOFT not in plain.text(0).prompt
  assert plain.text(0).soft == ()
  assert asked.content(0)["candidates"] == [
    TITLES[i] for i in drawn.candidates[0]
  ]
  with pytest.raises(errors.UserError, match="{history} once expected"):
    templates.chosen("movie", ("{candidates}",))


def test_titles_are_spoken_as_the_published_loader_does():
  expected = {
    "Toy Story (1995)": "Toy Story",
    "Usual Suspects, The (1995)": "The Usual Suspects",
    "Postino, Il (1994)": "Postino, Il",
    "Beautiful Mind, A (2001)": "A Beautiful Mind",
    "America, America (1963)": "America, America",  # There: A Americamerica.
    "Lamerica": "Lamerica",
  }
  assert {title: texts.spoken(title) for title in expected} == expected


def _shares(train, steps=40):
  """Returns the share of samples with item vectors of each step."""
  found = []
  for step in range(steps):
    numbers = list(range(32))
    chosen = np.array(train.at_step(step, steps, numbers))
    assert (chosen % len(train) == numbers).all()
    variants = (chosen // len(train)).reshape(4, 8)
    assert (variants == variants[:, :1]).all()  # Alike within a group.
    found.append((variants >= 3).mean())
  assert train.at_step(3, steps, numbers) == train.at_step(3, steps, numbers)
  return np.array(found)


def test_schedules_say_who_has_item_vectors():
  assert _shares(_train_texts(schedule="direct")).tolist() == [1.0] * 40
  two = _shares(_train_texts(schedule="two_stage"))
  assert two.tolist() == [0.0] * 20 + [1.0] * 20
  grows = _shares(_train_texts())
  assert grows[:10].mean() < 0.3 < 0.7 < grows[30:].mean()
  train = _train_texts()
  assert [train.probability(s, 40, 0) for s in (0, 19, 39)] == [
    1 / 40,
    0.5,
    1.0,
  ]


def test_workers_count_as_in_the_published_loader():
  """A slow replay: every worker's own count, from 1 in each epoch."""
  train = _train_texts(workers=2)
  batches = len(train) // 8
  per_epoch = -(-len(train) // 32)
  num_steps, most = 4 * per_epoch, 4 * batches // 2
  for epoch in range(4):
    counts = [0, 0]
    for batch in range(batches):
      worker = batch % 2
      counts[worker] += 1
      step, place = epoch * per_epoch + batch // 4, batch % 4
      found = train.probability(step, num_steps, place)
      assert found == counts[worker] / most
      assert found <= 1 / 4 + 1 / most


def test_answers_are_judged_by_the_substring_rule_and_strictly():
  own = ["Alien", "Aliens", "The Thing", "Heat"]
  answers = [
    " alien ",  # Valid.
    "Aliens",  # Names two: Alien is part of it.
    "I suggest The Thing.\nHeat",  # Only the first line counts.
    "Heat",
    "Cold",
    "\n Heat \n The Thing",
  ]
  targets = ["Alien", "Aliens", "The Thing", "Alien", "Heat", "Heat"]
  judged = scoring.judge(answers, targets, [own] * 6)
  assert judged.valid.tolist() == [True, False, True, True, False, True]
  assert judged.right.tolist() == [True, False, True, False, False, True]
  strict = [True, True, False, True, False, True]
  assert judged.strictly_valid.tolist() == strict
  assert judged.strictly_right.tolist() == [True, True] + [False] * 3 + [True]
  assert judged.metrics()["hit_ratio@1"].mean() == 0.5


def test_the_learning_rate_is_the_published_schedule():
  """Against the published classes, restated: warm-up, then their cosine."""
  total, warmup, peak = 60, 3, 8e-4
  found = [
    optimizer.hundredth_schedule(step, peak, warmup, total)
    for step in range(total)
  ]
  assert found[0] == pytest.approx(8e-6) and found[1] < found[2] < found[3]
  cosine = 8e-6 + (8e-4 - 8e-6) * (1 + np.cos(np.pi * np.arange(60) / 60)) / 2
  np.testing.assert_allclose(found[3:], cosine[3:], rtol=1e-12)
