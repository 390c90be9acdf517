"""Rotary settings as found in the wild: equal to transformers, or refused."""

import functools
import json

import jax
import numpy as np
import pytest

from bigrec_jax import errors
from bigrec_jax.models import hf_export, kv_cache, registry
from bigrec_jax.models.llama import rope
from tests.models import common

POSITIONS, LENGTH = 64, 150
YARN = {"rope_type": "yarn", "factor": 4.0}
LONG = {
  "rope_type": "longrope",
  "short_factor": [1.0, 1.1, 1.3],
  "long_factor": [1.0, 2.0, 5.5],
}
LLAMA3 = {
  "rope_type": "llama3",
  "factor": 8.0,
  "low_freq_factor": 1.0,
  "high_freq_factor": 4.0,
}
CONTEXT = {"original_max_position_embeddings": 16}
# Values of config.json beside those of a LLaMA with heads of 6.
SETTINGS = {
  "theta": {"rope_theta": 5e5},
  "theta_inside": {"rope_parameters": {"rope_theta": 5e5}},
  "theta_twice": {"rope_theta": 7.0, "rope_parameters": {"rope_theta": 5e5}},
  "empty": {"rope_parameters": {}, "rope_scaling": {}, "rope_theta": 5e5},
  "null": {"rope_parameters": None, "rope_scaling": None},
  "default": {"rope_scaling": {"type": "default", "factor": 3.0}},
  "linear": {"rope_scaling": {"type": "linear", "factor": 2.5}},
  "linear5": {"rope_parameters": {"rope_type": "linear", "factor": 2.5}},
  "type_twice": {
    "rope_scaling": {"type": "linear", "rope_type": "default", "factor": 2.0}
  },
  "llama3": {"rope_scaling": LLAMA3 | CONTEXT},
  "llama3_no_context": {"rope_scaling": LLAMA3},
  "context_beside": {"rope_scaling": LLAMA3, **CONTEXT},
  "context_twice": {
    "rope_scaling": YARN | CONTEXT,
    "original_max_position_embeddings": 32,
  },
  "two_keys": {
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "rope_scaling": {"type": "yarn", "factor": 4.0, **CONTEXT},
  },
  "two_keys_swapped": {
    "rope_parameters": YARN | CONTEXT,
    "rope_scaling": {"rope_type": "default", "rope_theta": 10000.0},
  },
  "one_empty": {"rope_parameters": YARN | CONTEXT, "rope_scaling": {}},
  "yarn": {"rope_scaling": YARN | CONTEXT},
  "yarn_no_context": {"rope_scaling": YARN},
  "yarn_no_factor": {"rope_scaling": YARN | CONTEXT | {"factor": None}},
  "yarn_attention": {
    "rope_scaling": YARN | CONTEXT | {"attention_factor": 1.7}
  },
  "yarn_betas": {
    "rope_scaling": YARN | CONTEXT | {"beta_fast": 2.0, "beta_slow": 0.25}
  },
  "yarn_mscale": {
    "rope_scaling": YARN | CONTEXT | {"mscale": 0.7, "mscale_all_dim": 1.4}
  },
  "yarn_one_mscale": {"rope_scaling": YARN | CONTEXT | {"mscale": 0.7}},
  "yarn_truncate": {
    "rope_scaling": YARN | CONTEXT | {"truncate": False, "beta_fast": 2.0}
  },
  "dynamic": {"rope_scaling": {"type": "dynamic", "factor": 3.0}},
  "longrope": {"rope_scaling": LONG | CONTEXT},
  "longrope_factor": {
    "rope_scaling": LONG
    | {"factor": 3.0, "original_max_position_embeddings": 50}
  },
  "longrope_attention": {
    "rope_scaling": LONG | CONTEXT | {"attention_factor": 1.25}
  },
}


