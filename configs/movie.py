"""MovieLens with the published Movie protocol (docs/protocol.md).

  python main.py --config=configs/movie.py --mode=pipeline \
    --config.data.raw_dir=ml-10M100K --config.model.path=llama-7b \
    --config.data.num_train=1024

`raw_dir` holds ratings.dat and movies.dat, or ratings.csv and movies.csv
(plain or .gz). Published with LLaMA-7B, 1,024 training samples, mean of three
seeds on 5,000 test rows: HR@10 .0366, NDCG@10 .0257; with DROS scores
injected .0813 and .0427. docs/reproduce.md has memory, time and cost. Without
`model.path` a small LLaMA is pretrained in place, as in the demo.
"""

import ml_collections

from configs import common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the Movie protocol; `arg` "tiny" for a smoke run."""
  config = common.get_config()
  config.data.format = "movielens"
  config.prompt.instruction = (
    "Given a list of movies the user has watched before, please recommend a"
    " new movie that the user likes to the user."
  )
  config.prompt.history = "The user has watched the following movies before:"
  config.ground.duplicates = "last"  # As the published Movie scripts.
  config.pretrain.num_steps = 1000
  return common.variant(config, arg)
