"""One training run on both sides: transformers' Trainer with PEFT, and ours."""

import json

import jax
import numpy as np
import peft
import torch
import transformers

from bigrec_jax import config as config_lib, models
from bigrec_jax.data.text import encoding
from bigrec_jax.devices import sharding
from bigrec_jax.models import hf_import, peft_import
from bigrec_jax.testing import store
from bigrec_jax.training import trainer
from bigrec_jax.workdir import paths as paths_lib
from tests.training import tiny

EPOCHS, BATCH, ACCUMULATION = 3, 8, 4
TRAIN = store.source("train", 29, 1)  # The last step has 5 examples.
VALID = store.source("valid", 11, 2)


def config(**train):
  return tiny.config(
    **{
      "batch_size": BATCH,
      "num_epochs": EPOCHS,
      "shuffle": False,
      "learning_rate": 1e-2,
      "warmup_steps": 3,
      "max_length": 180,
      "length_buckets": (96, 128),
    }
    | train
  )


def rows_for_trainer(split, tokenizer, config):
  """Returns the examples as Trainer wants them."""
  encoded = encoding.EncodedExamples(
    split,
    tokenizer,
    max_length=config.max_length,
    train_on_inputs=config.train_on_inputs,
  ).get(range(len(split)))
  rows = []
  for example in encoded:
    ids = example.tokens.tolist()
    hidden = 0 if config.train_on_inputs else example.first_label
    labels = ([-100] * hidden + ids[hidden:])[: len(ids)]  # Some are cut.
    # Left padding as published makes the last pad predict BOS, in rows that
    # happen to be padded. We never count that (docs/reference.md).
    labels[0] = -100
    rows.append(
      {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels}
    )
  return rows


class Peer:
  """Transformers' Trainer on a tiny LLaMA with a PEFT adapter."""

  def __init__(self, root, config):
    torch.manual_seed(0)
    self.base_dir = root / "base"
    self.start_dir = root / "start"
    self.tokenizer = store.tokenizer(self.base_dir)
    arch = transformers.LlamaConfig(
      vocab_size=self.tokenizer.vocab_size,
      hidden_size=32,
      intermediate_size=48,
      num_hidden_layers=2,
      num_attention_heads=4,
      num_key_value_heads=2,
      max_position_embeddings=256,
      tie_word_embeddings=False,
      # Large enough that losses move.
      initializer_range=0.2,
    )
    model = transformers.LlamaForCausalLM(arch)
    model.save_pretrained(self.base_dir)
    lora = peft.LoraConfig(
      r=3,
      lora_alpha=16,
      lora_dropout=0.0,
      target_modules=["q_proj", "v_proj"],
      task_type="CAUSAL_LM",
    )
    self.model = peft.get_peft_model(model, lora)
    for name, weight in self.model.named_parameters():
      if "lora_B" in name:  # So that A has a gradient from the start.
        torch.nn.init.normal_(weight, std=0.1)
    self.model.save_pretrained(self.start_dir)
    self._fit(root, config)

  def _fit(self, root, config):
    pad = self.tokenizer.pad_id

    def collate(rows):
      width = max(len(row["input_ids"]) for row in rows)
      fill = {"input_ids": pad, "attention_mask": 0, "labels": -100}
      return {
        key: torch.tensor(
          [[value] * (width - len(r[key])) + r[key] for r in rows]
        )
        for key, value in fill.items()
      }  # Padded at the left, as the published train.py does.

    arguments = transformers.TrainingArguments(
      output_dir=str(root / "trainer"),
      per_device_train_batch_size=BATCH // ACCUMULATION,
      # One batch holds the set: see Trainer.evaluate on means of means.
      per_device_eval_batch_size=len(VALID),
      gradient_accumulation_steps=ACCUMULATION,
      num_train_epochs=config.num_epochs,
      learning_rate=config.learning_rate,
      warmup_steps=config.warmup_steps,
      lr_scheduler_type="linear",
      optim="adamw_torch",
      logging_steps=1,
      eval_strategy="epoch",
      save_strategy="no",
      report_to=[],
      use_cpu=True,
      train_sampling_strategy="sequential",
      remove_unused_columns=False,
      disable_tqdm=True,
    )
    run = transformers.Trainer(
      model=self.model,
      args=arguments,
      train_dataset=rows_for_trainer(TRAIN, self.tokenizer, config),
      eval_dataset=rows_for_trainer(VALID, self.tokenizer, config),
      data_collator=collate,
    )
    run.train()
    self.history = run.state.log_history
    self.end_dir = root / "end"
    self.model.save_pretrained(self.end_dir)


def ours(root, peer, config, mesh_sizes=(1, 1, 1)):
  """Trains from the peer's start; returns curve and final adapter."""
  devices = jax.devices()[: int(np.prod(mesh_sizes))]
  mesh = sharding.make_mesh(config_lib.MeshConfig(*mesh_sizes), devices)
  model_config = tiny.config().model
  arch, base = hf_import.load_base(peer.base_dir, model_config, mesh)
  lora_config, lora = peft_import.load_adapter(peer.start_dir, arch)
  model = models.build(arch, model_config, lora_config, mesh)
  paths = paths_lib.Paths(root / "ours")
  trainer.fit(
    model=model,
    params=base,
    lora=lora,
    train=TRAIN,
    valid=VALID,
    tokenizer=peer.tokenizer,
    config=config,
    seed=0,
    mesh=mesh,
    paths=paths,
    fingerprint="f",
    base_name=str(peer.base_dir),
  )
  text = paths.train_metrics.read_text()
  curve = [json.loads(line) for line in text.splitlines()]
  return curve, paths.adapter, arch
