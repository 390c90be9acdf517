"""Equality with Hugging Face generate, run live on tiny random weights."""

import json

import numpy as np
import pytest

from bigrec_jax.decoding import constraints
from bigrec_jax.models import hf_export
from tests.decoding import test_generate as ours

pytestmark = pytest.mark.torch
pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.peers import hugging_face  # noqa: E402

T = 9
PROMPTS = ours.make_prompts(6, seed=8, header=17)


@pytest.fixture(scope="module")
def setup():
  return ours.Setup(adapter=False)


@pytest.fixture(scope="module")
def reference(setup, tmp_path_factory):
  path = tmp_path_factory.mktemp("base") / "model"
  hf_export.save_base(path, ours.ARCH, setup.params, None)
  return hugging_face.load(path)


def hf_generate(model, prompts, eos_ids, num_beams, **flags):
  return hugging_face.generate(
    model,
    prompts,
    eos_ids=eos_ids,
    num_beams=num_beams,
    max_new_tokens=T,
    **flags,
  )


@pytest.mark.parametrize("eos_ids", [(2,), (2, 11, 40)])
@pytest.mark.parametrize("num_beams", [1, 2, 4, 10])
def test_equals_hugging_face(setup, reference, num_beams, eos_ids):
  endings = set()
  # One beam is greedy search there, which knows neither of the two.
  penalties = (0.0, 1.0, 2.0) if num_beams > 1 else (1.0,)
  for penalty in penalties:
    for early_stopping in (False, True) if num_beams > 1 else (False,):
      flags = (
        dict(length_penalty=penalty, early_stopping=early_stopping)
        if num_beams > 1
        else {}
      )
      tokens, scores = hf_generate(
        reference, PROMPTS, eos_ids, num_beams, **flags
      )
      found = setup(
        PROMPTS,
        eos_ids=eos_ids,
        num_beams=num_beams,
        max_new_tokens=T,
        length_penalty=penalty,
        early_stopping=early_stopping,
      )
      assert found.tokens == tokens
      np.testing.assert_allclose(found.scores, scores, atol=1e-4, rtol=1e-5)
      endings |= {ids[-1] in eos_ids for row in tokens for ids in row}
  assert endings == {True, False}


@pytest.mark.parametrize("lookahead", [0, 1, 3])
def test_constrained_equals_hugging_face(setup, reference, lookahead):
  rng = np.random.default_rng(3)
  titles = [
    [*rng.integers(3, 9, size=rng.integers(1, 6)).tolist(), ours.EOS]
    for _ in range(60)
  ]
  width = max(map(len, PROMPTS))

  def allowed(_, tokens):
    written = tokens[width:].tolist()
    following = {
      ids[len(written)]
      for ids in titles
      if ids[: len(written)] == written and len(ids) > len(written)
    }
    return sorted(following) or [ours.EOS]

  tokens, scores = hf_generate(
    reference,
    PROMPTS,
    (ours.EOS,),
    4,
    length_penalty=0.0,
    allowed=allowed,
  )
  found = setup(
    PROMPTS,
    num_beams=4,
    max_new_tokens=T,
    length_penalty=0.0,
    trie=constraints.build_trie(titles),
    lookahead=lookahead,
  )
  assert found.tokens == tokens
  np.testing.assert_allclose(found.scores, scores, atol=1e-4, rtol=1e-5)


def test_generation_config_of_the_directory_is_ignored(
  setup, tmp_path, monkeypatch
):
  """Base models ship files that switch sampling on; ours has no such door."""
  from bigrec_jax.config import ModelConfig
  from bigrec_jax.models import hf_import

  path = tmp_path / "model"
  hf_export.save_base(path, ours.ARCH, setup.params, None)
  (path / "generation_config.json").write_text(
    json.dumps({"do_sample": True, "temperature": 5.0, "eos_token_id": [9]})
  )
  section = ModelConfig(
    path=str(path),
    tokenizer="",
    adapter="",
    dtype="float32",
    quantization="none",
    scan_layers=True,
    remat="none",
    attention="auto",
    arch=None,
  )
  config, params = hf_import.load_base(path, section, setup.mesh)
  assert config == ours.ARCH
  expected = setup(PROMPTS)
  monkeypatch.setattr(setup, "params", params)
  ours.assert_same(setup(PROMPTS), expected)
