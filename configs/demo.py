"""The embedded demonstration: a made-up game store, no download.

  bash launch/demo.sh        # set-up, then --mode=pipeline

A documented generator (docs/demo_world.md) makes titles and users; a small
BPE tokenizer and a small LLaMA are trained from scratch on the text of the
train split; then the real job runs: LoRA fine-tuning, beam search, grounding,
popularity and CF injection, report. About 5 minutes on 2 CPU cores.
`:tiny` is the same in seconds, for tests; its numbers mean nothing.
"""

import ml_collections

from configs import common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the demo; `arg` "tiny" for a smoke run."""
  config = common.get_config()
  config.data.format = "synthetic"
  config.data.num_valid = 1000
  config.data.num_test = 1000
  config.model.arch.num_hidden_layers = 3
  config.model.arch.num_attention_heads = 2
  config.model.arch.num_key_value_heads = 2
  config.pretrain.num_steps = 1000
  config.pretrain.batch_size = 8
  config.data.num_train = 1024
  config.train.num_epochs = 3
  config.train.learning_rate = 1e-3
  config.train.micro_batch_size = 8
  config.train.max_length = 256
  config.generate.max_new_tokens = 32
  config.generate.batch_size = 64
  # The base has read all train rows, so CF sees them too.
  config.cf.num_train = -1
  config.cf.loss = "softmax"
  config.cf.num_epochs = 20
  config.cf.patience = 3
  config.cf.model = "most_pop,sasrec"
  config.ground.cf_model = "sasrec"
  return common.variant(config, arg)
