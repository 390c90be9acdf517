"""Which sentences of a chat model may be said aloud.

A model may name items that don't exist, and no list of what exists tells a
made-up name from prose. So it goes the other way round: a sentence passes if
everything in it is either the title of an item that may be named, as a whole,
or one of a few hundred plain words. A capital within a sentence, a digit, a
quote that isn't around a title, two titles side by side (which together may
name a third item), and any other word or sign keep a sentence back.

What isn't told apart: lower-case prose that happens to read like a title of
nothing but such words.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

_STARTERS = """
a all also and as based because both but each enjoy every for given glad good
great happy have hello here hi i if in it maybe no of one please several since
so some sorry sure tell thank thanks that the these they this those to we well
what when which with would yes you your
"""
_WORDS = """
about action active adventure after again another any are around be been before
begin best better big both bring build but calm can care challenge change
characters charming choice choices choose classic clever close come complete
could deep detailed different do does easy else engaging enjoyable enjoyed even
exciting experience explore familiar family fans fast favorite favourite feel
few find fit fits focus friends from fun funny game games genre genres get give
gives go goes had hand has he help her here him his history hope how ideas
interest interested interesting interests into is items its just keep kind know
known last less let light like liked likely likes list little long look looking
lot love loved lovers made make makes many match matches may me might mix mood
more most movie movies much music my need new next nice not now offer offers
often older on only options or other others our out over own pace past people
perfect pick picks play played players please popular prefer preference
preferences previous probably quick quiet rather read reading really recent
recently recommend recommendation recommendations recommended relaxing right
same series set shares she short should show shows similar simple slow
something sometimes song songs soon start still stories story strong style
styles suit suits taste tastes than their them then there think through time
together too toys try two type understand unique up us use used usual variety
very want was watch watched way ways were where while who why will without
wonderful word words work works world worth years book books item other
"""
STARTERS = frozenset(_STARTERS.split())
WORDS = STARTERS | frozenset(_WORDS.split())

_END = re.compile(r"(?<=[.!?])\s+|\n+")
_PLACE = "\ue000"  # A private character: no title that passes has it.
_QUOTED = re.compile(f"[\"'“”‘’]{_PLACE}[\"'“”‘’]|{_PLACE}")
_PLACED = re.compile(f"({_PLACE})(?:['’]s\\b)?")
_ADJACENT = re.compile(f"{_PLACE}[\\s:-]*{_PLACE}|\\w{_PLACE}|{_PLACE}\\w")
_CONTRACTION = re.compile(r"(?<=[A-Za-z])['’](?:s|re|ve|ll|d|m|t)\b")
_PLAIN = re.compile(r"[A-Za-z ,.!?;:()-]*")
_MOST_SENTENCES = 4


class Said(NamedTuple):
  """What became of a text.

  Attributes:
    text: the sentences that passed, with blanks between them; "" = none.
    withheld: those that did not.
  """

  text: str
  withheld: tuple[str, ...]


class Guard:
  """Knows the titles that may be named."""

  def __init__(self, titles: Sequence[str]):
    """Keeps them, the longest first: "Halo 3" is more than "Halo"."""
    known = sorted({t for t in titles if t and _PLACE not in t}, key=len)
    ordered = "|".join(map(re.escape, known[::-1]))
    self._titles = None
    if known:
      pattern = rf"(?<![\w-])(?:{ordered})(?![\w-])"
      self._titles = re.compile(pattern, re.IGNORECASE)

  def __call__(self, text: str) -> Said:
    """Returns what of a text may be said."""
    named: list[str] = []

    def place(match: re.Match[str]) -> str:
      named.append(match[0])
      return _PLACE

    text = text.replace(_PLACE, "")
    if self._titles is not None:
      text = self._titles.sub(place, text)
    kept: list[str] = []
    withheld: list[str] = []
    titles = iter(named)
    for sentence in filter(None, map(str.strip, _END.split(text))):
      own = re.sub(_PLACE, lambda _: next(titles), sentence)
      passes = _passes(sentence) and len(kept) < _MOST_SENTENCES
      (kept if passes else withheld).append(own)
    return Said(" ".join(kept), tuple(withheld))


def _passes(sentence: str) -> bool:
  """Returns whether a sentence has nothing but titles and plain words."""
  sentence = _QUOTED.sub(_PLACE, sentence)
  if _ADJACENT.search(_PLACED.sub(r"\1", sentence)):
    return False
  begins_with_title = sentence.startswith(_PLACE)
  plain = _CONTRACTION.sub("", _PLACED.sub(" ", sentence))
  if not _PLAIN.fullmatch(plain):
    return False
  words = re.findall("[A-Za-z]+", plain)
  if not words:
    return False
  first = "" if begins_with_title else words.pop(0)
  if first and first.lower() not in STARTERS:
    return False
  return all(word == "I" or word in WORDS for word in words)
