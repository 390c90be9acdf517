"""Slots whose number changes around those who have one."""

import random

import pytest

from bigrec_jax.decoding import seats


@pytest.mark.parametrize(
  ("slots", "shards", "counts"),
  [
    (16, 1, (1, 4, 16)),
    (1, 1, (1,)),
    (2, 1, (1, 2)),
    (12, 1, (1, 3, 12)),
    (16, 4, (4, 16)),
    (8, 8, (8,)),
  ],
)
def test_there_are_few_numbers_of_slots(slots, shards, counts):
  assert seats.counts_of(slots, shards) == counts


@pytest.mark.parametrize(("slots", "shards"), [(16, 1), (16, 2), (24, 4)])
def test_everybody_stays_in_the_shard(slots, shards):
  """Whatever comes and goes, a place is told of everybody, and no other."""
  own, draw, number = seats.Seats(slots, shards), random.Random(5), 0
  for _ in range(300):
    for n in range(own.count):
      if draw.random() < 0.3:
        own.names[n] = None
    more = draw.randrange(slots - own.busy + 1)
    before, names = own.per_shard, list(own.names)
    shard_of = {
      name: n // before for n, name in enumerate(names) if name is not None
    }
    count = own.needed(more)
    smaller = [c for c in own.counts if c < count]
    # The next smaller number has no room for them all, or not in a shard.
    assert (
      not smaller
      or smaller[-1] < own.busy + more
      or any(
        list(shard_of.values()).count(s) > smaller[-1] // shards
        for s in range(shards)
      )
    )
    places = own.move(count)
    assert len(places) == own.count == count
    for n, (place, name) in enumerate(zip(places, own.names, strict=True)):
      shard = n // own.per_shard
      assert (place == slots) == (name is None)
      if name is not None:
        assert names[shard * before + place] == name
        assert shard_of.pop(name) == shard
    assert not shard_of
    waiting = [f"user {number + n}" for n in range(more)]
    number += more
    while waiting:
      for user, slot in list(own.offer(waiting, shards)):
        if user is None:
          assert slot == slots
        else:
          assert own.names[slot] is None
          own.names[slot] = user
          waiting.remove(user)


def test_there_is_no_room_for_more_than_all():
  own = seats.Seats(4, 1)
  own.names[:] = "abcd"
  assert own.needed(0) == 4
  with pytest.raises(ValueError, match="5 slots needed, 4 are there"):
    own.needed(1)
