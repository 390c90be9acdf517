"""TALLRec (Bao et al., RecSys 2023): will the user like the movie, Yes or No?

  python main.py --config=configs/tallrec.py --mode=pipeline \
    --config.data.raw_dir=ml-100k --config.model.path=llama-7b \
    --config.model.adapter=alpaca-lora-7b --config.data.num_train=64

Reproduces the table's movie columns: samples, prompt, LoRA and training of
the published finetune_rec.py, ROC-AUC on 1,000 test samples. Published with
LLaMA-7B that starts from alpaca-lora's adapter: .6724, .6748 and .7198 with
`data.num_train` 16, 64 and 256; CF models of the same samples are near .50.
200 steps of 64 samples and 20 AUCs of 1,000: under an hour on one 80 GB GPU
by `--mode=plan`'s roofline, not measured. `raw_dir` holds u.data and u.item,
or ratings and movies as for configs/movie.py. What differs from the published
code is in docs/systems.md. Books: `data.format=csv`, `task.yes_no.noun=book`,
`task.yes_no.split=users`, `task.yes_no.threshold=5`.

`:tiny` is the made-up store in under two minutes on 2 CPU cores; its numbers
mean nothing.
"""

import ml_collections

from configs import common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns TALLRec's movie protocol; `arg` "tiny" for a smoke run."""
  config = common.get_config()
  config.task.name = "yes_no"
  config.data.format = "movielens"
  config.data.num_train = 64
  config.data.num_valid = -1
  config.data.num_test = -1
  config.prompt.style = "tallrec"
  config.train.micro_batch_size = 32
  config.train.num_epochs = 200
  config.train.train_on_inputs = False
  config.train.early_stopping_patience = 10
  config.pretrain.num_steps = 1000
  config = common.variant(config, arg)
  if arg == "tiny":
    config.data.format = "synthetic"
    config.data.max_history = 5
    config.data.num_valid = config.data.num_test = 64
    config.task.yes_no.noun = "game"
    config.task.yes_no.eval_steps = 2
    # Large enough for the two answers to be tokens.
    config.pretrain.vocab_size = 768
    config.pretrain.max_length = 256
  return config
