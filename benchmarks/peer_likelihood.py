"""Log-probabilities of answers by Hugging Face, behind a pipe.

Run by benchmarks/likelihood.py. One JSON object per line each way:
{"batch_size", "cached", "users", "most"} in, of which the last says how many
answers of a user; {"seconds", "cpu_seconds", "logs"} out. An interpreter of
its own, so that neither side's thread pool disturbs the other.

Not cached, every text is prompt and answer together, as a batched loop over
candidates has it; the head is asked for the answer's positions alone. Cached,
the prompt is read once a user and its keys are repeated for each batch.
"""

import json
import sys
import time

import torch
import transformers


def _logs(logits: torch.Tensor, answers: list[list[int]]) -> list[float]:
  """Returns the sums of the answers' log-probabilities.

  Args:
    logits: [B, T, V], those that predict the answers first.
    answers: token ids.
  """
  found = []
  for row, ids in zip(logits, answers, strict=True):
    logs = torch.log_softmax(row[: len(ids)].float(), dim=-1)
    found.append(logs[torch.arange(len(ids)), torch.tensor(ids)].sum().item())
  return found


def _whole(
  model: transformers.PreTrainedModel,
  prompt: list[int],
  answers: list[list[int]],
) -> list[float]:
  """Reads texts of prompt and answer, padded at the left."""
  texts = [[*prompt, *ids[:-1]] for ids in answers]
  width, longest = max(map(len, texts)), max(map(len, answers))
  tokens = torch.zeros((len(texts), width), dtype=torch.long)
  mask = torch.zeros_like(tokens)
  for place, text in enumerate(texts):
    tokens[place, width - len(text) :] = torch.tensor(text)
    mask[place, width - len(text) :] = 1
  positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
  logits = model(
    input_ids=tokens,
    attention_mask=mask,
    position_ids=positions,
    logits_to_keep=longest,
  ).logits
  rows = [
    row[longest - len(ids) :] for row, ids in zip(logits, answers, strict=True)
  ]
  return [
    _logs(row[None], [ids])[0] for row, ids in zip(rows, answers, strict=True)
  ]


def _cached(
  model: transformers.PreTrainedModel,
  prompt: list[int],
  answers: list[list[int]],
  size: int,
) -> list[float]:
  """Reads the prompt once, then answers, padded at the right."""
  first = model(
    input_ids=torch.tensor([prompt]), use_cache=True, logits_to_keep=1
  )
  keys = [(layer.keys, layer.values) for layer in first.past_key_values.layers]
  found = []
  for start in range(0, len(answers), size):
    part = answers[start : start + size]
    width = max(len(ids) - 1 for ids in part)
    tokens = torch.zeros((len(part), width), dtype=torch.long)
    for place, ids in enumerate(part):
      tokens[place, : len(ids) - 1] = torch.tensor(ids[:-1])
    cache = transformers.DynamicCache()
    for number, (k, v) in enumerate(keys):
      shape = (len(part), -1, -1, -1)
      cache.update(k.expand(shape), v.expand(shape), number)
    logits = model(input_ids=tokens, past_key_values=cache).logits
    before = first.logits.expand(len(part), 1, -1)
    found += _logs(torch.cat([before, logits], dim=1), part)
  return found


def _run(
  model: transformers.PreTrainedModel, users: list[dict], order: dict
) -> dict:
  size, logs = order["batch_size"], []
  start, cpu = time.perf_counter(), time.process_time()
  with torch.inference_mode():
    for user in users[: order["users"]]:
      # Of one length together: as little padding as can be.
      places = sorted(
        range(len(user["answers"]))[: order["most"]],
        key=lambda n: -len(user["answers"][n]),
      )
      answers = [user["answers"][n] for n in places]
      if order["cached"]:
        found = _cached(model, user["prompt"], answers, size)
      else:
        found = [
          log
          for at in range(0, len(answers), size)
          for log in _whole(model, user["prompt"], answers[at : at + size])
        ]
      own = [0.0] * len(found)
      for place, log in zip(places, found, strict=True):
        own[place] = log
      logs.append(own)
  return {
    "seconds": time.perf_counter() - start,
    "cpu_seconds": time.process_time() - cpu,
    "logs": logs,
  }


def main(directory: str, users_path: str, threads: int, dtype: str) -> None:
  """Loads the model, says what it runs on, then answers orders."""
  torch.set_num_threads(threads)
  model = transformers.AutoModelForCausalLM.from_pretrained(
    directory, dtype=getattr(torch, dtype)
  ).eval()
  with open(users_path, encoding="utf-8") as file:
    users = json.load(file)
  versions = {
    "torch": torch.__version__,
    "transformers": transformers.__version__,
    "attention": model.config._attn_implementation,
    "device": "cpu",
  }
  print(json.dumps(versions), flush=True)
  for line in sys.stdin:
    print(json.dumps(_run(model, users, json.loads(line))), flush=True)


if __name__ == "__main__":
  main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
