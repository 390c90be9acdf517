import dataclasses
import json

import jax
import numpy as np
import pytest

from bigrec_jax import errors, models
from bigrec_jax.config import MeshConfig
from bigrec_jax.devices import executor, sharding
from bigrec_jax.models import hf_import, peft_import
from bigrec_jax.testing import store
from bigrec_jax.training import trainer
from bigrec_jax.workdir import paths as paths_lib
from tests.training import tiny


def _fit(root, mesh, model, base, tokenizer, **train):
  return trainer.fit(
    model=model,
    params=base,
    lora=None,
    train=store.source("train", 13, 1),
    valid=store.source("valid", 7, 2),
    tokenizer=tokenizer,
    config=tiny.config(max_length=180, **train).train,
    seed=0,
    mesh=mesh,
    paths=paths_lib.Paths(root),
    fingerprint="f",
    base_name="base",
  )


def test_examples_in_adapter_and_curve_out(tmp_path, caplog):
  """Also: an odd last step, a fresh adapter, periodic checkpoints."""
  caplog.set_level("INFO")
  tokenizer = store.tokenizer(tmp_path / "tokenizer")
  arch = dataclasses.replace(tiny.LLAMA, vocab_size=tokenizer.vocab_size)
  mesh, model, _, _ = tiny.build()
  base = hf_import.init_base(arch, 0, "float32", mesh)
  lora = dataclasses.replace(tiny.lora_config(0.1), target_modules=("o_proj",))
  model = models.build(arch, tiny.config().model, lora, mesh)
  result = _fit(tmp_path, mesh, model, base, tokenizer, save_every_steps=1)
  paths = paths_lib.Paths(tmp_path)
  lines = paths.train_metrics.read_text().splitlines()
  keys = [set(json.loads(line)) for line in lines]
  step = {"step", "loss", "learning_rate", "grad_norm"}
  evaluation = {"step", "eval_loss"}
  assert keys == [step, step, evaluation] * 2
  assert result.books.step == 4
  saved_lora, saved = peft_import.load_adapter(paths.adapter, arch)
  assert saved_lora == lora
  jax.tree.map(np.testing.assert_array_equal, saved, result.adapter)
  count = 2 * 3 * (32 + 32)
  assert f"{count:,} trainable of" in caplog.text


@pytest.mark.parametrize(
  ("mesh", "changes", "rows"),
  [
    ((1, 1, 1), {"max_length": 512}, 1),
    ((1, 1, 1), {"max_length": 1024}, 1),
    ((1, 1, 1), {"max_length": 128}, 4),
    ((1, 1, 1), {"max_length": 24}, 8),
    ((1, 1, 1), {"max_length": 512, "packing": False}, 8),
    ((8, 1, 1), {"max_length": 512}, 8),
  ],
)
def test_a_cpu_takes_no_more_rows_than_fill_it(
  monkeypatch, mesh, changes, rows
):
  monkeypatch.setattr(executor, "_cores", lambda: 2)
  config = tiny.config(micro_batch_size=8, **changes).train
  devices = jax.devices()[: mesh[0]]
  placed = sharding.make_mesh(MeshConfig(*mesh), devices)
  assert trainer.micro_batch_rows(config, placed) == rows


def test_rows_that_do_not_divide_are_the_users_mistake(tmp_path):
  mesh, model, base, _ = tiny.build((8, 1, 1))
  with pytest.raises(errors.UserError, match="micro_batch_size: 4 found"):
    _fit(tmp_path, mesh, model, base, None, micro_batch_size=4)
