"""Scores that were kept before a kill, and scores that are none."""

import jax
import numpy as np
import pytest

from bigrec_jax import config as config_lib, errors, models, progress
from bigrec_jax.devices import sharding
from bigrec_jax.models import hf_import, lora as lora_lib
from bigrec_jax.tasks import protocol
from bigrec_jax.tasks.yes_no import scoring
from bigrec_jax.workdir import parts
from tests.tasks.yes_no import made_up
from tests.training import tiny

COUNT = 37


class Kill(BaseException):
  pass


class Counter(progress.NullProgress):
  def __init__(self, most=COUNT):
    self.done, self.skipped, self._most = 0, 0, most

  def update(self, count, **_):
    self.done += count
    if self.done > self._most:
      raise Kill

  def skip(self, count):
    self.skipped += count


@pytest.fixture(scope="module")
def scorer_and_adapter(tmp_path_factory):
  mesh = sharding.make_mesh(config_lib.MeshConfig(1, 1, 1), jax.devices()[:1])
  tokenizer = made_up.tokenizer(tmp_path_factory.mktemp("yes_no") / "base")
  arch = models.from_arch(tiny.config().model.arch, tokenizer.vocab_size)
  config = tiny.lora_config(0.0)
  model = models.build(arch, tiny.config().model, config, mesh)
  params = hf_import.init_base(arch, 0, "float32", mesh)
  network = protocol.Network(model, params, tokenizer, mesh)
  source = made_up.source("valid", COUNT, 3)
  adapter = lora_lib.init(arch, config, 1, mesh)
  return scoring.Scorer(network, source, 8), adapter


def test_no_sample_is_scored_twice(scorer_and_adapter, tmp_path):
  scorer, adapter = scorer_and_adapter
  whole = scorer.logits(adapter)
  done = 0
  for most in (0, 9):
    counter = Counter(most)
    with pytest.raises(Kill), parts.Parts(tmp_path / "p", "scores") as kept:
      vectors = parts.Vectors(kept, "valid", COUNT, 2)
      scorer.logits(adapter, counter, vectors)
    assert counter.skipped == done
    done += counter.done
  assert 0 < done < COUNT
  kept = parts.Parts(tmp_path / "p", "scores")
  counter = Counter()
  found = scorer.logits(
    adapter, counter, parts.Vectors(kept, "valid", COUNT, 2)
  )
  np.testing.assert_array_equal(found, whole)
  assert (counter.skipped, counter.done) == (done, COUNT - done)


def test_logits_that_are_not_finite_name_the_sample(scorer_and_adapter):
  scorer, adapter = scorer_and_adapter
  spoilt = jax.tree.map(lambda x: x * np.float32(np.nan), adapter)
  with pytest.raises(errors.NonFiniteError, match=r"sample \d+: answer logits"):
    scorer.logits(spoilt)
