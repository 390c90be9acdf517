"""Adapters with settings by layer: of equal effect as in PEFT, or refused."""

import json

import numpy as np
import pytest

from bigrec_jax import errors
from bigrec_jax.config import LoraConfig
from bigrec_jax.models import hf_export, hf_import, lora, tensor_files
from tests.models import common

CONFIG = common.LLAMA
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"]
SETTINGS = {
  "rslora": {"use_rslora": True},
  "ranks": {"rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.up_proj": 7}},
  "alphas": {"alpha_pattern": {"v_proj": 11, "layers.2.self_attn.q_proj": 1}},
  "ranks_rslora": {"rank_pattern": {"q_proj": 2}, "use_rslora": True},
  "both": {
    "rank_pattern": {"^model.layers.0.self_attn.q_proj": 5},
    "alpha_pattern": {"q_proj": 9, "up_proj": 3},
    "use_rslora": True,
  },
  "exclude": {"exclude_modules": ["layers.1.mlp.up_proj", "v_proj"]},
  "exclude_text": {"exclude_modules": r".*\.0\..*"},
  "layers": {"layers_to_transform": [0, 2]},
  "one_layer": {"layers_to_transform": 1},
  "all_layers": {"layers_to_transform": [0, 1, 2]},
  "layers_pattern": {"layers_to_transform": [1], "layers_pattern": "layers"},
  "text_of_layers": {"target_modules": r".*\.[02]\..*\.(q|up)_proj"},
  "all_but": {"target_modules": "ALL-linear", "exclude_modules": ["o_proj"]},
  "transposed": {"fan_in_fan_out": True},
}


@pytest.mark.torch
@pytest.mark.parametrize("name", list(SETTINGS))
def test_effect_equals_peft(name, tmp_path):
  peft = pytest.importorskip("peft")
  transformers = pytest.importorskip("transformers")
  reference = transformers.AutoModelForCausalLM.from_config(
    transformers.LlamaConfig(**CONFIG.to_hf("float32"))
  )
  settings = {"target_modules": ALL} | SETTINGS[name]
  settings |= {"r": 3, "lora_alpha": 5, "init_lora_weights": False}
  theirs = peft.get_peft_model(
    reference, peft.LoraConfig(task_type="CAUSAL_LM", **settings)
  )
  theirs.save_pretrained(tmp_path / "a")
  read, tree = hf_import.load_adapter(tmp_path / "a", CONFIG)
  expected, found = {}, {}
  for module_name, module in theirs.named_modules():
    if hasattr(module, "get_delta_weight") and "default" in module.lora_A:
      key = module_name.removeprefix("base_model.model.model.layers.")
      expected[key] = module.get_delta_weight("default").detach().numpy()
  assert expected
  for parent, modules in tree["layers"].items():
    for module, own in modules.items():
      for layer in range(CONFIG.num_hidden_layers):
        a, b = own["lora_a"][layer], own["lora_b"][layer]
        found[f"{layer}.{parent}.{module}"] = (
          a @ b * np.float32(read.alpha / read.rank)
        ).T
  assert expected.keys() <= found.keys()
  for key, value in found.items():
    want = expected.get(key, np.zeros_like(value))
    np.testing.assert_allclose(value, want, atol=1e-5, err_msg=key)
  # What is written again is plain, and the same to PEFT.
  hf_export.save_adapter(tmp_path / "b", CONFIG, read, tree, "base")
  again, same = hf_import.load_adapter(tmp_path / "b", CONFIG)
  assert again == read and lora.count(same) == lora.count(tree)


LORA = LoraConfig(3, 6.0, 0.1, ("q_proj", "down_proj"))


@pytest.fixture
def adapter(tmp_path):
  """A plain adapter, and a function that changes its settings."""
  directory = tmp_path / "adapter"
  tree = common.noisy_adapter(CONFIG, LORA)
  hf_export.save_adapter(directory, CONFIG, LORA, tree, "base")
  file = directory / "adapter_config.json"
  values = json.loads(file.read_text())
  return directory, lambda **new: file.write_text(json.dumps(values | new))


