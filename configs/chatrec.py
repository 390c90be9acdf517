"""Chat-REC (Gao et al., 2023): a chat model in front of the recommender.

  python main.py --config=configs/chatrec.py --mode=pipeline \
    --config.data.raw_dir=ml-latest-small \
    --config.model.path=SmolLM2-135M-Instruct.Q4_1.gguf
  python main.py --mode=chat --workdir=runs/chatrec --history="Heat (1995)"

A reconstruction of arXiv 2303.14524 (no public code): a chat model decides
whether the recommender is called, puts its 20 proposals in its own order,
shows 5 and explains them. The recommender is BIGRec on the same base with what
valid likes best; the chat model is that base without its adapter, or

  --config.task.chat.model=Qwen2.5-7B-Instruct

The result is metrics/chat.json: HR and NDCG of the chat model's first 5, of
the recommender's, and of their difference. No published number is comparable
(ChatGPT, ML-100K, 200 users), and none is expected to be reached by a small
model. Cost beside BIGRec's pipeline: one reading of 500 tokens a user.

`:tiny` is the made-up store in under two minutes on 2 CPU cores; its numbers
mean nothing.
"""

import ml_collections

from configs import common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns Chat-REC; `arg` "tiny" for a smoke run."""
  config = common.get_config()
  config.task.name = "chat"
  config.task.chat.noun = "movie"
  config.data.format = "movielens"
  config.prompt.style = "chat"
  config.prompt.instruction = (
    "Given a list of movies the user has watched before, please recommend a"
    " new movie that the user likes to the user."
  )
  config.prompt.history = "The user has watched the following movies before:"
  config.pretrain.num_steps = 1000
  config.train.train_on_inputs = False
  config.generate.prompt_buckets = (64, 128, 256, 384, 512, 768, 1024)
  config.ground.cf_model = "sasrec"
  config = common.variant(config, arg)
  if arg == "tiny":
    config.data.format = "synthetic"
    config.prompt.style = "consistent"  # The made-up base has no template.
    config.task.chat.noun = "game"
    config.task.chat.num_users = 8
    config.task.chat.max_new_tokens = 8
    config.data.num_valid = config.data.num_test = 16
  return config
