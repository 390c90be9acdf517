"""Hugging Face generate behind a pipe; run by benchmarks/generate.py.

One JSON object per line each way: {"batch_size", "sort", "max_new_tokens",
"num_beams"} in, {"seconds", "tokens"} out. It runs in an interpreter of its
own, so that neither side's thread pool disturbs the other.
"""

import json
import sys
import time

import torch
import transformers


def _batch(rows: list[list[int]]) -> dict[str, torch.Tensor]:
  width = max(map(len, rows))
  tokens = torch.zeros((len(rows), width), dtype=torch.long)
  mask = torch.zeros_like(tokens)
  for place, row in enumerate(rows):
    tokens[place, width - len(row) :] = torch.tensor(row)
    mask[place, width - len(row) :] = 1
  return {"input_ids": tokens, "attention_mask": mask}


def _run(
  model: transformers.PreTrainedModel, prompts: list[list[int]], order: dict
) -> dict:
  places = list(range(len(prompts)))
  if order["sort"]:
    places.sort(key=lambda place: -len(prompts[place]))
  settings = transformers.GenerationConfig(
    num_beams=order["num_beams"],
    num_return_sequences=order["num_beams"],
    max_new_tokens=order["max_new_tokens"],
    do_sample=False,
    eos_token_id=2,
    pad_token_id=0,
  )
  tokens = [[] for _ in prompts]
  if torch.cuda.is_available():
    torch.cuda.synchronize()
  start = time.perf_counter()
  for first in range(0, len(places), order["batch_size"]):
    rows = places[first : first + order["batch_size"]]
    batch = _batch([prompts[row] for row in rows])
    width = batch["input_ids"].shape[1]
    batch = {name: value.to(model.device) for name, value in batch.items()}
    with torch.inference_mode():
      found = model.generate(**batch, generation_config=settings)
    found = found[:, width:].tolist()
    for place, row in enumerate(rows):
      beams = order["num_beams"]
      tokens[row] = found[place * beams : (place + 1) * beams]
  return {"seconds": time.perf_counter() - start, "tokens": tokens}


def main(directory: str, prompts_path: str, threads: int, dtype: str) -> None:
  """Loads the model, says what it runs on, then answers orders."""
  torch.set_num_threads(threads)
  device = "cuda" if torch.cuda.is_available() else "cpu"
  model = transformers.AutoModelForCausalLM.from_pretrained(
    directory, dtype=getattr(torch, dtype)
  )
  model = model.eval().to(device)
  with open(prompts_path, encoding="utf-8") as file:
    prompts = json.load(file)
  versions = {
    "torch": torch.__version__,
    "transformers": transformers.__version__,
    "attention": model.config._attn_implementation,
    "device": device,
  }
  print(json.dumps(versions), flush=True)
  for line in sys.stdin:
    print(json.dumps(_run(model, prompts, json.loads(line))), flush=True)


if __name__ == "__main__":
  main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
