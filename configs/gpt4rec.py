"""GPT4Rec-LLaMA on Amazon Video Games: beams are queries, BM25 finds items.

  python main.py --config=configs/gpt4rec.py --mode=pipeline \
    --config.data.raw_dir=amazon --config.model.path=llama-7b

Reproduces GPT4Rec (Li et al., 2023) with LLaMA and LoRA in place of GPT-2, the
row GPT4Rec-LLaMA of BIGRec's tables, on all train rows with the published
learning rate, warm-up and epochs: some 19,000 steps of 128 short texts (1e19
operations: nine hours at 40 % of an H100's peak, by arithmetic and not
measured). BIGRec
has only the few-shot row, HR@20 .0002 on Game; it is trained with

    --config.data.num_train=1024 --config.train.warmup_steps=20

GPT4Rec itself reports recall@40 .2040 on Beauty, with GPT-2, histories without
repeats and another split: no number to compare with. There is no published
code; docs/systems.md says what is a reconstruction. Twenty queries of a user,
so recall@20 takes one item of each, the published best setting.

`:tiny` is the made-up store in under two minutes on 2 CPU cores; its numbers
mean nothing.
"""

import ml_collections

from configs import common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns GPT4Rec-LLaMA; `arg` "tiny" for a smoke run."""
  config = common.get_config()
  config.task.name = "query"
  config.data.format = "amazon"
  config.prompt.history = "Previously, the customer has bought:"
  config.prompt.instruction = "In the future, the customer wants to buy"
  config.pretrain.num_steps = 1000
  config.train.num_epochs = 20
  config.train.warmup_steps = 2000
  config.train.train_on_inputs = False
  config.generate.num_beams = 20
  config.generate.batch_size = 8
  config.ground.cutoffs = (5, 10, 20, 40)
  config.ground.cf_model = "sasrec"
  config = common.variant(config, arg)
  if arg == "tiny":
    config.data.format = "synthetic"
    config.generate.num_beams = 4
  return config
