"""Amazon Toys in BIGRec's JSON form (instruction, input, output).

  python main.py --config=configs/toys.py --mode=pipeline \
    --config.data.train=train_5000.json.gz \
    --config.data.valid=valid.json.gz --config.data.test=test.json.gz \
    --config.data.catalogue=id2name.json.gz --config.model.path=llama-7b

The rows carry their own instruction. BIGRec with LLaMA2-7B on this split is
published with HR@20 .0420 and NDCG@20 .0207.
"""

import ml_collections

from configs import common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the Toys protocol; `arg` "tiny" for a smoke run."""
  config = common.get_config()
  config.data.format = "bigrec"
  config.prompt.instruction = (
    "Given a list of toys the user has played before, please recommend a new"
    " toy that the user likes to the user."
  )
  config.prompt.history = "The user has played the following toys before: "
  config.pretrain.num_steps = 1000
  return common.variant(config, arg)
