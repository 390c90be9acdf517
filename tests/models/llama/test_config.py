import dataclasses

import numpy as np
import pytest

from bigrec_jax import errors
from bigrec_jax.models.llama import rope
from bigrec_jax.models.llama.config import LlamaConfig, RopeScaling
from tests.models import common


@pytest.mark.parametrize("kind", list(common.KINDS))
def test_round_trip(kind):
  config = common.KINDS[kind]
  assert LlamaConfig.from_hf(config.to_hf("float32")) == config


# As published with LLaMA-1 7B; keys that shape nothing left out.
LLAMA1 = {
  "model_type": "llama",
  "hidden_size": 4096,
  "intermediate_size": 11008,
  "num_attention_heads": 32,
  "num_hidden_layers": 32,
  "rms_norm_eps": 1e-6,
  "tie_word_embeddings": False,
  "vocab_size": 32000,
  "bos_token_id": 1,
  "eos_token_id": 2,
}


def test_llama_1_defaults():
  config = LlamaConfig.from_hf(LLAMA1)
  assert config.num_key_value_heads == 32
  assert config.head_dim == 128
  assert config.max_position_embeddings == 2048
  assert config.rope_theta == 10000.0
  assert not config.qkv_bias


def test_version_4_and_5_rope_keys_are_the_same():
  scaling = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
  }
  old = {**LLAMA1, "rope_theta": 5e5, "rope_scaling": scaling}
  new = {**LLAMA1, "rope_parameters": {**scaling, "rope_theta": 5e5}}
  assert LlamaConfig.from_hf(old) == LlamaConfig.from_hf(new)
  assert LlamaConfig.from_hf(old).rope_scaling.rope_type == "llama3"
  linear = {**LLAMA1, "rope_scaling": {"type": "linear", "factor": 2.0}}
  assert LlamaConfig.from_hf(linear).rope_scaling == RopeScaling("linear", 2.0)


def test_several_eos_tokens():
  config = LlamaConfig.from_hf({**LLAMA1, "eos_token_id": [7, 8]})
  assert config.eos_token_ids == (7, 8)
  assert config.to_hf("float32")["eos_token_id"] == [7, 8]


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"model_type": "gpt2"}, "'gpt2' found, one of llama, mistral, qwen2"),
    ({"hidden_size": None}, "hidden_size: None found, a positive integer"),
    ({"hidden_act": "gelu"}, "hidden_act"),
    ({"rope_scaling": {"rope_type": "yarn"}}, "a value for factor"),
    ({"rope_scaling": {"type": "mrope"}}, "rope_type: 'mrope' found, one of"),
    ({"rope_scaling": {"type": "linear"}}, "a value for factor"),
    ({"quantization_config": {"bits": 4}}, "unquantised"),
    ({"num_key_value_heads": 5}, "multiple of num_key_value_heads 5"),
    ({"head_dim": 7}, "head_dim: 7 found, an even number"),
    ({"model_type": "mistral", "sliding_window": 4096}, "sliding_window: 4096"),
    ({"model_type": "qwen2", "use_sliding_window": True}, "sliding_window"),
    ({"layer_types": ["sliding_attention"]}, "only full_attention"),
  ],
)
def test_what_the_network_lacks_is_refused(changes, words):
  with pytest.raises(errors.UserError, match=words):
    LlamaConfig.from_hf({**LLAMA1, **changes}, "some/config.json")


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"hidden_size": None}, "hidden_size: None found, a positive integer"),
    ({"vocab_size": "32000"}, "vocab_size: '32000' found"),
    ({"num_hidden_layers": 2.0}, "num_hidden_layers: 2.0 found"),
    ({"num_hidden_layers": 10**9}, "at most 10000"),
    ({"vocab_size": 2**60}, "vocab_size: 1152921504606846976 found, at most"),
    ({"num_key_value_heads": True}, "num_key_value_heads: True"),
    ({"hidden_size": 30}, "hidden_size: 30 found, a multiple of num_att"),
    ({"rms_norm_eps": None}, "rms_norm_eps: None found, a number"),
    ({"rms_norm_eps": "1e-6"}, "rms_norm_eps: '1e-6' found, a number"),
    ({"rms_norm_eps": -1}, "rms_norm_eps: -1 found"),
    ({"tie_word_embeddings": "false"}, "'false' found, true or false"),
    ({"attention_bias": 0}, "attention_bias: 0 found, true or false"),
    ({"eos_token_id": ["2"]}, r"eos_token_id\[0\]: '2' found, a whole"),
    ({"bos_token_id": 1.0}, "bos_token_id: 1.0 found"),
    ({"model_type": None}, "model_type: None found, one of llama"),
    ({"model_type": ["llama"]}, "model_type: .* found, one of llama"),
    ({"layer_types": 3}, "layer_types: 3 found"),
    ({"sliding_window": 16}, "sliding_window: 16 found"),
    ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping: 50.0 found"),
    ({"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
    ({"query_pre_attn_scalar": 256}, "query_pre_attn_scalar: 256 found"),
    ({"num_local_experts": 8}, "num_local_experts: 8 found"),
    ({"residual_multiplier": 0.2}, "residual_multiplier: 0.2 found"),
    (
      {"model_type": "mistral", "max_position_embeddings": 8192},
      "sliding_window: None found, null .*window of 4096",
    ),
  ],
)
def test_wrong_types_and_other_networks_are_refused(changes, words):
  with pytest.raises(errors.UserError, match=words) as caught:
    LlamaConfig.from_hf({**LLAMA1, **changes}, "some/config.json")
  assert str(caught.value).startswith("some/config.json: ")


def test_harmless_keys_pass_and_unknown_ones_are_told(caplog):
  harmless = {
    "num_key_value_heads": None,
    "head_dim": None,
    "use_cache": False,
    "pretraining_tp": 2,
    "torch_dtype": "float16",
    "logits_scaling": 1.0,
    "final_logit_softcapping": None,
    "auto_map": {},
  }
  with caplog.at_level("WARNING"):
    config = LlamaConfig.from_hf({**LLAMA1, **harmless}, "harmless.json")
    assert not caplog.messages
    LlamaConfig.from_hf({**LLAMA1, "brand_new": 1}, "unknown.json")
  assert config == LlamaConfig.from_hf(LLAMA1)
  assert caplog.messages == [
    "unknown.json: 'brand_new': not known here, without effect"
  ]


def test_width_that_heads_do_not_divide():
  arch = dataclasses.replace(common.ARCH, hidden_size=25)
  with pytest.raises(errors.UserError, match="arch.hidden_size: 25"):
    LlamaConfig.from_arch(arch, 10)


def test_llama3_frequencies_against_the_published_definition():
  scaling = RopeScaling("llama3", 8.0, 1.0, 4.0, 8192)
  ours = rope.frequencies(128, 500000.0, scaling, 131072)
  plain = 500000.0 ** -(np.arange(0, 128, 2) / 128)
  for got, frequency in zip(ours, plain, strict=True):
    wavelength = 2 * np.pi / frequency
    if wavelength < 8192 / 4:
      expected = frequency
    elif wavelength > 8192 / 1:
      expected = frequency / 8
    else:
      smooth = (8192 / wavelength - 1) / (4 - 1)
      expected = (1 - smooth) * frequency / 8 + smooth * frequency
    assert got == pytest.approx(expected, rel=1e-5)
