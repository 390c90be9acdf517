"""Your own data: a table of who had what, and one of items and titles.

  python main.py --config=configs/csv.py --mode=pipeline --workdir=runs/mine \
    --config.data.interactions=purchases.csv \
    --config.data.items=products.csv --config.model.path=/models/Qwen2.5-0.5B

CSV with any separator, JSON objects a line or Parquet (docs/data.md). Say in
`prompt.instruction` and `prompt.history` what your users do with what. SASRec
is trained beside the language model and injected, most popular and item kNN
stand beside it in the report. Without `model.path` a small LLaMA is
pretrained in place, as in the demo. `:tiny` is a run of seconds with a tiny
random model: it shows that the files are understood, not how well.
"""

import ml_collections

from configs import common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the configuration; `arg` "tiny" for a smoke run."""
  config = common.get_config()
  config.data.format = "csv"
  config.prompt.instruction = (
    "Given a list of items the user has chosen before, please recommend a new"
    " item that the user likes to the user."
  )
  config.prompt.history = "The user has chosen the following items before:"
  config.pretrain.num_steps = 1000
  config.cf.num_train = -1
  config.cf.loss = "softmax"
  config.cf.num_epochs = 50
  config.cf.patience = 5
  config.cf.model = "most_pop,item_knn,sasrec"
  config.ground.cf_model = "sasrec"
  return common.variant(config, arg)
