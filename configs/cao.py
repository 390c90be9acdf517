"""Cao et al. (NAACL Findings 2024): recommendation knowledge as samples.

  python main.py --config=configs/cao.py --mode=pipeline \
    --config.data.raw_dir=amazon --config.model.path=SmolLM2-135M-Instruct

A reconstruction of "Aligning Large Language Models with Recommendation
Knowledge" (arXiv 2404.00245): no code is public, and prompts, mixture and
tables could not be had; docs/systems.md says what is ours. A decoder learns
retrieval, ranking (the target among 100 candidates) and rating prediction,
mixed with masked items (MIM), masked words (MLM) and preferences (BPR), one
sample of each for each train row. Published with FLAN-T5 on Amazon Toys, Beauty
and Sports; there is no number to reproduce here. Prompts
with 100 titles are some 1,500 tokens, so ranking is most of the work:
--config.task.auxiliary.weights.ranking=0.1 has a tenth of them. A train row's
six samples are some 2,300 tokens an epoch, so ten epochs over 38,000 rows with
SmolLM2-135M are 5e17 operations: twenty minutes at 40 % of an H100's peak, by
arithmetic and not measured.

`raw_dir` holds Toys_and_Games_5.json and its metadata, as for configs/game.py;
`--config.data.format=sequences` is the paper's leave-one-out split, without
ratings, so that rating prediction is left out. Without one of the three:

  --config.task.auxiliary.weights.mim=0

`python -m benchmarks.auxiliary` runs that for each of them and several seeds.
The result is metrics/auxiliary.json.

`:tiny` is the made-up store in under two minutes on 2 CPU cores; its numbers
mean nothing.
"""

import ml_collections

from configs import common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns Cao et al.; `arg` "tiny" for a smoke run."""
  config = common.get_config()
  config.task.name = "auxiliary"
  config.data.format = "amazon"
  config.prompt.instruction = (
    "Given the items that a user has chosen, oldest first, write the item that"
    " the user chooses next."
  )
  config.prompt.history = "The user has chosen:"
  config.lora.rank = 64
  config.lora.alpha = 128.0
  config.lora.target_modules = (
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
  )
  config.train.learning_rate = 3e-4
  config.train.num_epochs = 10
  config.train.max_length = 2048  # Of 100 titles and more.
  config.train.train_on_inputs = False
  config.pretrain.num_steps = 1000
  config.generate.num_beams = 10
  config.generate.max_new_tokens = 256  # Of the longest title.
  config.generate.length_penalty = 0.0  # A score is a log-probability.
  config.generate.constrained = True
  config.generate.prompt_buckets = (128, 192, 256, 384, 512, 1024, 1536, 2048)
  config.ground.cutoffs = (1, 5, 10)
  config.ground.cf_model = "sasrec"
  config = common.variant(config, arg)
  if arg == "tiny":
    config.data.format = "synthetic"
    config.lora.rank = 8
    config.lora.alpha = 16.0
    config.task.auxiliary.candidates = 8
    config.train.max_length = 768
    config.generate.num_beams = 5
    config.generate.max_new_tokens = 256
    config.generate.prompt_buckets = (384, 768)
    config.ground.cutoffs = (1, 5)
  return config
