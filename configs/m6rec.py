"""M6-Rec (Cui et al., 2022): one model, several ways to score candidates.

  python main.py --config=configs/m6rec.py --mode=pipeline \
    --config.data.raw_dir=amazon --config.model.path=SmolLM2-135M-Instruct

A reconstruction of "M6-Rec: Generative Pretrained Language Models are
Open-Ended Recommender Systems" (arXiv 2205.08084), of which there is neither
code nor a public base: a scoring head on the last state, late interaction of
kept pieces, two towers, option tuning, and the base's length-normalised
likelihood, on the same candidates. The result is metrics/heads.json, with
quality and operations of each; there are no published numbers to compare with.
`task.heads.late_layers` should be set to a part of the base's layers (20 of 30
for SmolLM2-135M). Each of four heads reads a row of some 300 tokens, so an
epoch over 100,000 rows with it is 6e16 operations: three minutes at 40 % of an
H100's peak, by arithmetic and not measured.

`:tiny` is the made-up store in under two minutes on 2 CPU cores; its numbers
mean nothing.
"""

import ml_collections

from configs import common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns M6-Rec's heads; `arg` "tiny" for a smoke run."""
  config = common.get_config()
  config.task.name = "heads"
  config.data.format = "amazon"
  config.prompt.history = "Before, the customer has bought:"
  config.prompt.instruction = "Next, the customer wants to buy:"
  config.pretrain.num_steps = 1000
  config.train.objective = "heads"
  config.train.train_on_inputs = False
  config.train.packing = False
  config.train.batch_size = 32
  config.train.micro_batch_size = 8
  config.ground.cutoffs = (1, 10)
  config.task.heads.late_layers = 2
  config = common.variant(config, arg)
  if arg == "tiny":
    config.data.format = "synthetic"
    config.data.max_history = 5
    config.task.heads.late_layers = 1
    config.task.heads.negatives = 5
    config.task.heads.candidates = 12
    config.task.heads.soft_tokens = 4
    config.task.heads.width = 16
    config.train.max_length = 128
    config.train.length_buckets = (64,)
  return config
