"""Hidden words of titles, as T5 hides spans: each is a numbered blank.

Raffel et al., 2020 (T5), section 3.1.4: neighbouring hidden words are one span;
the answer has, for each span, its blank and then its words.
"""

from collections.abc import Callable, Sequence

import numpy as np


def hide(
  texts: Sequence[str],
  rng: np.random.Generator,
  rate: float,
  blank: Callable[[int], str],
) -> tuple[list[str], str]:
  """Hides words; one at least.

  Args:
    texts: titles, with one word at least among them. Spans end with them.
    rng: which words.
    rate: share of all words that are hidden, rounded.
    blank: what stands for span number n.

  Returns:
    The titles with blanks, white space between words made one blank, and the
    answer.
  """
  words = [text.split() for text in texts]
  count = sum(map(len, words))
  hidden = np.zeros(count, bool)
  chosen = max(1, round(rate * count))
  hidden[rng.choice(count, chosen, replace=False)] = True
  left = iter(hidden.tolist())
  shown, answer, number = [], [], 0
  for own in words:
    text: list[str] = []
    inside = False
    for word in own:
      goes_on, inside = inside, next(left)
      if not inside:
        text.append(word)
        continue
      if not goes_on:
        text.append(blank(number))
        answer.append(blank(number))
        number += 1
      answer.append(word)
    shown.append(" ".join(text))
  return shown, " ".join(answer)
