"""Our beam search on the model and the prompts of the recorded results."""

import dataclasses
import json
import pathlib

from safetensors import numpy as safetensors

from bigrec_jax import config as config_lib, models, progress
from bigrec_jax.decoding import generate as decoding
from bigrec_jax.devices import sharding
from bigrec_jax.models import hf_import
from bigrec_jax.recommend import decoder
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


class Search:
  """Decodes the prompts of the golden file."""

  def __init__(self, folder: pathlib.Path):
    safetensors.save_file(old.weights(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(_ARCH))
    self._config = config_lib.from_config_dict(common.get_config())
    self._mesh = sharding.single_device_mesh()
    arch, self._params = hf_import.load_base(
      folder, self._config.model, self._mesh
    )
    self._model = models.build(arch, self._config.model, None, self._mesh)

  def __call__(self, **changes: float) -> decoding.Hypotheses:
    """Returns the hypotheses under changed options of section generate."""
    prompts = old.prompts()
    options = dataclasses.replace(
      self._config.generate,
      num_beams=old.BEAMS,
      batch_size=len(prompts),
      prompt_buckets=(32,),
      **changes,
    )
    return decoding.generate(
      self._model,
      self._params,
      None,
      prompts,
      options,
      (old.EOS,),
      self._mesh,
      seed=0,
      norm_lengths=decoder.norm_lengths(prompts, options),
      trie=None,
      progress=progress.NullProgress(),
    )
