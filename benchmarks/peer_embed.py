"""Hugging Face's last states behind a pipe; run by benchmarks/embed.py.

One JSON object per line each way: {"batch_size", "sort"} in, {"seconds"} out;
the vectors go to a file. As the published embedding.ipynb: padding at the
left, `hidden_states[-1][:, -1]`, in file order unless sorted.
"""

import json
import sys
import time

import numpy as np
import torch
import transformers


def _run(
  model: transformers.PreTrainedModel, texts: list[list[int]], order: dict
) -> tuple[float, np.ndarray]:
  places = list(range(len(texts)))
  if order["sort"]:
    places.sort(key=lambda place: -len(texts[place]))
  vectors = np.zeros((len(texts), model.config.hidden_size), np.float32)
  start = time.perf_counter()
  for first in range(0, len(places), order["batch_size"]):
    rows = places[first : first + order["batch_size"]]
    width = max(len(texts[row]) for row in rows)
    tokens = torch.zeros((len(rows), width), dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for place, row in enumerate(rows):
      tokens[place, width - len(texts[row]) :] = torch.tensor(texts[row])
      mask[place, width - len(texts[row]) :] = 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.inference_mode():
      found = model(
        input_ids=tokens, attention_mask=mask, position_ids=positions
      )
    vectors[rows] = found.last_hidden_state[:, -1].float().numpy()
  return time.perf_counter() - start, vectors


def main(
  directory: str, texts_path: str, vectors_path: str, threads: int, dtype: str
) -> None:
  """Loads the model, says what it runs on, then answers orders."""
  torch.set_num_threads(threads)
  model = transformers.AutoModel.from_pretrained(
    directory, dtype=getattr(torch, dtype)
  ).eval()
  with open(texts_path, encoding="utf-8") as file:
    texts = json.load(file)
  versions = {
    "torch": torch.__version__,
    "transformers": transformers.__version__,
    "attention": model.config._attn_implementation,
  }
  print(json.dumps(versions), flush=True)
  for line in sys.stdin:
    seconds, vectors = _run(model, texts, json.loads(line))
    np.save(vectors_path, vectors)
    print(json.dumps({"seconds": seconds}), flush=True)


if __name__ == "__main__":
  main(*sys.argv[1:4], int(sys.argv[4]), sys.argv[5])