def refused(directory, words):
  with pytest.raises(errors.UserError, match=words) as caught:
    hf_import.load_adapter(directory, CONFIG)
  assert str(caught.value).startswith(str(directory))
  assert str(caught.value).isprintable()


@pytest.mark.parametrize(
  ("values", "words"),
  [
    ({"r": "8"}, "r: '8' found, a whole number"),
    ({"r": 0}, "r: 0 found"),
    ({"r": 2**60}, "r: 1152921504606846976 found"),
    ({"r": 3.0}, "r: 3.0 found"),
    ({"lora_alpha": None}, "lora_alpha: None found, a number"),
    ({"lora_alpha": "16"}, "lora_alpha: '16' found"),
    ({"lora_alpha": True}, "lora_alpha: True found"),
    ({"lora_dropout": 1.5}, "lora_dropout: 1.5 found"),
    ({"lora_dropout": [0]}, "lora_dropout: "),
    ({"rank_pattern": [1]}, "rank_pattern: "),
    ({"rank_pattern": {"q_proj": "4"}}, "rank_pattern.q_proj: '4' found"),
    ({"rank_pattern": {"(": 4}}, "rank_pattern: '\\(' is no regular"),
    ({"alpha_pattern": {"q_proj": None}}, "alpha_pattern.q_proj: None"),
    ({"exclude_modules": 3}, "exclude_modules: 3 found, a list"),
    ({"exclude_modules": ["q_proj", "down_proj"]}, "matches nothing"),
    ({"layers_to_transform": ["1"]}, r"layers_to_transform\[0\]: '1'"),
    ({"layers_to_transform": [9]}, "matches nothing"),
    ({"layers_to_transform": [0]}, "unknown tensor"),
    ({"layers_pattern": "layers"}, "layers_to_transform beside it"),
    (
      {"target_modules": ".*q_proj", "layers_to_transform": [0]},
      "null beside target_modules",
    ),
    ({"target_modules": [3]}, r"target_modules\[0\]: 3 found, a text"),
    ({"target_modules": None}, "target_modules: None found, a list"),
    ({"modules_to_save": ["embed_tokens"]}, "modules_to_save: "),
    ({"bias": "lora_only"}, "bias: 'lora_only'"),
    ({"use_dora": "true"}, "use_dora: 'true'"),
    ({"lora_bias": True}, "lora_bias: True"),
    ({"use_bdlora": {"nblocks": 2}}, "use_bdlora: "),
    ({"brand_new": 3}, "brand_new: 3 found, plain LoRA without it"),
    ({"init_lora_weights": ["pissa"]}, "init_lora_weights: "),
    ({"fan_in_fan_out": "no"}, "fan_in_fan_out: 'no' found"),
    ({"peft_type": ["LORA"]}, "peft_type: "),
  ],
)
def test_settings_that_are_wrong(values, words, adapter):
  directory, change = adapter
  change(**values)
  refused(directory, words)


@pytest.mark.parametrize("text", ["[]", "3", "{", "", '{"lora_alpha": NaN}'])
def test_settings_that_are_no_object(text, adapter):
  directory, _ = adapter
  (directory / "adapter_config.json").write_text(text)
  refused(directory, "adapter_config.json: ")


def test_infinite_alpha_is_refused(adapter):
  directory, _ = adapter
  file = directory / "adapter_config.json"
  file.write_text(
    file.read_text().replace('"lora_alpha": 6', '"lora_alpha": 1e999')
  )
  refused(directory, "1e999 found, a finite number expected")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_refused(value, adapter):
  directory, _ = adapter
  file = directory / "adapter_model.safetensors"
  stored = tensor_files.read_file(file)
  arrays = {name: np.array(t.view()) for name, t in stored.items()}
  name = sorted(arrays)[-1]
  arrays[name][0, 1] = value
  header = [(key, x.dtype, x.shape) for key, x in arrays.items()]
  tensor_files.write_file(file, header, arrays.__getitem__)
  refused(directory, f"{name}: NaN or infinity found")
