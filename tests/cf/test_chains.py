import jax
import numpy as np

from bigrec_jax.cf import chains as packing


def test_every_input_is_packed_once_a_row_holds_whole_sequences():
  rng = np.random.default_rng(0)
  width, batch = 11, 8
  length = rng.integers(1, width + 1, 29).astype(np.int32)
  source, needed = packing.packed(
    np.uint32(3), length, batch_size=batch, width=width
  )
  source = np.asarray(source)
  assert source.shape == (4, batch, width)
  live = source[source >= 0]
  expected = [r * width + p for r in range(29) for p in range(length[r])]
  assert sorted(live.tolist()) == expected
  assert (source[:, int(needed) :] == -1).all()
  assert (source[:, int(needed) - 1] >= 0).any()
  for step in source:
    owners = set()
    for row in step:
      of_row = row[row >= 0] // width
      # A sequence lies in one row, in one piece, in order.
      changes = np.flatnonzero(np.diff(of_row)) + 1
      for piece in np.split(row[row >= 0], changes):
        if len(piece):
          owner = int(piece[0]) // width
          assert owner not in owners
          owners.add(owner)
          assert (piece % width == np.arange(length[owner])).all()


def test_packing_wastes_little():
  rng = np.random.default_rng(1)
  length = rng.integers(1, 20, 512).astype(np.int32)
  _, needed = packing.packed(np.uint32(0), length, batch_size=128, width=50)
  fullest = 128 * 10 * 1.1  # About what a batch holds.
  assert int(needed) * 50 < 1.15 * fullest


def test_orders_differ_by_key_and_cover_all_rows():
  order = jax.jit(packing.shuffled, static_argnums=(1, 2))
  one, two = (np.asarray(order(np.uint32(k), 21, 8)) for k in (0, 1))
  assert one.shape == (3, 8)
  assert sorted(one[one >= 0].tolist()) == list(range(21))
  assert (one.reshape(-1)[-3:] == -1).all()
  assert (one != two).any()
