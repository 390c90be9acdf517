"""A made-up video-game store whose next-purchase probabilities are known.

Each purchase is drawn from a mixture of habits (`HABITS`), given the user's
last purchases and, for one habit, the user's hidden taste; titles among the
last `MEMORY` purchases are never drawn. `World.next_item_probabilities` is that
very distribution, so the ranking it gives is the best that exists: an upper
bound for every recommender, since a recommender does not see the taste. The
same with the mean taste of all users is reachable in principle. Nothing
changes over time: a split by time is as good as any. docs/demo_world.md has
the description and the figures.
"""

import dataclasses

import numpy as np

from bigrec_jax import errors
from bigrec_jax.config import SyntheticConfig
from bigrec_jax.data.formats import synthetic_titles, weighted_lists

MEMORY = 10  # Purchases that the next one depends on.
# How much each habit weighs. A habit that has nothing to offer (the last game
# has no sequel, there is no last game) is left out and the others scaled up.
HABITS = {
  "sequel": 0.50,  # The part after the last game's.
  "resume": 0.08,  # The part after that of the game before the last one.
  "franchise": 0.05,  # Any other part of the last game's franchise.
  "community": 0.22,  # Hidden circle of franchises; titles do not show it.
  "taste": 0.08,  # The user's genres and platforms.
  "popular": 0.05,  # Anything, by popularity.
  "random": 0.02,  # Anything at all.
}
_FEWEST, _MOST = 6, 20  # Purchases of a user.
_FIRST_DAY = 1_325_376_000  # 2012-01-01 00:00:00 UTC, in seconds.
_DAY = 86_400
_START_DAYS = 900  # Users join during this time.
_MEAN_GAP_DAYS = 20.0
# Weights of a user's favourite genres and platforms, best first.
_GENRE_TASTE = (0.50, 0.25, 0.10, 0.05, 0.04, 0.03, 0.02, 0.01)
_PLATFORM_TASTE = (0.70, 0.15, 0.08, 0.04, 0.03)
_LATER_PART = 0.15  # Appeal of part 2, 3, ... to who does not follow a series.


def _sequel_lists(shelf: synthetic_titles.Shelf) -> weighted_lists.Lists:
  """Returns for each item what may follow it in its series, R = I.

  The next part on the same platform is the rule; other platforms, special
  editions and the part after the next are the exceptions.
  """
  before, after, weights = _franchise_pairs(shelf)
  step = shelf.part[after] - shelf.part[before]
  keep = (step == 1) | (step == 2)
  before, after, weights = before[keep], after[keep], weights[keep]
  weights = weights * np.where(step[keep] == 1, 1.0, 0.05)
  weights *= np.where(shelf.platform[before] == shelf.platform[after], 1, 0.05)
  return weighted_lists.Lists.build(len(shelf), before, after, weights)


