"""Hugging Face Trainer + PEFT behind a pipe; run by benchmarks/train.py.

One JSON object per line each way: {"micro_batch", "batch", "epochs"} in,
{"seconds", "tokens", "losses"} out. Settings are those of the published
train.py (docs/protocol.md): group_by_length, padding at the left to a
multiple of 8, AdamW, linear decay, clip 1.0; without its 8-bit base, which
needs CUDA.
"""

import json
import sys
import tempfile
import time

import peft
import torch
import transformers


class _Collator:
  """Pads at the left; counts the real tokens that it was given."""

  def __init__(self):
    self.tokens = 0

  def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
    width = max(len(row["input_ids"]) for row in rows)
    width = -(-width // 8) * 8
    fill = {"input_ids": 0, "attention_mask": 0, "labels": -100}
    self.tokens += sum(len(row["input_ids"]) for row in rows)
    return {
      name: torch.tensor(
        [[value] * (width - len(row[name])) + row[name] for row in rows]
      )
      for name, value in fill.items()
    }


def _run(
  model: torch.nn.Module, rows: list[dict], dtype: str, order: dict
) -> dict:
  collator = _Collator()
  with tempfile.TemporaryDirectory() as folder:
    arguments = transformers.TrainingArguments(
      output_dir=folder,
      per_device_train_batch_size=order["micro_batch"],
      gradient_accumulation_steps=order["batch"] // order["micro_batch"],
      num_train_epochs=order["epochs"],
      learning_rate=1e-4,
      warmup_steps=20,
      bf16=dtype == "bfloat16",
      logging_steps=1,
      save_strategy="no",
      eval_strategy="no",
      report_to=[],
      use_cpu=not torch.cuda.is_available(),
      train_sampling_strategy="group_by_length",
      remove_unused_columns=False,
      disable_tqdm=True,
    )
    trainer = transformers.Trainer(
      model=model,
      args=arguments,
      train_dataset=rows,
      data_collator=collator,
    )
    # Only the lines that come back through the pipe may be on stdout.
    trainer.remove_callback(transformers.PrinterCallback)
    start = time.perf_counter()
    trainer.train()
    if torch.cuda.is_available():
      torch.cuda.synchronize()
    seconds = time.perf_counter() - start
  losses = [x["loss"] for x in trainer.state.log_history if "loss" in x]
  return {"seconds": seconds, "tokens": collator.tokens, "losses": losses}


def main(
  directory: str,
  rows_path: str,
  threads: int,
  dtype: str,
  rank: int,
  targets: list[str],
) -> None:
  """Loads the model, says what it runs on, then answers orders."""
  torch.set_num_threads(threads)
  base = transformers.AutoModelForCausalLM.from_pretrained(
    directory, dtype=getattr(torch, dtype)
  )
  base.config.use_cache = False
  lora = peft.LoraConfig(
    r=rank,
    lora_alpha=16,
    lora_dropout=0.05,
    target_modules=targets,
    task_type="CAUSAL_LM",
  )
  model = peft.get_peft_model(base, lora)
  with open(rows_path, encoding="utf-8") as file:
    rows = [
      {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": ids}
      for ids in json.load(file)
    ]
  versions = {
    "torch": torch.__version__,
    "transformers": transformers.__version__,
    "peft": peft.__version__,
    "attention": base.config._attn_implementation,
    "device": "cuda" if torch.cuda.is_available() else "cpu",
  }
  print(json.dumps(versions), flush=True)
  for line in sys.stdin:
    order = json.loads(line)
    count = order.pop("examples")
    print(json.dumps(_run(model, rows[:count], dtype, order)), flush=True)


if __name__ == "__main__":
  main(
    sys.argv[1],
    sys.argv[2],
    int(sys.argv[3]),
    sys.argv[4],
    int(sys.argv[5]),
    sys.argv[6].split(","),
  )
