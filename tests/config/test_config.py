import dataclasses

import ml_collections
import pytest

from bigrec_jax import config as config_lib, errors
from configs import books, common, demo, game, movie, real, toys

CONFIGS = {"demo": demo, "movie": movie, "game": game, "toys": toys}
CONFIGS |= {"books": books, "real": real}


def changed(**values):
  config = common.get_config()
  with config.unlocked():
    config.update_from_flattened_dict(
      {key.replace("__", "."): value for key, value in values.items()}
    )
  return config_lib.from_config_dict(config)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("variant", ["", "tiny"])
def test_every_config_file_is_valid(name, variant):
  config = CONFIGS[name].get_config(variant)
  built = config_lib.from_config_dict(config)
  assert built.to_dict()["train"] == {
    k: tuple(v) if isinstance(v, (list, tuple)) else v
    for k, v in config.train.to_dict().items()
  }


def test_the_defaults_are_the_published_protocol():
  config = config_lib.from_config_dict(common.get_config())
  assert (config.lora.rank, config.lora.alpha) == (8, 16.0)
  assert config.lora.dropout == 0.05
  assert config.lora.target_modules == ("q_proj", "v_proj")
  assert config.train.batch_size == 128
  assert config.train.learning_rate == 1e-4
  assert config.train.warmup_steps == 20
  assert config.train.max_length == 512
  assert config.train.early_stopping_patience == 5
  assert config.generate.num_beams == 4
  assert config.ground.cutoffs == (1, 3, 5, 10, 20, 50)


def test_words_with_commas_are_several():
  built = changed(lora__target_modules=("q_proj, k_proj", "up_proj"))
  assert built.lora.target_modules == ("q_proj", "k_proj", "up_proj")


def test_an_unknown_and_a_missing_key_are_told():
  config = common.get_config()
  with config.unlocked():
    config.train.extra = 1
  with pytest.raises(errors.UserError, match="config.train.extra: unknown"):
    config_lib.from_config_dict(config)
  config = common.get_config()
  with config.unlocked():
    del config.train.batch_size
  with pytest.raises(errors.UserError, match="train.batch_size: missing"):
    config_lib.from_config_dict(config)


@pytest.mark.parametrize(
  ("key", "value"),
  [
    ("model__dtype", "float16"),
    ("lora__rank", 0),
    ("lora__dropout", 1.0),
    ("lora__target_modules", ("lm_head",)),
    ("data__num_train", 0),
    ("train__learning_rate", float("nan")),
    ("generate__num_beams", 0),
    ("ground__injections", ("magic",)),
    ("ground__cutoffs", ()),
    ("mesh__fsdp", 0),
    ("cf__model", "svd"),
    ("ground__cf_model", "sasrek"),
    ("ground__cf_model", "sasrec,item_knn"),  # Which fusion=paper can't inject.
  ],
)
def test_a_value_out_of_range_names_its_key(key, value):
  with pytest.raises(errors.UserError, match=key.split("__")[0]):
    changed(**{key: value})


@pytest.mark.parametrize(
  "keys",
  [
    {"train__objective": "legal_tokens"},  # With train_on_inputs.
    {"train__temperature": 1.5},
    {"train__adaptive_temperature": True},
    {"generate__prior": "sasrec"},
    {
      "generate__prior": "sasrec",
      "generate__constrained": True,
      "ground__beams": "all",
    },
    {
      "generate__prior": "sasrec",
      "generate__constrained": True,
      "generate__sample": True,
    },
  ],
)
def test_what_nothing_would_read_is_refused(keys):
  with pytest.raises(errors.UserError, match=r"found with .* expected"):
    changed(**keys)


def test_a_section_is_frozen():
  config = config_lib.from_config_dict(common.get_config())
  with pytest.raises(dataclasses.FrozenInstanceError):
    config.train.batch_size = 1
  assert isinstance(common.get_config(), ml_collections.ConfigDict)
