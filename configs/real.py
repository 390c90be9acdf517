"""A real language model on real data, few-shot, on a CPU.

  bash launch/real.sh --config.data.raw_dir=ml-latest-small

`raw_dir` is the unpacked ml-latest-small.zip of GroupLens (ratings.csv and
movies.csv, plain or .gz); any other data.* may be named in its place, with
the words of prompt.instruction and prompt.history that go with it.
launch/real.sh names the base: SmolLM2-135M-Instruct, a Q4_1 GGUF file that is
dequantised once. One epoch over 1,024 rows with LoRA on all matrices, then
4 beams for 2,000 users of valid and of test: the first 2,000 of the published
samples. docs/quality.md has what comes out. `:tiny` is a smoke run of
seconds, with a tiny random model where no base is named.
"""

import ml_collections

from configs import common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the few-shot run; `arg` "tiny" for a smoke run."""
  config = common.get_config()
  config.data.format = "movielens"
  config.data.num_train = 1024
  config.data.num_valid = 2000
  config.data.num_test = 2000
  config.prompt.instruction = (
    "Given a list of movies the user has watched before, please recommend a"
    " new movie that the user likes to the user."
  )
  config.prompt.history = "The user has watched the following movies before:"
  config.lora.rank = 16
  config.lora.alpha = 32.0
  config.lora.target_modules = (
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
  )
  # 32 steps, of which a fifth warms up.
  config.train.batch_size = 32
  config.train.num_epochs = 1
  config.train.learning_rate = 1e-3
  config.train.warmup_steps = 6
  config.generate.max_new_tokens = 48
  # CF to inject: it sees all train rows, which take it minutes.
  config.cf.num_train = -1
  config.cf.loss = "softmax"
  config.cf.num_epochs = 50
  config.cf.patience = 5
  config.cf.model = "most_pop,sasrec"
  config.ground.cf_model = "sasrec"
  return common.variant(config, arg)
