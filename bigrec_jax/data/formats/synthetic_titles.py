"""Titles of the made-up video-game store: franchises, parts, platforms.

Every name is composed here from syllables and plain words; none is meant to be
a real product. Only `numpy.random.Generator.random` is drawn from, because its
stream is the one least likely to change between NumPy releases.
"""

import dataclasses

import numpy as np

from bigrec_jax import errors

PLATFORMS = ("PC", "Orvex", "Nubira", "Kastrell", "Tavona")
# The last word of a franchise's name tells its genre, nothing else does.
GENRES = {
  "role-playing": ("Chronicles", "Saga", "Legends", "Odyssey"),
  "racing": ("Rally", "Circuit", "Drift", "Speedway"),
  "strategy": ("Empires", "Tactics", "Dominion", "Frontlines"),
  "puzzle": ("Blocks", "Riddles", "Puzzles", "Marbles"),
  "sports": ("Tennis", "Hockey", "Golf", "Volleyball"),
  "action": ("Strike", "Fury", "Assault", "Vengeance"),
  "adventure": ("Mysteries", "Expedition", "Tales", "Voyage"),
  "simulation": ("Tycoon", "Farm", "Builder", "Airways"),
}
MIN_ITEMS = 40

_ROMAN = ("", "II", "III", "IV", "V", "VI", "VII")
_FIRST = tuple(
  "Bal Bren Cal Dor Dre El Fen Gar Hal Ith Jor Kel Lor Mer Nor Oth Per Quel"
  " Ral Sel Tal Ul Vor Wen Yor Zan".split()
)
_MIDDLE = tuple("a e i o u an en or il".split())
_LAST = tuple("dris mund neth rian vex thal wick zor lune gard mire".split())
_ADJECTIVES = tuple(
  "Amber Ashen Brass Copper Crimson Dusty Echoing Frozen Gilded Hollow Ivory"
  " Jagged Lonely Marble Misty Painted Quiet Rusty Silver Tangled Umber Velvet"
  " Wandering Woven".split()
)
_NOUNS = tuple(
  "Anchor Beacon Canyon Compass Ember Falcon Garden Harbor Island Juniper"
  " Kettle Lantern Meadow Nest Orchard Pebble Quarry River Summit Thicket"
  " Valley Willow Yarn Zephyr".split()
)
_EDITIONS = ("Deluxe", "Gold", "Anniversary")
_MAX_PARTS = len(_ROMAN)
# Share of franchises with 1, 2, ... parts.
_PART_SHARES = (0.12, 0.12, 0.20, 0.20, 0.16, 0.12, 0.08)
_PLATFORM_SHARES = (0.45, 0.35, 0.20)  # On 1, 2, 3 platforms.
_STYLES = ("roman", "arabic", "roman+subtitle", "subtitle")
_STYLE_SHARES = (0.45, 0.25, 0.20, 0.10)
_DUPLICATE_SHARE = 0.03
_POPULARITY_EXPONENT = 0.7  # Franchise of rank r weighs (1 + r)^-0.7.
_ASIN_SPACE = 36**8


@dataclasses.dataclass(frozen=True, eq=False)
class Shelf:
  """The catalogue of a world and what is behind each title.

  All arrays are [I], one entry a catalogue row.

  Attributes:
    titles: the titles; equal ones are the duplicates.
    external_ids: ten characters, unique, in no order.
    franchise: int32 number of the franchise.
    part: int32 part within the franchise, from 0.
    platform: int32 index into PLATFORMS.
    genre: int32 index into GENRES.
    community: int32 hidden co-purchase community of the franchise; no title
      betrays it.
    group: int32, rows with equal titles share their smallest row.
    appeal: float64 weight among items of the same franchise and part number,
      times the Zipf weight of the franchise.
  """

  titles: tuple[str, ...]
  external_ids: tuple[str, ...]
  franchise: np.ndarray
  part: np.ndarray
  platform: np.ndarray
  genre: np.ndarray
  community: np.ndarray
  group: np.ndarray
  appeal: np.ndarray

  def __len__(self) -> int:
    return len(self.titles)


