"""What else prepare keeps: ids and items of users, columns of items."""

import json

import numpy as np
import pytest

from bigrec_jax import errors
from bigrec_jax.data.formats import interactions
from bigrec_jax.data.prepared import attributes, splits, users


def test_users_come_back_with_their_items_in_the_order_of_time(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(users, "_MOST", 3)
  log = interactions.Interactions(
    np.array([1, 0, 1, 1, 1]),
    np.array([4, 2, 3, 1, 0], np.int32),
    np.array([9, 5, 1, 2, 3]),
    {str(n): f"t{n}" for n in range(5)},
  )
  path = tmp_path / "users.jsonl"
  users.write(path, ["Ann", "Bö\n"], splits.timeline(log))
  # Of the second user the newest three.
  expected = [("Ann", [2]), ("Bö\n", [1, 0, 4])]
  assert list(users.read(path, 5)) == expected
  with pytest.raises(errors.UserError, match="line 2: other values found"):
    list(users.read(path, 4))
  path.unlink()
  with pytest.raises(errors.UserError, match="keeps no ids of users"):
    list(users.read(path, 5))


def test_attributes_are_read_line_by_line(tmp_path):
  path = tmp_path / "attributes.jsonl"
  own = [{"year": 1999}, {}, {"genre": "Dräma", "tags": ["a", "b"]}]
  attributes.write(path, [json.dumps(row, ensure_ascii=False) for row in own])
  found = attributes.Attributes(path)
  assert found.of([2, 0, 2]) == [own[2], own[0], own[2]]
  assert found.of([]) == []
  with pytest.raises(errors.UserError, match="line 4: .* item 3 expected"):
    found.of([3])
  assert attributes.Attributes(tmp_path / "none").of([7, 8]) == [{}, {}]
