"""Best-fit packing and the layout of micro-batches."""

import numpy as np
import pytest

from bigrec_jax.data.text import encoding, packing


def _example(tokens, first_label=1):
  return encoding.Encoded(np.array(tokens, np.int32), first_label, False)


def test_best_fit_takes_the_fullest_row_that_holds_the_item():
  # 7 and 6 open rows with 3 and 4 left. 4 fits only the second, exactly; 3
  # fills the first; then 2 and 1 share a third.
  assert packing.best_fit([4, 7, 2, 6, 3, 1], 10) == [[1, 4], [3, 0], [2, 5]]


def test_best_fit_keeps_the_order_of_equal_lengths():
  assert packing.best_fit([5, 5, 5], 10) == [[0, 1], [2]]
  assert packing.best_fit([], 10) == []


def test_best_fit_refuses_what_no_row_holds():
  with pytest.raises(ValueError, match="exceeds capacity=10"):
    packing.best_fit([3, 11], 10)


@pytest.mark.parametrize("seed", range(5))
def test_best_fit_places_every_item_once_and_wastes_little(seed):
  lengths = np.random.default_rng(seed).integers(1, 101, 211).tolist()
  rows = packing.best_fit(lengths, 100)
  assert sorted(i for row in rows for i in row) == list(range(211))
  sums = [sum(lengths[i] for i in row) for row in rows]
  assert max(sums) <= 100
  # Johnson 1974: best-fit decreasing needs at most 11/9 of the optimum + 4.
  assert len(rows) <= 11 / 9 * np.ceil(sum(lengths) / 100) + 4
  # No two rows could share one: the item that opened the later one would
  # have been put into the earlier.
  assert sorted(sums)[0] + sorted(sums)[1] > 100


def test_fill_lays_out_segments_positions_and_labels():
  rows = [[_example([5, 6, 7]), _example([8, 9, 3, 2], 2)], [_example([4, 4])]]
  batch = packing.fill(rows, 3, 8, pad_id=11)
  assert {v.dtype for v in batch.values()} == {np.dtype(np.int32)}
  np.testing.assert_array_equal(
    batch["tokens"],
    [[5, 6, 7, 8, 9, 3, 2, 11], [4, 4] + [11] * 6, [11] * 8],
  )
  np.testing.assert_array_equal(
    batch["positions"],
    [[0, 1, 2, 0, 1, 2, 3, 0], [0, 1] + [0] * 6, [0] * 8],
  )
  np.testing.assert_array_equal(
    batch["segment_ids"],
    [[1, 1, 1, 2, 2, 2, 2, 0], [1, 1] + [0] * 6, [0] * 8],
  )
  np.testing.assert_array_equal(
    batch["loss_mask"],
    [[0, 1, 1, 0, 0, 1, 1, 0], [0, 1] + [0] * 6, [0] * 8],
  )


def test_an_example_without_labels_has_no_loss():
  batch = packing.fill([[_example([5, 6, 7], first_label=9)]], 1, 4, 0)
  assert batch["loss_mask"].sum() == 0
  assert batch["segment_ids"].sum() == 3


def test_packed_and_bucketed_hold_the_same_tokens():
  rng = np.random.default_rng(3)
  examples = [_example(rng.integers(1, 97, n)) for n in rng.integers(2, 24, 29)]
  packed = packing.packed(examples, 4, 23, pad_id=0)
  bucketed = packing.bucketed(examples, 4, 23, (7, 11, 64), pad_id=0)

  def contents(batches):
    found = []
    for batch in batches:
      for tokens, segments, mask in zip(
        batch["tokens"],
        batch["segment_ids"],
        batch["loss_mask"],
        strict=True,
      ):
        for segment in range(1, segments.max() + 1):
          at = segments == segment
          assert mask[at].tolist() == [0] + [1] * (at.sum() - 1)
          found.append(tokens[at].tolist())
    return sorted(found)

  expected = sorted(e.tokens.tolist() for e in examples)
  assert contents(packed) == expected
  assert contents(bucketed) == expected
  assert {b["tokens"].shape for b in packed} == {(4, 23)}
  shapes = [b["tokens"].shape for b in bucketed]
  assert len(shapes) == 8  # ceil(29 / 4)
  assert set(shapes) <= {(4, 7), (4, 11), (4, 23)}
  assert shapes == sorted(shapes, reverse=True)  # Empty rows are short ones.
  assert len(packed) < len(bucketed)


def test_bucket_lengths_end_with_max_length():
  assert packing.bucket_lengths((256, 64, 128), 200) == [64, 128, 200]
  assert packing.bucket_lengths((), 512) == [512]
  assert packing.bucket_lengths((512,), 512) == [512]


def test_shards_are_the_rows_in_process_order():
  batch = packing.fill([[_example([n, n])] for n in range(1, 7)], 6, 2, 0)
  parts = [packing.shard_rows(batch, i, 3) for i in range(3)]
  joined = np.concatenate([part["tokens"] for part in parts])
  np.testing.assert_array_equal(joined, batch["tokens"])
  assert {part["tokens"].shape for part in parts} == {(2, 2)}
  with pytest.raises(ValueError, match="do not divide"):
    packing.shard_rows(batch, 0, 4)