def values_of(name):
  values = common.LLAMA.to_hf("float32")
  del values["rope_theta"]
  return values | {"max_position_embeddings": POSITIONS} | SETTINGS[name]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A base whose config.json every test writes anew."""
  folder = tmp_path_factory.mktemp("rope") / "base"
  params = common.noisy_params(common.LLAMA)
  hf_export.save_base(folder, common.LLAMA, params, None)
  return folder, params


def both(name, folder):
  """Our config and the Hugging Face model of a setting."""
  transformers = pytest.importorskip("transformers")
  folder, params = folder
  (folder / "config.json").write_text(json.dumps(values_of(name)))
  reference = transformers.AutoModelForCausalLM.from_pretrained(
    folder, attn_implementation="eager"
  )
  return registry.read_config(folder), {"params": params}, reference.eval()


@pytest.mark.torch
@pytest.mark.parametrize("name", list(SETTINGS))
def test_equals_transformers(name, folder):
  pytest.importorskip("torch")
  config, variables, reference = both(name, folder)
  own = reference.model.rotary_emb
  ours = rope.frequencies(6, config.rope_theta, config.rope_scaling, POSITIONS)
  np.testing.assert_allclose(ours, own.inv_freq.numpy(), rtol=1e-6, atol=1e-9)
  scale = rope.attention_scale(config.rope_scaling, POSITIONS)
  assert scale == pytest.approx(own.attention_scaling, rel=1e-6)


@pytest.mark.torch
@pytest.mark.parametrize(
  "name", ["two_keys", "dynamic", "longrope_attention", "linear5"]
)
def test_logits_beyond_the_models_positions_equal(name, folder):
  torch = pytest.importorskip("torch")
  config, variables, reference = both(name, folder)
  # One text alone: transformers takes the longest of a batch for all of them.
  tokens, positions, segments = common.batch(rows=1, length=LENGTH)
  ours = common.forward(
    common.build(config), variables, tokens, positions, segments
  )
  with torch.no_grad():
    theirs = reference(torch.from_numpy(tokens.astype(np.int64))).logits
  np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-4, rtol=1e-4)


@pytest.mark.torch
@pytest.mark.parametrize("name", ["dynamic", "longrope"])
def test_decoding_over_the_limit_equals_transformers(name, folder):
  torch = pytest.importorskip("torch")
  config, variables, reference = both(name, folder)
  model = common.build(config)
  limit = POSITIONS if name == "dynamic" else 16
  prefill, decode, logits = (
    jax.jit(functools.partial(model.apply, variables, method=method))
    for method in ("prefill", "decode", "logits")
  )
  for prompt in (limit - 2, limit + 3):  # Grows over it, and is over it.
    tokens, _, _ = common.batch(rows=1, length=prompt + 5)
    new = tokens[:, prompt:]
    padded = np.pad(tokens[:, :prompt], [(0, 0), (0, limit + 9 - prompt)])
    hidden, cache = prefill(padded, np.int32([prompt]))
    states = [hidden[:, prompt - 1]]
    suffix = kv_cache.init_suffix(cache, 1, 5)
    for step in range(5):
      suffix = suffix.reorder(np.zeros((1, 1), np.int32))
      last = new[:, step : step + 1]
      hidden, suffix = decode(last, np.int32([step]), cache, suffix)
      states.append(hidden[:, 0])
    ours = logits(np.stack(states, 1))
    with torch.no_grad():
      ids = torch.from_numpy(tokens.astype(np.int64))
      one = reference(ids[:, :prompt], use_cache=True)
      theirs = [one.logits[:, -1]]
      for step in range(prompt, prompt + 5):
        one = reference(
          ids[:, step : step + 1], past_key_values=one.past_key_values
        )
        theirs.append(one.logits[:, -1])
    theirs = torch.stack(theirs, 1).numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["dynamic", "longrope"])
def test_rows_of_a_batch_do_not_change_one_another(name):
  config = registry.read_architecture(values_of(name))
  variables = {"params": common.noisy_params(config)}
  model = common.build(config)
  tokens, positions, segments = common.batch(rows=2, length=90)
  alone = common.forward(
    model, variables, *(x[1:, :13] for x in (tokens, positions, segments))
  )
  # A short text, padded in a row of its own, and packed with another.
  segments[1, 13:] = 0
  row = common.forward(model, variables, tokens, positions, segments)[1:, :13]
  np.testing.assert_allclose(row, alone, atol=1e-4, rtol=1e-4)
  segments[1, 13:], positions[1, 13:] = 2, np.arange(77)
  row = common.forward(model, variables, tokens, positions, segments)[1:, :13]
  np.testing.assert_allclose(row, alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["dynamic", "longrope"])
def test_a_shared_beginning_is_refused_beyond_the_limit(name):
  config = registry.read_architecture(values_of(name))
  variables = {"params": common.noisy_params(config)}
  model = common.build(config)

  def run(tokens, sizes, header=None):
    return model.apply(variables, tokens, sizes, header, method="prefill")

  def prefill(width):
    def both(beginning, rows):
      _, header = run(beginning, np.int32([8]))
      return run(rows, np.int32([width, width]), header.as_prefix())

    shapes = [jax.ShapeDtypeStruct(x, np.int32) for x in ((1, 8), (2, width))]
    jax.eval_shape(both, *shapes)

  limit = POSITIONS if name == "dynamic" else 16
  prefill(limit - 8)
  with pytest.raises(errors.UserError, match=f"rope_type '{name}' found"):
    prefill(limit - 7)


@pytest.mark.parametrize("name", list(SETTINGS))
def test_settings_survive_export(name):
  config = registry.read_architecture(values_of(name))
  assert registry.read_architecture(config.to_hf("float32")) == config


@pytest.mark.parametrize(
  ("values", "words"),
  [
    ({"rope_scaling": "linear"}, "rope_scaling: 'linear' found, an object"),
    ({"rope_parameters": [1]}, "rope_parameters: .* an object"),
    ({"rope_scaling": {"type": "su"}}, "rope_type: 'su' found, one of default"),
    ({"rope_scaling": {"type": 3}}, "rope_type: 3 found"),
    ({"rope_scaling": {"factor": 2.0, "speed": 1}}, "rope_scaling.speed: 1"),
    (
      {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}},
      "rope_parameters.full_attention: .* one setting for all layers",
    ),
    ({"rope_scaling": {"mrope_section": [1, 1, 1]}}, "mrope_section"),
    ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor: 0.5"),
    ({"rope_theta": None}, "rope_theta: None found, a number"),
    ({"rope_theta": "10000"}, "rope_theta: '10000' found, a number"),
    ({"rope_theta": -1.0}, "rope_theta: -1.0 found, a number above 0"),
    ({"rope_theta": 1e300}, "rope_theta 1e.300 .* zero, NaN or infinite"),
    ({"rope_parameters": {"rope_theta": None}}, "rope_theta: None found"),
    ({"rope_scaling": {"type": "linear", "factor": 0}}, "factor: 0 found"),
    ({"rope_scaling": {"type": "linear", "factor": "2"}}, "factor: '2' found"),
    ({"rope_scaling": YARN | {"truncate": "false"}}, "truncate: 'false'"),
    ({"rope_scaling": YARN | {"truncate": None, "beta_fast": -1}}, "beta_fast"),
    ({"rope_scaling": YARN | {"original_max_position_embeddings": 0}}, "above"),
    (
      {"rope_scaling": YARN, "original_max_position_embeddings": "16"},
      "original_max_position_embeddings: '16' found",
    ),
    ({"rope_scaling": LLAMA3 | {"high_freq_factor": 1}}, "high_freq_factor: 1"),
    ({"rope_scaling": LONG | {"long_factor": [1.0]}}, "'1 factors' found, 3"),
    ({"rope_scaling": LONG | {"short_factor": 2.0}}, "short_factor: 2.0"),
  ],
)
def test_refused_by_name(values, words):
  base = common.LLAMA.to_hf("float32") | {"max_position_embeddings": POSITIONS}
  with pytest.raises(errors.UserError, match=words) as caught:
    registry.read_architecture(base | values, "some/config.json")
  assert "\n" not in str(caught.value)
  assert str(caught.value).startswith("some/config.json: ")
