"""LMRecSys (Zhang et al., 2021) on MovieLens: titles ranked by likelihood.

  python main.py --config=configs/lmrecsys.py --mode=pipeline \
    --config.data.raw_dir=ml-1m --config.model.path=gpt2-medium-sized-llama

Reproduces "Language Models as Recommender Systems: Evaluations and
Limitations" (yuhui-zh15/LMRecSys) in its causal form: prompt, scores, losses
over items, R@20, MRR@20 and NDCG@20 among all titles, on sessions of up to 12
movies. Zero-shot, which is all that was published of causal models, is

    --config.task.title_likelihood.zero_shot=True

R@20 .0667 with GPT-2 on 750 users of MovieLens-1M whose first 7 movies are the
session, .0733 less 40 % of the bias. The masked form is not here yet, and users
are split by time, so these are not numbers to compare with; docs/systems.md
says what differs. A step reads every title behind every prompt: some 16,000
tokens a user on MovieLens-1M, 100 times the prompt; with

    --config.task.title_likelihood.negatives=99

about 500. An epoch over the 800,000 train rows of MovieLens-1M with
SmolLM2-135M is then 2e17 operations, nine minutes at 40 % of an H100's peak,
and with all titles 7e18, five hours; by arithmetic and not measured.

`:tiny` is the made-up store in under two minutes on 2 CPU cores; its numbers
mean nothing.
"""

import ml_collections

from configs import common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns LMRecSys; `arg` "tiny" for a smoke run."""
  config = common.get_config()
  config.task.name = "title_likelihood"
  config.task.title_likelihood.min_history = 2  # Sessions of 3 at least,
  config.data.max_history = 11  # and of 12 at most, the target included.
  config.data.format = "movielens"
  config.prompt.style = "sentence"
  config.prompt.history = "A user watched"
  config.prompt.instruction = "Now the user may want to watch"
  config.pretrain.num_steps = 1000
  config.train.objective = "item_hinge"  # item_softmax is the other one.
  config.train.train_on_inputs = False
  config.train.batch_size = 32
  config.train.micro_batch_size = 8
  config.train.packing = False
  config.train.learning_rate = 5e-5
  config.train.warmup_steps = 0
  config.ground.cutoffs = (20,)
  config.ground.cf_model = "gru4rec"
  # As published beside it.
  config.cf.model = "gru4rec"
  config.cf.hidden_size = 128
  config.cf.dropout = 0.5
  config.cf.loss = "softmax"
  config = common.variant(config, arg)
  if arg == "tiny":
    config.data.format = "synthetic"
    config.data.max_history = 5
    config.task.title_likelihood.negatives = 7
    config.train.max_length = 128
    config.train.length_buckets = (64,)
  return config
