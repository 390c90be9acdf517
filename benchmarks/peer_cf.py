"""SASRec in PyTorch, the peer of benchmarks.cf, in a process of its own.

  python peer_cf.py FOLDER

FOLDER holds task.json and the arrays that benchmarks/cf.py writes. Prints one
JSON object. Nothing of bigrec_jax is imported. Written to be fast: batches
are cut from tensors that are already there (no DataLoader, no Python loop over
rows), negatives are drawn for a whole batch, the rank of a target is a count.
"""

import json
import math
import pathlib
import sys
import time

import numpy as np
import torch
from torch import nn


class Block(nn.Module):
  """Post-norm encoder block with the widths of the S3-Rec repository."""

  def __init__(self, width: int, heads: int, rate: float):
    super().__init__()
    self.heads = heads
    self.qkv = nn.Linear(width, 3 * width)
    self.mixed = nn.Linear(width, width)
    self.up, self.down = (
      nn.Linear(width, 4 * width),
      nn.Linear(4 * width, width),
    )
    self.ln1 = nn.LayerNorm(width, eps=1e-12)
    self.ln2 = nn.LayerNorm(width, eps=1e-12)
    self.rate = rate
    self.drop = nn.Dropout(rate)

  def forward(self, x, bias):
    """Returns [B, L, D]; bias [B, 1, L, L] is added to the scores."""
    batch, length, width = x.shape
    q, k, v = (
      part.view(batch, length, self.heads, -1).transpose(1, 2)
      for part in self.qkv(x).chunk(3, dim=-1)
    )
    mixed = nn.functional.scaled_dot_product_attention(
      q, k, v, bias, dropout_p=self.rate if self.training else 0.0
    )
    mixed = mixed.transpose(1, 2).reshape(batch, length, width)
    x = self.ln1(x + self.drop(self.mixed(mixed)))
    inner = self.down(nn.functional.gelu(self.up(x)))
    return self.ln2(x + self.drop(inner))


class SasRec(nn.Module):
  """Scores items with its input embedding; left padding with id num_items."""

  def __init__(self, task: dict):
    super().__init__()
    width = task["hidden_size"]
    self.item = nn.Embedding(task["num_items"] + 1, width)
    self.place = nn.Embedding(task["max_length"], width)
    nn.init.normal_(self.item.weight, std=0.02)
    nn.init.normal_(self.place.weight, std=0.02)
    self.ln = nn.LayerNorm(width, eps=1e-12)
    self.drop = nn.Dropout(task["dropout"])
    self.blocks = nn.ModuleList(
      Block(width, task["num_heads"], task["dropout"])
      for _ in range(task["num_layers"])
    )
    self.pad = task["num_items"]

  def forward(self, items):
    """Returns states [B, L, D] of items [B, L]."""
    length = items.shape[1]
    x = self.drop(self.ln(self.item(items) + self.place.weight[None]))
    future = torch.triu(torch.ones(length, length, dtype=torch.bool), 1)
    hidden = future[None] | (items == self.pad)[:, None, :]
    bias = torch.where(hidden, -10000.0, 0.0)[:, None]
    for block in self.blocks:
      x = block(x, bias)
    return x


def train_epoch(net, optimizer, items, batch, generator) -> float:
  """Takes one epoch; items [N, L + 1] padded at the left; returns the loss."""
  net.train()
  order = torch.randperm(len(items), generator=generator)
  total = 0.0
  for start in range(0, len(order), batch):
    rows = items[order[start : start + batch]]
    inputs, target = rows[:, :-1], rows[:, 1:]
    live = (inputs != net.pad).float()
    negative = torch.randint(net.pad, target.shape, generator=generator)
    states = net(inputs)
    positive = (states * net.item(target)).sum(-1)
    negative = (states * net.item(negative)).sum(-1)
    loss = nn.functional.softplus(-positive) + nn.functional.softplus(negative)
    loss = (loss * live).sum() / live.sum() / 2
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    total += loss.item()
  return total / math.ceil(len(order) / batch)


@torch.inference_mode()
def evaluate(net, history, target, seen, batch) -> np.ndarray:
  """Returns the rank of each target among all items that were not seen."""
  net.eval()
  table = net.item.weight[: net.pad]
  found = []
  for start in range(0, len(history), batch):
    part = slice(start, start + batch)
    states = net(history[part])[:, -1]
    scores = states @ table.T
    own = scores.gather(1, target[part, None])
    wide = torch.cat([scores, scores.new_zeros(len(scores), 1)], 1)
    wide.scatter_(1, seen[part], -math.inf)  # Column I takes the padding.
    found.append((wide[:, :-1] > own).sum(1))
  return torch.cat(found).numpy()


def main() -> None:
  """Trains and evaluates what FOLDER says; prints the times."""
  folder = pathlib.Path(sys.argv[1])
  task = json.loads((folder / "task.json").read_text())
  torch.manual_seed(0)
  torch.set_num_threads(task["threads"])
  generator = torch.Generator().manual_seed(0)
  arrays = {
    name: torch.from_numpy(np.load(folder / f"{name}.npy")).long()
    for name in ("items", "history", "target", "seen")
  }
  net = SasRec(task)
  optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
  epochs, evaluations = [], []
  for _ in range(task["epochs"]):
    started = time.perf_counter(), time.process_time()
    loss = train_epoch(
      net, optimizer, arrays["items"], task["batch_size"], generator
    )
    epochs.append(_since(started))
    started = time.perf_counter(), time.process_time()
    ranks = evaluate(
      net, arrays["history"], arrays["target"], arrays["seen"], 512
    )
    evaluations.append(_since(started))
  result = {
    "epochs": epochs,
    "evaluations": evaluations,
    "loss": loss,
    "hr10": float((ranks < 10).mean()),
    "torch": torch.__version__,
  }
  print(json.dumps(result))


def _since(started: tuple[float, float]) -> dict[str, float]:
  return {
    "wall": time.perf_counter() - started[0],
    "cpu": time.process_time() - started[1],
  }


if __name__ == "__main__":
  main()
