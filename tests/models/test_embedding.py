"""Title embeddings: the same in any batch, order, padding; checked storage."""

import jax
import numpy as np
import pytest

from bigrec_jax import errors, progress
from bigrec_jax.data.prepared import catalogue as catalogue_lib
from bigrec_jax.models import embedding, last_state
from bigrec_jax.rankers.distance import stored_embeddings
from tests.models import common

CONFIG = common.KINDS["llama3"]


def _texts(count=23, seed=0):
  rng = np.random.default_rng(seed)
  lengths = rng.integers(1, 17, size=count)
  return [rng.integers(0, common.VOCAB, size=n).tolist() for n in lengths]


def _embed(texts, batch_size, on=None):
  return last_state.embed_texts(
    common.build(CONFIG, on=on),
    common.noisy_params(CONFIG, on),
    texts,
    batch_size,
    on or common.mesh(),
    progress.NullProgress(),
  )


def test_batch_order_padding_and_mesh_change_nothing():
  texts = _texts()
  whole = _embed(texts, 4)
  assert whole.shape == (23, CONFIG.hidden_size)
  order = np.random.default_rng(1).permutation(23)
  again = _embed([texts[n] for n in order], 8, common.mesh(4, 2, 1))
  np.testing.assert_allclose(again, whole[order], atol=1e-5)


def test_it_is_the_last_state_of_each_text_alone():
  texts = _texts(2)
  model, params = common.build(CONFIG), common.noisy_params(CONFIG)
  found = _embed(texts, 4)
  for text, vector in zip(texts, found, strict=True):
    tokens = np.array([text], np.int32)
    positions = np.arange(len(text), dtype=np.int32)[None]
    hidden = model.apply(
      {"params": params}, tokens, positions, np.ones_like(tokens), True
    )
    np.testing.assert_allclose(vector, hidden[0, -1], atol=1e-5)


def test_an_empty_text_is_the_zero_vector():
  found = _embed([[3, 4], [], [5]], 4)
  assert (found[1] == 0).all() and np.abs(found[[0, 2]]).max() > 0.1


def test_states_that_are_not_finite_are_refused():
  params = common.noisy_params(CONFIG)
  spoilt = jax.tree.map(lambda leaf: leaf * np.float32(np.nan), params)
  with pytest.raises(errors.UserError, match="embedding: text 0: states"):
    last_state.embed_texts(
      common.build(CONFIG),
      spoilt,
      [[3], [4]],
      4,
      common.mesh(),
      progress.NullProgress(),
    )


def test_batch_must_divide_over_the_mesh():
  with pytest.raises(errors.UserError, match="embed.batch_size: 3"):
    _embed([[3]], 3, common.mesh(2, 1, 1))


def test_buckets_waste_little():
  for length in range(33, 3000):
    assert length <= embedding.length_bucket(length) < 1.5 * length
  assert [embedding.length_bucket(n) for n in (0, 1, 8, 9, 32, 33)] == [
    *(8, 8, 8, 16, 32, 48)
  ]


def test_batches_hold_every_row_once():
  lengths = [5, 40, 3, 12, 0, 90, 41, 7]
  seen = []
  for width, numbers, rows in embedding.batches(lengths, 2, 1):
    assert len(numbers) <= 2 == rows
    assert {embedding.length_bucket(lengths[n]) for n in numbers} == {width}
    seen.extend(numbers.tolist())
  assert sorted(seen) == list(range(8))
  assert list(embedding.batches([], 2, 1)) == []


@pytest.mark.parametrize("unit", [1, 4])
def test_lone_long_texts_get_small_batches(unit):
  """A dirty title cost batch_size rows of 4,096 tokens, one of them real."""
  usual = [12] * 90 + [100] * 5
  shapes = lambda lengths: [  # noqa: E731
    (width, len(numbers), rows)
    for width, numbers, rows in embedding.batches(lengths, 64, unit)
  ]
  few = shapes(usual)
  assert few == [(16, 64, 64), (16, 26, 64), (128, 5, 64)]
  assert shapes([*usual, 4012]) == [*few, (4096, 1, unit)]
  # Eight long ones fill small batches of one shape.
  many = shapes([*usual, *[900] * 8])[3:]
  assert {(width, rows) for width, _, rows in many} == {(1024, max(8, unit))}
  # Where most are long, that is what the batch size was chosen for.
  assert {rows for *_, rows in shapes([900] * 100)} == {64}
  # More rows than texts are padding alone.
  assert [b.rows for b in embedding.batches(usual, 1 << 20, unit)] == [1024] * 2


def _catalogue(titles):
  return catalogue_lib.Catalogue(
    tuple(f"id{n}" for n in range(len(titles))),
    tuple(titles),
    np.zeros(len(titles), np.int64),
  )


TITLES = ["Zelda", "Mario", "Pong", "Doom", "Myst"]


@pytest.fixture
def stored(tmp_path, monkeypatch):
  # Two rows of three float32 per shard.
  monkeypatch.setattr(stored_embeddings, "_SHARD_BYTES", 24)
  vectors = np.arange(15, dtype=np.float32).reshape(5, 3)
  stored_embeddings.save(tmp_path, vectors, _catalogue(TITLES), "base1")
  return tmp_path, vectors


def test_storage_round_trip_in_shards(stored):
  folder, vectors = stored
  assert len(list(folder.glob("items-*.npy"))) == 3
  found = stored_embeddings.load(folder, _catalogue(TITLES), "base1")
  np.testing.assert_array_equal(found, vectors)


def test_saving_anew_leaves_no_old_shards(stored, monkeypatch):
  folder, vectors = stored
  monkeypatch.setattr(stored_embeddings, "_SHARD_BYTES", 1 << 20)
  stored_embeddings.save(folder, vectors + 1, _catalogue(TITLES), "base1")
  assert len(list(folder.glob("items-*.npy"))) == 1
  found = stored_embeddings.load(folder, _catalogue(TITLES), "base1")
  np.testing.assert_array_equal(found, vectors + 1)


def test_another_encoder_is_refused(stored):
  with pytest.raises(errors.UserError, match="encoder base1, base2 expected"):
    stored_embeddings.load(stored[0], _catalogue(TITLES), "base2")


def test_other_titles_are_refused_by_row(stored):
  titles = [*TITLES[:3], "Quake", "Rayman"]
  with pytest.raises(
    errors.UserError, match="2 rows, the first is row 3.*Quake"
  ):
    stored_embeddings.load(stored[0], _catalogue(titles), "base1")


def test_another_number_of_titles_is_refused(stored):
  with pytest.raises(errors.UserError, match="5 rows found, 4"):
    stored_embeddings.load(stored[0], _catalogue(TITLES[:4]), "base1")


def test_a_shard_cut_short_is_refused(stored):
  shard = sorted(stored[0].glob("items-*.npy"))[1]
  shard.write_bytes(shard.read_bytes()[:-3])
  with pytest.raises(
    errors.UserError, match=f"{shard.name}: .* bytes expected"
  ):
    stored_embeddings.load(stored[0], _catalogue(TITLES), "base1")


def test_a_kill_while_saving_leaves_nothing_to_load(stored, monkeypatch):
  folder, vectors = stored

  def killed(*args, **kwargs):
    raise KeyboardInterrupt

  monkeypatch.setattr(np, "save", killed)
  with pytest.raises(KeyboardInterrupt):
    stored_embeddings.save(folder, vectors, _catalogue(TITLES), "base1")
  with pytest.raises(errors.UserError, match="embeddings.json: not found"):
    stored_embeddings.load(folder, _catalogue(TITLES), "base1")