def _choose(rng: np.random.Generator, shares: tuple[float, ...]) -> int:
  cumulative = np.cumsum(shares)
  drawn = np.searchsorted(cumulative, rng.random() * cumulative[-1], "right")
  return int(min(drawn, len(shares) - 1))


def _permutation(rng: np.random.Generator, count: int) -> np.ndarray:
  return np.argsort(rng.random(count), kind="stable")


def _name_pools(rng: np.random.Generator) -> tuple[list[str], list[str]]:
  """Returns invented words and two-word names, shuffled."""
  words = [a + b + c for a in _FIRST for b in _MIDDLE for c in _LAST]
  pairs = [f"{a} {b}" for a in _ADJECTIVES for b in _NOUNS]
  return (
    [words[n] for n in _permutation(rng, len(words))],
    [pairs[n] for n in _permutation(rng, len(pairs))],
  )


class _Names:
  """Hands out the first words of franchises, never the same twice."""

  def __init__(self, rng: np.random.Generator):
    self._rng = rng
    self._words, self._pairs = _name_pools(rng)
    self._used = 0
    self._used_pairs = 0

  def draw(self) -> str:
    """Returns an unused name: one invented word, or two plain words."""
    if self._rng.random() < 0.3 and self._used_pairs < len(self._pairs):
      self._used_pairs += 1
      return self._pairs[self._used_pairs - 1]
    number, count = self._used, len(self._words)
    self._used += 1
    if number < count:
      return self._words[number]
    # A large world runs out of single words: pairs of different ones follow.
    step, offset = divmod(number - count, count)
    other = self._words[(offset + step + 1) % count]
    return f"{self._words[offset]} {other}"


def _part_labels(rng: np.random.Generator, parts: int, genre: int) -> list[str]:
  """Returns what follows the franchise's name in each of its parts."""
  if tuple(GENRES)[genre] == "sports":
    first = 2001 + int(rng.random() * 4)
    return [f" {first + n}" for n in range(parts)]
  style = _STYLES[_choose(rng, _STYLE_SHARES)]
  if style == "arabic":
    return ["", *(f" {n + 1}" for n in range(1, parts))]
  adjectives = _permutation(rng, len(_ADJECTIVES))
  nouns = _permutation(rng, len(_NOUNS))
  labels = []
  for n in range(parts):
    numeral = f" {_ROMAN[n]}" if _ROMAN[n] and style != "subtitle" else ""
    subtitle = f": {_ADJECTIVES[adjectives[n]]} {_NOUNS[nouns[n]]}"
    # The first part of a numbered series has no subtitle: it was not yet one.
    plain = style == "roman" or (style == "roman+subtitle" and n == 0)
    labels.append(numeral if plain else numeral + subtitle)
  return labels


@dataclasses.dataclass(frozen=True)
class _Item:
  title: str
  franchise: int
  part: int
  platform: int
  genre: int
  appeal: float


def _franchise_items(
  rng: np.random.Generator, number: int, names: _Names
) -> list[_Item]:
  """Returns all items of one franchise, part by part."""
  genre = int(rng.random() * len(GENRES))
  nouns = GENRES[tuple(GENRES)[genre]]
  name = f"{names.draw()} {nouns[int(rng.random() * len(nouns))]}"
  parts = _choose(rng, _PART_SHARES) + 1
  labels = _part_labels(rng, parts, genre)
  count = _choose(rng, _PLATFORM_SHARES) + 1
  platforms = _permutation(rng, len(PLATFORMS))[:count]
  items = []
  for part, label in enumerate(labels):
    for place, platform in enumerate(platforms):
      if place and rng.random() < 0.1:  # A port that was never made.
        continue
      suffix = f" - {PLATFORMS[platform]}"
      fields = {
        "franchise": number,
        "part": part,
        "platform": int(platform),
        "genre": genre,
      }
      appeal = 0.6 if place else 1.0
      items.append(_Item(f"{name}{label}{suffix}", **fields, appeal=appeal))
      if rng.random() < 0.08:
        edition = _EDITIONS[int(rng.random() * len(_EDITIONS))]
        items.append(
          _Item(
            f"{name}{label} {edition}{suffix}",
            **fields,
            appeal=0.35 * appeal,
          )
        )
  return items


