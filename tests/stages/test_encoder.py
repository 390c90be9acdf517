"""Grounding with a text encoder of its own, end to end."""

import json

import numpy as np
import pytest

from tests.models.bert import tiny
from tests.stages import command

pytestmark = pytest.mark.slow


def test_ground_eval_by_another_encoder_and_back(tmp_path):
  tiny.write(tmp_path / "bert", max_position_embeddings=64)
  root = tmp_path / "run"

  def ground(*flags):
    command.run(
      "--config=configs/demo.py:tiny",
      "--mode=ground_eval",
      f"--workdir={root}",
      "--config.train.num_epochs=1",
      "--config.pretrain.num_steps=0",
      "--config.ground.cf_model=",
      "--config.ground.injections=('none',)",
      *flags,
      devices=1,
    )
    record = json.loads((root / "embeddings" / "embeddings.json").read_text())
    found = json.loads((root / "metrics" / "ground_eval.json").read_text())
    with np.load(root / "ranks" / "test.npz") as ranks:
      ranks = {name: ranks[name] for name in ranks}
    return record, found, ranks

  own = f"--config.embed.model.path={tmp_path / 'bert'}"
  record, found, ranks = ground(own)
  assert record["shape"] == [found["num_items"], 24]
  assert record["base"] == found["fingerprints"]["encoder"]
  assert ranks and all(len(row) for row in ranks.values())
  base, back, others = ground("--config.embed.model.path=")
  assert "encoder" not in back["fingerprints"]
  assert base["base"] == back["fingerprints"]["base"] != record["base"]
  assert base["shape"][1] != 24
  assert any((ranks[name] != others[name]).any() for name in ranks)