def _franchise_pairs(
  shelf: synthetic_titles.Shelf,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns all ordered pairs within a franchise, and the second's share.

  The share is the appeal relative to the best of the franchise: 1 for the
  plain edition on the main platform.
  """
  order = np.argsort(shelf.franchise, kind="stable")
  sizes = np.bincount(shelf.franchise)
  repeats = sizes[shelf.franchise[order]]  # [I] partners of each item.
  before = np.repeat(order, repeats)
  starts = (np.cumsum(sizes) - sizes)[shelf.franchise[before]]
  offset = np.arange(len(before)) - np.repeat(
    np.cumsum(repeats) - repeats, repeats
  )
  after = order[starts + offset]
  keep = shelf.group[before] != shelf.group[after]
  before, after = before[keep], after[keep]
  best = np.zeros(len(sizes))
  np.maximum.at(best, shelf.franchise, shelf.appeal)
  return before, after, shelf.appeal[after] / best[shelf.franchise[after]]


def _community_lists(
  shelf: synthetic_titles.Shelf, entry: np.ndarray
) -> weighted_lists.Lists:
  """Returns what a community offers to the owners of a platform.

  List number: community * platforms + platform. Games for other platforms are
  in the list too, at a discount.
  """
  platforms = len(synthetic_titles.PLATFORMS)
  rows, items, weights = [], [], []
  for platform in range(platforms):
    rows.append(shelf.community.astype(np.int64) * platforms + platform)
    items.append(np.arange(len(shelf)))
    weights.append(entry * np.where(shelf.platform == platform, 1.0, 0.05))
  return weighted_lists.Lists.build(
    (int(shelf.community.max()) + 1) * platforms,
    np.concatenate(rows),
    np.concatenate(items),
    np.concatenate(weights),
  )


def _tastes(num_users: int, seed: int, filled: np.ndarray) -> np.ndarray:
  """Returns the users' weights of (genre, platform), float64 [U, G * P].

  A user has a favourite order of genres and one of platforms. Combinations
  that the catalogue lacks (not `filled` [G * P]) get nothing.
  """
  rng = np.random.default_rng([seed, 2])
  genres, platforms = len(_GENRE_TASTE), len(_PLATFORM_TASTE)

  def weights(ladder: tuple[float, ...]) -> np.ndarray:
    order = np.argsort(rng.random((num_users, len(ladder))), axis=1)
    return np.array(ladder)[np.argsort(order, axis=1)]

  by_genre = weights(_GENRE_TASTE)[:, :, None]
  by_platform = weights(_PLATFORM_TASTE)[:, None, :]
  taste = (by_genre * by_platform).reshape(num_users, genres * platforms)
  taste = taste * filled
  return taste / taste.sum(axis=1, keepdims=True)


@dataclasses.dataclass(frozen=True, eq=False)
class World:
  """A catalogue, its buyers and the law they buy by.

  Attributes:
    shelf: the catalogue; row numbers are those of all arrays here.
    tastes: float64 [U, genres * platforms], hidden from any recommender.
    interactions: (user [n] int64, item [n] int32, timestamp [n] int64 seconds),
      sorted by user, then time.
  """

  shelf: synthetic_titles.Shelf
  tastes: np.ndarray
  interactions: tuple[np.ndarray, np.ndarray, np.ndarray]
  lists: dict[str, weighted_lists.Lists]

  @property
  def titles(self) -> tuple[str, ...]:
    """Titles by catalogue row; some are equal."""
    return self.shelf.titles

  @property
  def external_ids(self) -> tuple[str, ...]:
    """Unique ids by catalogue row."""
    return self.shelf.external_ids

  def next_item_probabilities(
    self, histories: np.ndarray, users: np.ndarray | None
  ) -> np.ndarray:
    """Returns the exact p(next item | history, taste), float32 [N, I].

    Args:
      histories: int [N, H] catalogue rows, oldest first, padded at the right
        with -1. Only the last MEMORY matter; exact if those are all there.
      users: int [N], whose taste it is; None is the mean taste of all users,
        for a recommender that knows the law and not the user.
    """
    if users is None:
      taste = np.broadcast_to(
        self.tastes.mean(axis=0), (len(histories), self.tastes.shape[1])
      )
    else:
      taste = self.tastes[users]  # [N, G * P]
    recent = _right_aligned(histories)  # [N, MEMORY]
    rows = _list_numbers(self.shelf, recent)
    weights = _habit_weights(self.lists, rows)
    out = np.zeros((len(recent), len(self.shelf)))
    for column, habit in enumerate(HABITS):
      if habit != "taste":
        self.lists[habit].add_to(out, rows[habit], weights[:, column])
    shelves = self.lists["taste"]
    column = list(HABITS).index("taste")
    share = np.zeros(len(self.shelf))
    share[shelves.items] = shelves.probability
    shelf_of = taste_shelf(self.shelf)
    out += weights[:, column, None] * taste[:, shelf_of] * share
    out[_owned(self.shelf, recent)] = 0.0
    return (out / out.sum(axis=1, keepdims=True)).astype(np.float32)


def _right_aligned(histories: np.ndarray) -> np.ndarray:
  """Returns the last MEMORY items at the right, -1 before them."""
  histories = np.asarray(histories)
  count = (histories >= 0).sum(axis=1)  # [N]
  column = count[:, None] - MEMORY + np.arange(MEMORY)  # [N, MEMORY]
  if not histories.shape[1]:
    return np.full(column.shape, -1)
  taken = np.take_along_axis(histories, np.maximum(column, 0), axis=1)
  return np.where(column >= 0, taken, -1)


def taste_shelf(shelf: synthetic_titles.Shelf) -> np.ndarray:
  """Returns the (genre, platform) number of each item, int64 [I]."""
  return shelf.genre.astype(np.int64) * len(synthetic_titles.PLATFORMS) + (
    shelf.platform
  )


def _list_numbers(
  shelf: synthetic_titles.Shelf, recent: np.ndarray
) -> dict[str, np.ndarray]:
  """Returns the list that each habit reads, int64 [N]; -1 = none."""
  last, previous = recent[:, -1], recent[:, -2]
  community = shelf.community[last].astype(np.int64)
  community = community * len(synthetic_titles.PLATFORMS) + shelf.platform[last]
  everything = np.zeros(len(recent), np.int64)
  return {
    "sequel": last,
    "resume": previous,
    "franchise": last,
    "community": np.where(last >= 0, community, -1),
    "popular": everything,
    "random": everything,
  }


def _habit_weights(
  lists: dict[str, weighted_lists.Lists], rows: dict[str, np.ndarray]
) -> np.ndarray:
  """Returns the habits' weights in the mixture, float64 [N, habits]."""
  number = len(rows["popular"])
  weights = np.tile(np.array(list(HABITS.values())), (number, 1))
  for column, habit in enumerate(HABITS):
    if habit != "taste":
      can = (rows[habit] >= 0) & lists[habit].filled()[rows[habit]]
      weights[:, column] *= can
  return weights / weights.sum(axis=1, keepdims=True)


def _owned(shelf: synthetic_titles.Shelf, recent: np.ndarray) -> np.ndarray:
  """Returns which items have a title among the recent ones, bool [N, I]."""
  by_group = np.zeros((len(recent), len(shelf) + 1), np.bool_)
  groups = np.where(recent >= 0, shelf.group[recent], len(shelf))
  np.put_along_axis(by_group, groups, True, axis=1)
  return by_group[:, shelf.group]


def _pick(cumulative: np.ndarray, uniform: np.ndarray) -> np.ndarray:
  """Returns in which step of each ladder [n, m] a uniform number [n] falls."""
  total = cumulative[:, -1:]
  place = (cumulative <= uniform[:, None] * total).sum(axis=1)
  # Rounding may carry the product up to the total itself.
  return np.minimum(place, (cumulative < total).sum(axis=1))


def _draw_next(
  world: World,
  recent: np.ndarray,
  users: np.ndarray,
  rng: np.random.Generator,
) -> np.ndarray:
  """Draws the next purchase of each user, int32 [N].

  Draws from the mixture and draws again while the title is owned: that is the
  mixture with the owned titles left out, exactly.
  """
  shelf, lists = world.shelf, world.lists
  rows = _list_numbers(shelf, recent)
  thresholds = _habit_weights(lists, rows).cumsum(axis=1)  # [N, habits]
  owned = np.where(recent >= 0, shelf.group[recent], -1)  # [N, MEMORY]
  taste = world.tastes.cumsum(axis=1)  # [U, G * P]
  result = np.empty(len(recent), np.int32)
  pending = np.arange(len(recent))
  while len(pending):
    uniform = rng.random((3, len(pending)))
    habit = _pick(thresholds[pending], uniform[0])
    drawn = np.empty(len(pending), np.int32)
    for column, name in enumerate(HABITS):
      (chosen,) = np.nonzero(habit == column)
      if name == "taste":
        row = _pick(taste[users[pending[chosen]]], uniform[2, chosen])
      else:
        row = rows[name][pending[chosen]]
      drawn[chosen] = lists[name].draw(row, uniform[1, chosen])
    result[pending] = drawn
    again = (shelf.group[drawn][:, None] == owned[pending]).any(axis=1)
    pending = pending[again]
  return result


def _lists(shelf: synthetic_titles.Shelf) -> dict[str, weighted_lists.Lists]:
  everything = np.arange(len(shelf))
  zeros = np.zeros(len(shelf), np.int64)
  # Where a newcomer to a series starts: mostly with its first part.
  entry = shelf.appeal * np.where(shelf.part == 0, 1.0, _LATER_PART)
  shelves = len(synthetic_titles.GENRES) * len(synthetic_titles.PLATFORMS)
  before, after, weights = _franchise_pairs(shelf)
  weights = weights * np.where(
    shelf.platform[before] == shelf.platform[after], 1.0, 0.1
  )
  sequels = _sequel_lists(shelf)
  return {
    "sequel": sequels,
    "resume": sequels,
    "franchise": weighted_lists.Lists.build(len(shelf), before, after, weights),
    "community": _community_lists(shelf, entry),
    "taste": weighted_lists.Lists.build(
      shelves, taste_shelf(shelf), everything, entry
    ),
    "popular": weighted_lists.Lists.build(1, zeros, everything, entry),
    "random": weighted_lists.Lists.build(
      1, zeros, everything, np.ones(len(shelf))
    ),
  }


def _simulate(
  world: World, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Lets all users buy, one purchase of everybody at a time."""
  rng = np.random.default_rng([seed, 3])
  number = len(world.tastes)
  counts = _FEWEST + np.floor(
    rng.random(number) ** 1.5 * (_MOST - _FEWEST + 1)
  ).astype(np.int64)
  bought = np.full((number, _MOST), -1, np.int32)
  recent = np.full((number, MEMORY), -1, np.int64)
  for step in range(_MOST):
    (users,) = np.nonzero(counts > step)
    drawn = _draw_next(world, recent[users], users, rng)
    bought[users, step] = drawn
    recent[users] = np.column_stack([recent[users, 1:], drawn])
  start = rng.random(number) * _START_DAYS * _DAY
  gaps = -np.log1p(-rng.random((number, _MOST))) * _MEAN_GAP_DAYS * _DAY
  # A minute at least between two purchases, so that time orders them.
  seconds = _FIRST_DAY + np.cumsum(60 + np.floor(gaps), axis=1)
  seconds = (seconds + np.floor(start)[:, None]).astype(np.int64)
  user, place = np.nonzero(bought >= 0)
  return user.astype(np.int64), bought[user, place], seconds[user, place]


def build(config: SyntheticConfig) -> World:
  """Builds the world that the configuration names; same seed, same bytes.

  Raises:
    UserError: no user, or too few items.
  """
  if config.num_users < 1:
    raise errors.UserError(
      f"config.data.synthetic.num_users: {config.num_users} found, at least 1"
      " expected"
    )
  shelf = synthetic_titles.build_shelf(config.num_items, config.seed)
  lists = _lists(shelf)
  tastes = _tastes(config.num_users, config.seed, lists["taste"].filled())
  none = np.empty(0, np.int64)
  world = World(shelf, tastes, (none, none.astype(np.int32), none), lists)
  return dataclasses.replace(world, interactions=_simulate(world, config.seed))
