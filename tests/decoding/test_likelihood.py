"""Packed scoring of answers against one text at a time, ours and others'."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from bigrec_jax import errors, progress
from bigrec_jax.decoding import likelihood, packed_answers
from bigrec_jax.models import hf_export
from bigrec_jax.workdir import parts as parts_lib
from tests.decoding import test_generate as ours

RNG = np.random.default_rng(4)
PROMPTS = ours.make_prompts(11, seed=2, header=21)
# Most fit into a row with others; one is longer than a usual row.
LENGTHS = [1, 2, 3, 5, 8, 13, 21, 30, 64, 128, 129, 140, 4, 4]
ANSWERS = [
  [*RNG.integers(3, ours.VOCAB, size=length).tolist(), ours.EOS]
  for length in LENGTHS
]
CANDIDATES = RNG.integers(-1, len(ANSWERS), (len(PROMPTS), 9)).astype(np.int32)
CANDIDATES[3] = -1


def score(setup, prompts=PROMPTS, candidates=CANDIDATES, **changes):
  return likelihood.score(
    setup.model,
    setup.params,
    setup.lora,
    prompts,
    ANSWERS,
    candidates,
    setup.mesh,
    batch_size=changes.pop("batch_size", 4),
    buckets=(16, 32),
    progress=changes.pop("progress", progress.NullProgress()),
    **changes,
  )


def slow(setup, prompts=PROMPTS, candidates=CANDIDATES):
  """One text after the other, whole, through the uncached network."""
  variables = {"params": setup.params}
  if setup.lora is not None:
    variables["lora"] = setup.lora

  @jax.jit
  def logits_of(tokens):
    positions = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
    hidden = setup.model.apply(
      variables, tokens, positions, jnp.ones_like(tokens), True
    )
    return setup.model.apply(variables, hidden, method="logits")

  return _by_text(
    prompts, candidates, lambda ids: np.asarray(logits_of(_padded(ids)))[0]
  )


def _padded(ids):
  return np.pad(np.array([ids], np.int32), [(0, 0), (0, 256 - len(ids))])


def _by_text(prompts, candidates, logits_of):
  found = np.full(candidates.shape, -np.inf, np.float32)
  for row, prompt in enumerate(prompts):
    for column, answer in enumerate(candidates[row]):
      if answer < 0:
        continue
      ids = ANSWERS[answer]
      logits = logits_of([*prompt, *ids]).astype(np.float64)
      logs = scipy.special.log_softmax(logits, axis=-1)
      at = np.arange(len(ids)) + len(prompt) - 1
      found[row, column] = logs[at, ids].sum()
  return found


@pytest.fixture(scope="module")
def setup():
  return ours.Setup()


@pytest.fixture(scope="module")
def expected(setup):
  return slow(setup)


def close(found, expected):
  np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-5)


def test_equals_one_text_at_a_time(setup, expected):
  close(score(setup), expected)


@pytest.mark.parametrize(
  ("tokens", "seen"), [(64, 1024), (130, 1024), (1024, 1024), (1024, 32)]
)
def test_how_many_tokens_a_call_has_changes_nothing(
  setup, expected, monkeypatch, tokens, seen
):
  monkeypatch.setattr(likelihood, "_TOKENS", {"cpu": tokens})
  monkeypatch.setattr(likelihood, "_SEEN", seen)  # Of long prompts.
  monkeypatch.setattr(likelihood, "_CHUNK", 48)
  close(score(setup), expected)


@pytest.mark.parametrize("shape", [(2, 2, 2), (8, 1, 1)])
def test_sharded_equals_one_device(expected, shape):
  close(score(ours.Setup(shape), batch_size=8), expected)


def test_without_an_adapter_and_without_a_shared_beginning():
  setup = ours.Setup(adapter=False)
  prompts = ours.make_prompts(5, seed=3, header=0)
  close(
    score(setup, prompts, CANDIDATES[:5]), slow(setup, prompts, CANDIDATES[:5])
  )


def test_scanned_layers_give_the_same(expected):
  setup = ours.Setup()
  setup.model = setup.model.clone(unrolled=False)
  close(score(setup), expected)


def test_nothing_is_compiled_for_other_candidates(setup):
  score(setup)
  before = likelihood._score._cache_size(), likelihood._read._cache_size()
  usual = np.array(LENGTHS) < 128
  few = np.where(usual[CANDIDATES], CANDIDATES, 0)[:, ::-1]
  score(setup, candidates=few)
  after = likelihood._score._cache_size(), likelihood._read._cache_size()
  assert after == before


def test_resumed_equals_uninterrupted(setup, tmp_path):
  whole = score(setup)
  path = tmp_path / "parts"

  class Stop(Exception):
    pass

  class Killer(progress.NullProgress):
    users = 0

    def update(self, count, **postfix):
      self.users += count
      if self.users > 5:
        raise Stop

  def kept(parts):
    return parts_lib.Vectors(parts, "key", *CANDIDATES.shape)

  with pytest.raises(Stop), parts_lib.Parts(path, "work") as parts:
    score(setup, kept=kept(parts), progress=Killer())
  with parts_lib.Parts(path, "work") as parts:
    again = kept(parts)
    rest = len(PROMPTS) - int(again.done.sum())
    assert 0 < rest < len(PROMPTS)
    counted = Killer()
    counted.users = -100
    np.testing.assert_array_equal(
      score(setup, kept=again, progress=counted), whole
    )
  assert counted.users == -100 + rest


def test_rows_hold_every_answer_once():
  found = np.zeros(CANDIDATES.size, int)
  used = 0
  for call in packed_answers.calls(ANSWERS, CANDIDATES, 2, 128):
    tokens, targets, _, segments, owners = call.arrays
    used += (segments > 0).sum()
    assert ((segments > 0) == (call.places >= 0)).all()
    for row, places in enumerate(call.places):
      own = places[places >= 0]
      users = np.unique(own // CANDIDATES.shape[1])
      assert len(users) <= 1
      for user in users:
        shard = row // (len(owners) // 2)
        assert (owners[row], shard) == divmod(int(user), 2)
      for place in np.unique(own):
        ids = ANSWERS[CANDIDATES.flat[place]]
        assert tokens[row, places == place].tolist() == ids[:-1]
        assert targets[row, places == place].tolist() == ids[1:]
        found[place] += 1
  np.testing.assert_array_equal(found, CANDIDATES.ravel() >= 0)
  lengths = np.array(LENGTHS)
  assert used == lengths[CANDIDATES[CANDIDATES >= 0]].sum()


def test_an_empty_text_and_broken_weights_are_refused(setup):
  with pytest.raises(errors.UserError, match="prompt 1: no token found"):
    score(setup, [[5], []], CANDIDATES[:2])
  broken = ours.Setup()
  broken.params = jax.tree.map(lambda x: x * jnp.nan, broken.params)
  with pytest.raises(errors.NonFiniteError, match="NaN or 0") as error:
    score(broken)
  assert (CANDIDATES[error.value.row] >= 0).any()


@pytest.mark.torch
def test_equals_hugging_face(tmp_path):
  pytest.importorskip("torch")
  pytest.importorskip("transformers")
  from tests.peers import hugging_face

  setup = ours.Setup(adapter=False)
  hf_export.save_base(tmp_path / "model", ours.ARCH, setup.params, None)
  model = hugging_face.load(tmp_path / "model")
  expected = _by_text(
    PROMPTS, CANDIDATES, lambda ids: hugging_face.logits(model, [ids])[0]
  )
  close(score(setup), expected)