def _with_duplicates(
  rng: np.random.Generator, items: list[_Item], count: int
) -> list[_Item]:
  """Appends `count` second listings; each takes a third of its original."""
  items = list(items)
  for row in _permutation(rng, len(items))[:count]:
    item = items[row]
    items[row] = dataclasses.replace(item, appeal=item.appeal * 2 / 3)
    items.append(dataclasses.replace(item, appeal=item.appeal / 3))
  return items


def external_id(number: int) -> str:
  """Returns the ASIN-like id of a number: "B0" and eight of 0-9A-Z.

  Different numbers below 36^8 get different ids: the map is affine with a
  multiplier that has no factor in common with 36.
  """
  code = (number * 1_743_392_200_877 + 934_772_083_517) % _ASIN_SPACE
  digits = []
  for _ in range(8):
    code, digit = divmod(code, 36)
    digits.append("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"[digit])
  return "B0" + "".join(reversed(digits))


def _communities(rng: np.random.Generator, franchises: int) -> np.ndarray:
  """Deals franchises to communities of about eight at random, [F] int32."""
  count = max(2, round(franchises / 8))
  community = np.empty(franchises, np.int32)
  community[_permutation(rng, franchises)] = np.arange(franchises) % count
  return community


def build_shelf(num_items: int, seed: int) -> Shelf:
  """Builds a catalogue of exactly `num_items` rows.

  Args:
    num_items: rows wanted, duplicates included.
    seed: names the world; the same seed gives the same bytes anywhere.

  Raises:
    UserError: fewer than MIN_ITEMS rows are asked for.
  """
  if num_items < MIN_ITEMS:
    raise errors.UserError(
      f"config.data.synthetic.num_items: {num_items} found, at least"
      f" {MIN_ITEMS} expected"
    )
  rng = np.random.default_rng([seed, 1])
  names = _Names(rng)
  duplicates = max(1, round(_DUPLICATE_SHARE * num_items))
  items: list[_Item] = []
  franchises = 0
  while len(items) < num_items - duplicates:
    items += _franchise_items(rng, franchises, names)
    franchises += 1
  items = _with_duplicates(rng, items[: num_items - duplicates], duplicates)
  # Row numbers must not tell anything, or ties would be broken by the truth.
  items = [items[n] for n in _permutation(rng, num_items)]
  return _shelf(rng, items, franchises)


def _shelf(
  rng: np.random.Generator, items: list[_Item], franchises: int
) -> Shelf:
  def column(name: str, dtype: type) -> np.ndarray:
    return np.array([getattr(item, name) for item in items], dtype)

  rank = _permutation(rng, franchises)
  zipf = (1.0 + rank) ** -_POPULARITY_EXPONENT  # [F]
  community = _communities(rng, franchises)  # [F]
  franchise = column("franchise", np.int32)
  first_row: dict[str, int] = {}
  group = [first_row.setdefault(item.title, n) for n, item in enumerate(items)]
  return Shelf(
    titles=tuple(item.title for item in items),
    external_ids=tuple(external_id(n) for n in range(len(items))),
    franchise=franchise,
    part=column("part", np.int32),
    platform=column("platform", np.int32),
    genre=column("genre", np.int32),
    community=community[franchise],
    group=np.array(group, np.int32),
    appeal=column("appeal", np.float64) * zipf[franchise],
  )
