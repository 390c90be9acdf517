"""RSLLM (Zheng et al., 2024): item vectors and titles as one language.

  python main.py --config=configs/rsllm.py --mode=prepare \
    --workdir=runs/steam --config.data.raw_dir=steam \
    --config.data.format=csv --config.task.choose.domain=game
  python main.py --config=configs/rsllm.py --mode=pipeline \
    --config.data.raw_dir=ml-100k --config.model.path=llama-2-7b \
    --config.train.also=runs/steam

A reconstruction: there is no public code and its tables could not be had, so
there is no number to expect. LLaRA's questions and training (configs/llara.py)
with item vectors from the first step, CALRec's contrastive terms, and a first
stage on texts alone that also reads the workdirs of `train.also`.
docs/systems.md says what is decided here. What a run takes has not been
measured: by arithmetic thrice a run of LLaRA (configs/llara.py), two stages of
as many epochs whose steps have one more forward pass and targets on their own.

Full ranking, alone and with the CF model fused, in a workdir of its own:

  python main.py --config=configs/rsllm.py:full --mode=pipeline \
    --config.data.raw_dir=ml-100k --config.model.path=llama-2-7b

Without each of its parts, as one table (benchmarks/ablations.py):

  python -m benchmarks.ablations --config=configs/rsllm.py:tiny \
    --work=runs/rsllm-parts

`:tiny` and `:tiny_full` are the made-up store in under two minutes on 2 CPU
cores; their numbers mean nothing.
"""

import ml_collections

from configs import llara

ABLATIONS = {
  "rsllm": {},
  "without stage 1": {"train.first.num_epochs": 0},
  "without target-target": {"train.contrastive.target_weight": 0.0},
  "without user-target": {"train.contrastive.user_weight": 0.0},
  "without both": {
    "train.objective": "language_model",
    "train.first.objective": "language_model",
  },
  "without soft tokens": {"task.choose.schedule": "text"},
}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns RSLLM on MovieLens.

  Args:
    arg: "tiny" for a smoke run; "full", or "tiny_full", for full ranking.
  """
  size, full = arg, False
  if arg in ("full", "tiny_full"):
    size, full = arg.removesuffix("full").removesuffix("_"), True
  config = llara.get_config(size)
  config.task.name = "rsllm"
  config.task.choose.schedule = "direct"
  config.train.objective = "contrastive"
  config.train.first.objective = "contrastive"
  config.train.first.num_epochs = config.train.num_epochs
  config.train.first.learning_rate = config.train.learning_rate
  if full:
    config.task.rsllm.full_ranking = True
    config.task.choose.bare_titles = False
    config.task.choose.min_history = 0
    config.ground.cf_model = "sasrec"
    config.generate.num_beams = 2 if size else 4
  return config
