"""Rows of ranking and rating against Hugging Face's own log-probabilities."""

import contextlib
import types

import numpy as np
import pytest

from bigrec_jax import config as config_lib, models
from bigrec_jax.data.text import tokenization
from bigrec_jax.devices import sharding
from bigrec_jax.models import hf_import, lora
from bigrec_jax.tasks import protocol
from bigrec_jax.tasks.auxiliary import evaluation, mixture, scoring
from bigrec_jax.testing import tiny_base
from bigrec_jax.workdir import parts, paths
from configs import cao
from tests.tasks.auxiliary import made_up

USERS = 5


def test_ties_are_in_the_order_of_the_list():
  rng = np.random.default_rng(0)
  candidates = np.stack([rng.permutation(9) for _ in range(50)])
  targets = rng.integers(0, 9, 50)
  scores = rng.integers(0, 4, candidates.shape)
  found = evaluation.target_ranks(scores, candidates, targets)
  for n in range(50):
    order = sorted(range(9), key=lambda k, n=n: (-scores[n, k], k))
    assert candidates[n, order[found[n]]] == targets[n]


def test_length_norm_is_that_of_beam_search():
  logs, lengths = np.array([[-6.0, -3.0]]), np.array([[4, 2]])
  assert scoring.normed(logs, lengths, 0.0).tolist() == [[-6.0, -3.0]]
  assert scoring.normed(logs, lengths, 1.0).tolist() == [[-1.5, -1.5]]


def _store(root, **generate):
  values = cao.get_config("tiny")
  values.ground.cf_model = ""
  values.generate.prompt_buckets = (256, 512)
  values.generate.update(generate)
  catalogue = made_up.catalogue()
  return types.SimpleNamespace(
    config=config_lib.from_config_dict(values),
    paths=paths.Paths(root),
    catalogue=catalogue,
    prompt=made_up.PROMPT,
    examples=lambda split: made_up.examples(split, USERS, 2),
  )


def _tuned(directory):
  tiny_base.write(directory)
  mesh = sharding.single_device_mesh()
  values = cao.get_config("tiny")
  values.lora.dropout = 0.0
  config = config_lib.from_config_dict(values)
  arch, params = hf_import.load_base(directory, config.model, mesh)
  model = models.build(arch, config.model, config.lora, mesh)
  adapter = lora.init(arch, config.lora, 1, mesh)  # B is 0: none at all.
  tokenizer = tokenization.load_tokenizer(directory)
  network = protocol.Network(model, params, tokenizer, mesh)
  return protocol.Tuned(network, adapter)


def _slow(directory, tokenizer, questions, answers):
  """Returns log p(answer | question) [N, C], one text at a time.

  Args:
    directory: of the model.
    tokenizer: ours.
    questions: texts.
    answers: [N] lists of texts.
  """
  from tests.peers import hugging_face

  model = hugging_face.load(directory)
  found = []
  for question, own in zip(questions, answers, strict=True):
    found.append([])
    for answer in own:
      (before,), (ids,) = (
        tokenizer.encode_data([text]) for text in (question, question + answer)
      )
      ids = [*ids, tokenizer.eos_id]
      assert ids[: len(before)] == before
      (logits,) = hugging_face.logits(model, [ids])
      logits = logits.astype(np.float64)
      logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
      places = range(len(before) - 1, len(ids) - 1)
      found[-1].append(sum(logs[k, ids[k + 1]] for k in places))
  return np.array(found)


@pytest.mark.torch
def test_rows_equal_hugging_face(tmp_path):
  pytest.importorskip("torch")
  pytest.importorskip("transformers")
  directory = tmp_path / "base"
  tuned = _tuned(directory)
  tokenizer = tuned.network.tokenizer
  store = _store(tmp_path, length_penalty=1.0)
  rows = made_up.examples("test", USERS, 2)
  made = made_up.make(rows, candidates=4)
  progress = types.SimpleNamespace(update=lambda n: None, skip=lambda n: None)
  with parts.Parts(tmp_path / "parts", "work") as kept:
    evidence = protocol.Evidence(
      tuned=lambda: tuned,
      untuned=lambda path: tuned.network,
      recommender=lambda: pytest.fail("no lists are asked for"),
      predictions=lambda split: [],
      progress=lambda *_: contextlib.nullcontext(progress),
      parts=kept,
    )

    def questions(kind):
      own = mixture.part(made, kind, 1.0, 0)
      return mixture.Mixture(made, (own,), "")

    asked = questions("ranking")
    # What a kill leaves is known by these names.
    stored = parts.Vectors(kept, "ranking test", USERS, 4)
    assert not stored.done.any()
    own, popular = evaluation.ranking(store, made, asked, evidence)
    listed = [made.candidates(n).tolist() for n in range(USERS)]
    answers = [[made.wording.answer(item) for item in c] for c in listed]
    texts = [asked.text(n).question for n in range(USERS)]
    logs = _slow(directory, tokenizer, texts, answers)
    kept.flush()
    stored = parts.Vectors(kept, "ranking test", USERS, 4)
    assert stored.done.all()
    np.testing.assert_allclose(stored.values, logs, rtol=1e-4)
    lengths = [
      [len(tokenizer.encode_data([t + a])[0]) for a in c]
      for t, c in zip(texts, answers, strict=True)
    ]
    before = [len(tokenizer.encode_data([text])[0]) for text in texts]
    lengths = np.array(lengths) - np.array(before)[:, None] + 1
    ranks = []
    for n, c in enumerate(listed):
      scores = dict(zip(c, (logs[n] / lengths[n]).tolist(), strict=True))
      order = sorted(c, key=lambda item: -scores[item])
      ranks.append(order.index(rows.target[n]))
    for k in (1, 5):
      hits = [rank < k for rank in ranks]
      assert own.metrics[f"hr@{k}"] == pytest.approx(np.mean(hits))
    # All are as popular: the place in the list is the rank.
    first = [c[0] == t for c, t in zip(listed, rows.target, strict=True)]
    assert popular.metrics["hr@1"] == pytest.approx(np.mean(first))

    train = made_up.examples("train")
    asked = questions("rating")
    found = evaluation.rating(store, made, asked, train, evidence)
    known = asked.parts[0].rows
    texts = [asked.text(n).question for n in range(len(known))]
    levels = [f'"{n}"' for n in range(1, 6)]
    logs = _slow(directory, tokenizer, texts, [levels] * len(known))
  chances = np.exp(logs) / np.exp(logs).sum(axis=1, keepdims=True)
  truth = rows.rating[known]
  assert len(known) == USERS - 1
  guesses = {
    "rating: cao": logs.argmax(axis=1) + 1.0,
    "rating: cao, expected": chances @ np.arange(1.0, 6.0),
    "rating: train mean": np.full(len(known), np.nanmean(train.rating)),
  }
  assert [row.system for row in found] == list(guesses)
  for row, guess in zip(found, guesses.values(), strict=True):
    error = guess - truth
    assert row.metrics["rmse"] == pytest.approx(
      np.sqrt(np.mean(error**2)), rel=1e-4
    )
    assert row.metrics["mae"] == pytest.approx(np.abs(error).mean(), rel=1e-4)
    assert row.n == USERS - 1
