"""Amazon Video Games (2018, 5-core) with the published Game protocol.

  python main.py --config=configs/game.py --mode=pipeline \
    --config.data.raw_dir=amazon --config.model.path=llama-7b \
    --config.data.num_train=1024

`raw_dir` holds Video_Games_5.json and meta_Video_Games.json (plain or .gz).
Published with LLaMA-7B, 1,024 training samples, mean of three seeds on 5,000
test rows: HR@10 .0329, NDCG@10 .0216; with DROS scores injected .0474 and
.0302. docs/reproduce.md has memory, time and cost. Without `model.path` a
small LLaMA is pretrained in place.
"""

import ml_collections

from configs import common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the Game protocol; `arg` "tiny" for a smoke run."""
  config = common.get_config()
  config.data.format = "amazon"
  config.ground.gamma_grid = "game_ci"
  config.pretrain.num_steps = 1000
  return common.variant(config, arg)
