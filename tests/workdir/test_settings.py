import json
import os
import sys

import pytest

from bigrec_jax import config as config_lib, errors
from bigrec_jax.workdir import paths as paths_lib, records, settings, storage
from configs import common, demo


def flat(tree):
  return records.flatten(tree.to_dict())


@pytest.fixture
def kept(tmp_path):
  """Paths of a workdir that remembers the demo with another learning rate."""
  paths = paths_lib.Paths(tmp_path / "run")
  file = demo.get_config("tiny")
  tree = demo.get_config("tiny")
  tree.train.learning_rate = 0.5
  tree.mesh.fsdp = 8
  tree.recommend.k = 3
  tree.recommend.histories = "once.jsonl"
  config = config_lib.from_config_dict(tree)
  settings.remember(paths, config, "demo", file.to_dict())
  return paths


def test_what_is_remembered_is_the_configuration(kept):
  assert settings.recall(paths_lib.Paths(kept.root / "other")) is None
  found = settings.recall(kept)
  tree = common.get_config()
  tree.update_from_flattened_dict(records.flatten(found["config"]))
  config = config_lib.from_config_dict(tree)
  expected = demo.get_config("tiny")
  expected.train.learning_rate, expected.recommend.k = 0.5, 3
  # The mesh is of a machine, the histories are of one command.
  assert config == config_lib.from_config_dict(expected)
  assert found["name"] == "demo"


def test_a_program_elsewhere_may_have_configs_of_its_own(kept, monkeypatch):
  expected = settings.recall(kept)
  for name in ("configs", "configs.common"):
    monkeypatch.setitem(sys.modules, name, None)
  assert settings.recall(kept) == expected


def test_newer_keys_have_their_default_and_older_ones_go(kept):
  value = storage.read_json(kept.config)
  del value["seal"]  # Files of older versions have none.
  for part in ("config", "file"):
    del value[part]["train"]["packing"], value[part]["embed"]
  value["config"]["train"]["of_old"] = value["config"]["older"] = 1
  storage.write_json(kept.config, value)
  found = settings.recall(kept)["config"]
  assert found["train"]["packing"] is True
  assert found["embed"] == common.get_config().embed.to_dict()
  assert "of_old" not in found["train"] and "older" not in found


def test_flags_then_a_changed_file_then_memory(kept):
  remembered = settings.recall(kept)
  given = demo.get_config("tiny")
  file = flat(given)
  same, lines = settings.merge(flat(given), (), file, remembered)
  assert same["train.learning_rate"] == 0.5 and lines == []
  assert settings.merge(flat(given), (), None, remembered) == (same, [])
  # An edited file counts where it was edited and nowhere else.
  edited = demo.get_config("tiny")
  edited.train.batch_size, edited.mesh.tensor = 4, 2
  values, lines = settings.merge(flat(edited), (), flat(edited), remembered)
  assert lines == ["train.batch_size 16 -> 4 (file)"]
  assert values["train.learning_rate"] == 0.5 and values["mesh.tensor"] == 2
  # A flag counts even where it says what the file says.
  keys = ("train.learning_rate", "train.batch_size", "mesh.data")
  edited.mesh.data = 2
  values, lines = settings.merge(flat(edited), keys, flat(edited), remembered)
  rate = given.train.learning_rate
  assert lines == [
    "train.batch_size 16 -> 4 (flag)",
    f"train.learning_rate 0.5 -> {rate} (flag)",
  ]
  assert values["train.learning_rate"] == rate and values["mesh.data"] == 2


def test_relative_paths_keep_naming_their_files(kept, tmp_path, monkeypatch):
  folder, elsewhere = tmp_path / "there", tmp_path / "elsewhere"
  (folder / "model").mkdir(parents=True)
  elsewhere.mkdir()
  tree = demo.get_config("tiny")
  tree.model.path, tree.data.raw_dir = "model", "gone"
  monkeypatch.chdir(folder)
  settings.remember(kept, tree.to_dict(), "demo", tree.to_dict())
  assert settings.recall(kept)["config"]["model"]["path"] == "model"
  monkeypatch.chdir(elsewhere)
  found = settings.recall(kept)
  assert found["config"]["model"]["path"] == os.fspath(folder / "model")
  assert found["config"]["data"]["raw_dir"] == "gone"


def test_records_stand_in_for_what_is_not_remembered(tmp_path):
  paths = paths_lib.Paths(tmp_path)
  assert settings.of_records(paths) is None
  base = tmp_path / "elsewhere"
  base.mkdir()
  paths.adapter.mkdir()
  storage.write_json(
    paths.adapter / "adapter_config.json",
    {"base_model_name_or_path": os.fspath(base)},
  )
  storage.write_json(
    paths.record("adapter"), {"base": "0f", "seed": 5, "lora": {"rank": 3}}
  )
  found = settings.of_records(paths)["config"]
  assert found == {
    "model": {"path": os.fspath(base)},
    "lora": {"rank": 3},
    "seed": 5,
  }


@pytest.mark.parametrize("content", ['{"schema": 9}', "[]", "{"])
def test_a_memory_that_cannot_be_read_is_one_line(kept, content):
  kept.config.write_text(content)
  with pytest.raises(errors.UserError, match=r"config\.json"):
    settings.recall(kept)


def test_memory_is_plain_json(kept):
  value = json.loads(kept.config.read_text())
  assert value["schema"] == 1 and value["name"] == "demo"
  assert value["config"]["train"]["learning_rate"] == 0.5


@pytest.mark.parametrize("content", ["", "{", "null", "[]", '{"schema": 1}'])
def test_a_damaged_memory_says_what_to_do(kept, content):
  kept.config.write_text(content)
  with pytest.raises(settings.DamagedConfig, match=r"--config=<file>"):
    settings.recall(kept)
  given = demo.get_config("tiny")
  settings.remember(kept, given.to_dict(), "demo", given.to_dict())
  assert settings.recall(kept)["name"] == "demo"


def test_a_changed_byte_is_noticed_wherever_it_is(kept):
  whole = kept.config.read_bytes()
  for at in range(0, len(whole), 101):
    changed = bytearray(whole)
    changed[at] ^= 1
    kept.config.write_bytes(changed)
    try:
      settings.recall(kept)
    except errors.UserError:
      continue
    # Blanks between values say nothing.
    assert json.loads(changed) == json.loads(whole), at


def test_records_that_are_damaged_know_nothing(kept):
  kept.record("adapter").parent.mkdir()
  kept.record("adapter").write_text("[]")
  kept.record("base").write_text('{"seed": 3}')
  kept.adapter.mkdir()
  (kept.adapter / "adapter_config.json").write_text("null")
  assert settings.of_records(kept)["config"] == {"seed": 3}
