"""Nothing but titles that may be named, and plain words, is said aloud."""

import itertools
import random
import re

import pytest

from bigrec_jax.tasks.chat import guard

ALLOWED = ["Halo 3", "Iron Moon: Saga", "It", "Portal (2)", "Dr. Star", "Halo"]
SAY = guard.Guard(ALLOWED)

PASSES = [
  "I like this game.",
  "You will enjoy Halo 3 since you have had Iron Moon: Saga.",
  'Because you liked "Halo 3", these fit your taste.',
  "It is a great choice, and Portal (2) is similar!",
  "Halo 3's story and style match what you love.",
  "Dr. Star is fun.",
  "You've played Halo, so you may like it.",
  "halo 3 is great.",
]


@pytest.mark.parametrize("text", PASSES)
def test_what_passes(text):
  assert SAY(text) == (text, ())


# A made-up item in many guises; none of it may be said.
HALLUCINATED = [
  "You should try Elden Ring.",
  "You should try elden ring.",
  "Try ELDEN RING!",
  "Elden Ring is great.",
  'I like "the best game" most.',
  "I like 'The Best' too.",
  "I like “it” and ‘The Best’.",
  "You may like Halo 4.",  # Another item than Halo.
  "You may like Halo 3000.",
  "You may like Halo 3 Halo.",  # Together they name a third one.
  "You may like Halo Halo 3.",
  "You may like Halo Wars.",
  "You may like Halo-Wars.",
  "You may like Halo: Iron Moon: Saga",
  "You may like Her.",
  "Up is great.",
  "The Room is a great movie.",
  "You will like The Sims.",
  "Try Zelda—it is great.",
  "Try 二つ.",
  "Try *zelda* now.",
  "Try m/e/e/t now.",
  "Try El Dorado\x00.",
  "A1 is great.",
  "Call +1 234.",
  "<b>You</b>",
]


@pytest.mark.parametrize("text", HALLUCINATED)
def test_what_is_withheld(text):
  said = SAY(text)
  assert said.text == "" and said.withheld


def test_a_sentence_is_withheld_alone():
  text = "I like Halo 3. Try Elden Ring! It is fun.\n1. Zelda\nThanks."
  assert SAY(text) == (
    "I like Halo 3. It is fun. Thanks.",
    ("Try Elden Ring!", "1.", "Zelda"),
  )


def test_a_title_keeps_its_full_stop_and_its_case():
  said = SAY("You like dr. star because Dr. Star is fun.")
  assert said.text == "You like dr. star because Dr. Star is fun."


def test_nothing_unknown_passes_in_random_texts():
  """Texts mixed of allowed and other titles, plain words and signs."""
  draw = random.Random(5)
  others = ["Zelda", "Iron", "Moon Saga", "Portal", "elden", "Q", "7", "Saga"]
  plain = sorted(guard.WORDS)
  signs = [" ", " ", " ", ", ", ". ", "! ", ' "', '" ', "\n", "-", ": "]
  passed = 0
  for _ in range(3000):
    parts = draw.choices([*ALLOWED, *draw.sample(plain, 20), *others], k=5)
    text = "".join(
      itertools.chain(*((part, draw.choice(signs)) for part in parts))
    )
    said = SAY(text).text
    passed += bool(said)
    for title in sorted(ALLOWED, key=len, reverse=True):
      pattern = rf"(?<![\w-]){re.escape(title)}(?![\w-])"
      said = re.sub(pattern, " ", said, flags=re.IGNORECASE)
    rest = re.findall(r"[^\W_]+", re.sub(r"['’](?=[a-z])\w+", "", said))
    assert all(word.lower() in guard.WORDS for word in rest), text
  assert passed > 100  # It isn't that nothing passes.


def test_without_titles_only_plain_words_pass():
  assert guard.Guard([])("I know. Try Halo 3.").text == "I know."
