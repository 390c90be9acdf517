"""Amazon Books (5-core) with the published Game protocol.

  python main.py --config=configs/books.py --mode=pipeline \
    --config.data.raw_dir=amazon --config.model.path=llama-7b \
    --config.data.num_train=1024

`raw_dir` holds Books_5.json and meta_Books.json (plain or .gz). The paper has
no Books table.
"""

import ml_collections

from configs import common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the Books protocol; `arg` "tiny" for a smoke run."""
  config = common.get_config()
  config.data.format = "amazon"
  config.prompt.instruction = (
    "Given a list of books the user has read before, please recommend a new"
    " book that the user likes to the user."
  )
  config.prompt.history = "The user has read the following books before:"
  config.ground.gamma_grid = "game_ci"
  config.pretrain.num_steps = 1000
  return common.variant(config, arg)
