"""The networks of DROS and S3-Rec (docs/baselines.md) again, in PyTorch.

Written from the text alone, module by module and for one padded batch, so
that an error in the JAX version has no reason to be here too. `load` copies
parameters by name.
"""

import math

import numpy as np
import torch
from torch import nn


class DrosSasRec(nn.Module):
  """One-query answer after the last item; right padding with id I."""

  def __init__(self, num_items, width, length):
    super().__init__()
    self.item = nn.Embedding(num_items + 1, width)
    self.place = nn.Embedding(length, width)
    self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
    self.ln_ffn, self.ln3 = nn.LayerNorm(width), nn.LayerNorm(width)
    self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
    self.conv1, self.conv2 = (nn.Conv1d(width, width, 1) for _ in range(2))
    self.pad = num_items

  def forward(self, s, length):
    mask = (s != self.pad).float()[..., None]  # [B, L, 1]
    x = (self.item(s) + self.place.weight[None]) * mask
    query = self.ln1(x)
    scores = self.q(query) @ self.k(x).transpose(1, 2)
    scores = scores / math.sqrt(x.shape[-1])
    hidden = -(2.0**32) + 1
    scores = scores.masked_fill(mask.transpose(1, 2) == 0, hidden)
    future = torch.triu(torch.ones(s.shape[1], s.shape[1]), 1).bool()
    scores = scores.masked_fill(future[None], hidden)
    mixed = torch.softmax(scores, -1) @ self.v(x) + query
    h = self.ln2(mixed)
    inner = self.conv2(torch.relu(self.conv1(h.transpose(1, 2))))
    h = self.ln_ffn(inner.transpose(1, 2) + h) * mask
    h = self.ln3(h)
    return h[torch.arange(len(s)), length - 1]

  def load(self, p):
    p = p["network"]
    b = p["blocks_0"]
    _put(self.item.weight, p["items"][: self.pad + 1])
    _put(self.place.weight, p["position"])
    norms = ("query_norm", "attention_norm", "inner_norm")
    for layer, name in zip(
      (self.ln1, self.ln2, self.ln_ffn), norms, strict=True
    ):
      _norm(layer, b[name])
    _norm(self.ln3, p["norm"])
    for layer, name in zip(
      (self.q, self.k, self.v), ("query", "key", "value"), strict=True
    ):
      _dense(layer, b[name])
    for layer, name in zip(
      (self.conv1, self.conv2), ("inner", "outer"), strict=True
    ):
      _put(layer.weight, b[name]["kernel"].T[..., None])
      _put(layer.bias, b[name]["bias"])
    return self


class S3RecLayer(nn.Module):
  def __init__(self, width, heads):
    super().__init__()
    self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
    self.ln1 = nn.LayerNorm(width, eps=1e-12)
    self.ln2 = nn.LayerNorm(width, eps=1e-12)
    self.up, self.down = (
      nn.Linear(width, 4 * width),
      nn.Linear(4 * width, width),
    )

  def forward(self, x, hidden):
    mixed, _ = self.attention(x, x, x, attn_mask=hidden, need_weights=False)
    x = self.ln1(x + mixed)
    return self.ln2(x + self.down(nn.functional.gelu(self.up(x))))

  def load(self, b):
    for name, part in (("kernel", "in_proj_weight"), ("bias", "in_proj_bias")):
      parts = [b[n][name].T for n in ("query", "key", "value")]
      _put(getattr(self.attention, part), np.concatenate(parts))
    _dense(self.attention.out_proj, b["mixed"])
    _norm(self.ln1, b["attention_norm"])
    _norm(self.ln2, b["inner_norm"])
    _dense(self.up, b["inner"])
    _dense(self.down, b["outer"])


class S3RecSasRec(nn.Module):
  """States at all positions; left padding, as in that repository."""

  def __init__(self, num_items, width, length, layers, heads):
    super().__init__()
    self.item = nn.Embedding(num_items + 1, width)
    self.place = nn.Embedding(length, width)
    self.ln = nn.LayerNorm(width, eps=1e-12)
    self.layers = nn.ModuleList(S3RecLayer(width, heads) for _ in range(layers))
    self.heads, self.pad = heads, num_items

  def forward(self, s):
    x = self.ln(self.item(s) + self.place.weight[None])
    size = s.shape[1]
    future = torch.triu(torch.ones(size, size), 1).bool()
    hidden = future[None] | (s == self.pad)[:, None, :]
    bias = torch.where(hidden, -10000.0, 0.0).repeat_interleave(self.heads, 0)
    for layer in self.layers:
      x = layer(x, bias)
    return x

  def load(self, p):
    p = p["network"]
    _put(self.item.weight, p["items"][: self.pad + 1])
    _put(self.place.weight, p["position"])
    _norm(self.ln, p["norm"])
    for n, layer in enumerate(self.layers):
      layer.load(p[f"blocks_{n}"])
    return self


class DrosGru(nn.Module):
  """Last hidden state of a packed sequence."""

  def __init__(self, num_items, width):
    super().__init__()
    self.item = nn.Embedding(num_items + 1, width)
    self.gru = nn.GRU(width, width, batch_first=True)
    self.pad = num_items

  def forward(self, s, length):
    packed = nn.utils.rnn.pack_padded_sequence(
      self.item(s), length, batch_first=True, enforce_sorted=False
    )
    return self.gru(packed)[1][0]

  def load(self, p):
    p = p["network"]
    _put(self.item.weight, p["items"][: self.pad + 1])
    _put(self.gru.weight_ih_l0, p["input_kernel"].T)
    _put(self.gru.weight_hh_l0, p["state_kernel"].T)
    _put(self.gru.bias_ih_l0, p["input_bias"])
    _put(self.gru.bias_hh_l0, p["state_bias"])
    return self


class DrosCaser(nn.Module):
  """Convolutions over the masked image of L items."""

  def __init__(self, num_items, width, length):
    super().__init__()
    self.item = nn.Embedding(num_items + 1, width)
    self.horizontal = nn.ModuleList(
      nn.Conv2d(1, 16, (h, width)) for h in (2, 3, 4)
    )
    self.vertical = nn.Conv2d(1, 1, (length, 1))
    self.pad = num_items

  def forward(self, s):
    image = self.item(s) * (s != self.pad).float()[..., None]
    image = image[:, None]  # [B, 1, L, D]
    found = [
      torch.relu(conv(image))[..., 0].max(dim=-1).values
      for conv in self.horizontal
    ]
    found.append(torch.relu(self.vertical(image)).flatten(1))
    return torch.cat(found, dim=1)

  def load(self, p):
    p = p["network"]
    _put(self.item.weight, p["items"][: self.pad + 1])
    for height, conv in zip((2, 3, 4), self.horizontal, strict=True):
      kernel = p[f"horizontal_{height}"]  # [h, D, 16]
      _put(conv.weight, kernel.transpose(2, 0, 1)[:, None])
      _put(conv.bias, p[f"horizontal_{height}_bias"])
    _put(self.vertical.weight, p["vertical"].T[None, :, :, None])
    _put(self.vertical.bias, p["vertical_bias"])
    return self


def _put(parameter, value):
  value = torch.tensor(np.array(value))
  assert parameter.shape == value.shape, (parameter.shape, value.shape)
  with torch.no_grad():
    parameter.copy_(value)


def _dense(layer, p):
  _put(layer.weight, p["kernel"].T)
  _put(layer.bias, p["bias"])


def _norm(layer, p):
  _put(layer.weight, p["scale"])
  _put(layer.bias, p["bias"])
