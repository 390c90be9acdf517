"""generate.length_norm_includes_prompt is what transformers 4.28.1 computes."""

import dataclasses
import json

import numpy as np
import pytest
from safetensors import numpy as safetensors

from bigrec_jax import config as config_lib, models, sharding
from bigrec_jax.decoding import generate as decoding
from bigrec_jax.models import hf_import
from bigrec_jax.modes import generate
from bigrec_jax.reporting import progress
from configs import common
from tests.reference import old_generate as old

_ARCH = {
  "model_type": "llama",
  "vocab_size": old.VOCAB,
  "hidden_size": old.WIDTH,
  "intermediate_size": old.MLP,
  "num_hidden_layers": old.LAYERS,
  "num_attention_heads": old.HEADS,
  "max_position_embeddings": 2048,
  "rms_norm_eps": 1e-6,
  "tie_word_embeddings": False,
  "hidden_act": "silu",
  "bos_token_id": 1,
  "eos_token_id": old.EOS,
}


@pytest.fixture(scope="module")
def search(tmp_path_factory):
  """Decodes the golden file's prompts with our beam search."""
  folder = tmp_path_factory.mktemp("base")
  safetensors.save_file(old.weights(), folder / "model.safetensors")
  (folder / "config.json").write_text(json.dumps(_ARCH))
  config = config_lib.from_config_dict(common.get_config())
  mesh = sharding.single_device_mesh()
  arch, params = hf_import.load_base(folder, config.model, mesh)
  model = models.build(arch, config.model, None, mesh)
  prompts = old.prompts()

  def run(**changes):
    options = dataclasses.replace(
      config.generate,
      num_beams=old.BEAMS,
      batch_size=len(prompts),
      prompt_buckets=(32,),
      **changes,
    )
    return decoding.generate(
      model,
      params,
      None,
      prompts,
      options,
      (old.EOS,),
      mesh,
      seed=0,
      norm_lengths=generate._norm_lengths(prompts, options),
      trie=None,
      progress=progress.NullProgress(),
    )

  return run


@pytest.mark.parametrize(("tokens", "early"), [(14, False), (6, True)])
def test_equals_transformers_4_28(search, tokens, early):
  golden = json.loads(old.GOLDEN.read_text())
  assert golden["transformers"] == "4.28.1"
  ended = set()
  for result in golden["results"]:
    penalty = result["length_penalty"]
    settings = (result["max_new_tokens"], result["early_stopping"])
    if settings != (tokens, early):
      continue
    found = search(
      max_new_tokens=tokens,
      early_stopping=early,
      length_penalty=penalty,
      length_norm_includes_prompt=True,
    )
    assert found.tokens == result["tokens"]
    scores = np.array(result["scores"])
    atol = 1e-5 * np.abs(scores).max()
    np.testing.assert_allclose(found.scores, scores, atol=atol)
    ended |= {ids[-1] == old.EOS for row in found.tokens for ids in row}
    today = search(
      max_new_tokens=tokens,
      early_stopping=early,
      length_penalty=penalty,
      length_norm_includes_prompt=False,
    )
    # Without normalisation there is nothing to tell the two apart.
    assert (today.tokens == found.tokens) == (penalty == 0)
  assert ended == {True, False}
