"""LLaRA's published SASRec of MovieLens-100K, run by our network.

The file is a pickle of a whole torch module. It is never unpickled: the opcodes
are walked by a machine that knows dictionaries, tuples and float storages, and
makes nothing of any class or function that the file names. The validation rows
on which it has the hr1 of its name (.4222) are not in the repository, so what
can be compared is the forward pass, with the torch network of these tests.
"""

import os
import pathlib
import pickletools
import zipfile

import numpy as np
import pytest

from bigrec_jax.cf import networks
from bigrec_jax.cf.spec import NetworkSpec

pytestmark = pytest.mark.torch
# rec_model/movielens.pt of ljy0ustc/LLaRA, commit 9733f732.
PATH = os.environ.get("LLARA_MOVIELENS", "")
NORMS = {"ln_1": "query_norm", "ln_2": "attention_norm"}
_MARK = object()


def _storage(archive, root, named):
  kind, storage, key, _, count = named
  assert (kind, storage) == ("storage", "torch FloatStorage"), named
  found = np.frombuffer(archive.read(f"{root}/data/{key}"), "<f4")
  assert len(found) == count
  return found


def _reduced(function, arguments):
  """Returns what the few harmless calls of the file give, None for others."""
  if function == "torch._utils _rebuild_tensor_v2":
    storage, offset, size, stride, *_ = arguments
    assert tuple(stride) == tuple(
      int(np.prod(size[n + 1 :])) for n in range(len(size))
    )
    return storage[offset : offset + int(np.prod(size))].reshape(size)
  if function == "torch._utils _rebuild_parameter":
    return arguments[0]
  return {} if function == "collections OrderedDict" else None


def _read(path):
  """Returns the object of a torch file: modules are dicts of their state."""
  archive = zipfile.ZipFile(path)
  root = archive.namelist()[0].split("/")[0]
  stack, memo = [], {}

  def popped_to_mark():
    at = (
      len(stack)
      - 1
      - next(n for n, x in enumerate(reversed(stack)) if x is _MARK)
    )
    items = stack[at + 1 :]
    del stack[at:]
    return items

  for opcode, value, _ in pickletools.genops(archive.read(f"{root}/data.pkl")):
    match opcode.name:
      case "PROTO" | "STOP":
        pass
      case "MARK":
        stack.append(_MARK)
      case "GLOBAL":
        stack.append(value)
      case "EMPTY_DICT":
        stack.append({})
      case "EMPTY_LIST":
        stack.append([])
      case "EMPTY_TUPLE":
        stack.append(())
      case "NONE" | "NEWTRUE" | "NEWFALSE":
        known = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
        stack.append(known[opcode.name])
      case "BINUNICODE" | "BININT" | "BININT1" | "BININT2" | "BINFLOAT":
        stack.append(value)
      case "BINPUT" | "LONG_BINPUT":
        memo[value] = stack[-1]
      case "BINGET" | "LONG_BINGET":
        stack.append(memo[value])
      case "TUPLE":
        stack.append(tuple(popped_to_mark()))
      case "TUPLE1" | "TUPLE2" | "TUPLE3":
        size = int(opcode.name[-1])
        items = tuple(stack[-size:])
        del stack[-size:]
        stack.append(items)
      case "BINPERSID":
        stack.append(_storage(archive, root, stack.pop()))
      case "REDUCE":
        arguments = stack.pop()
        stack.append(_reduced(stack.pop(), arguments))
      case "NEWOBJ":
        del stack[-2:]
        stack.append({})
      case "BUILD":
        state = stack.pop()
        if isinstance(stack[-1], dict):
          stack[-1].update(state)
      case "SETITEM":
        value, key = stack.pop(), stack.pop()
        stack[-1][key] = value
      case "SETITEMS":
        items = popped_to_mark()
        stack[-1].update(zip(items[::2], items[1::2], strict=True))
      case other:
        raise ValueError(f"opcode {other}")
  (found,) = stack
  return found


def _weights(module, prefix=""):
  """Returns all parameters of a module by their torch names."""
  found = {f"{prefix}{k}": v for k, v in module["_parameters"].items()}
  for name, child in module["_modules"].items():
    found |= _weights(child, f"{prefix}{name}.")
  return found


def _ours(spec, weights):
  """Returns the parameters of our network with these weights."""

  def dense(name):
    kernel = weights[f"{name}.weight"]
    kernel = kernel[..., 0] if kernel.ndim == 3 else kernel
    return {"kernel": kernel.T, "bias": weights[f"{name}.bias"]}

  def norm(name):
    return {"scale": weights[f"{name}.weight"], "bias": weights[f"{name}.bias"]}

  def table(name):
    value = weights[name]
    missing = [(0, spec.rows - len(value))] + [(0, 0)] * (value.ndim - 1)
    return np.pad(value, missing)

  network = {
    "items": table("item_embeddings.weight"),
    "position": weights["positional_embeddings.weight"],
    "norm": norm("ln_3"),
    "blocks_0": {
      "query": dense("mh_attn.linear_q"),
      "key": dense("mh_attn.linear_k"),
      "value": dense("mh_attn.linear_v"),
      "inner": dense("feed_forward.w_1"),
      "outer": dense("feed_forward.w_2"),
      "inner_norm": norm("feed_forward.layer_norm"),
      **{ours: norm(theirs) for theirs, ours in NORMS.items()},
    },
  }
  return {
    "network": network,
    "head": table("s_fc.weight"),
    "head_bias": table("s_fc.bias"),
  }


@pytest.mark.skipif(
  not pathlib.Path(PATH).is_file(),
  reason="LLARA_MOVIELENS names no rec_model/movielens.pt of ljy0ustc/LLaRA",
)
def test_the_published_sasrec_scores_as_in_torch():
  torch = pytest.importorskip("torch")
  from tests.cf import torch_networks

  weights = _weights(_read(PATH))
  items, width = 1682, 64
  assert weights["item_embeddings.weight"].shape == (items + 1, width)
  spec = NetworkSpec("sasrec", "dros", items, 1792, width, 1, 1, 10, 0.0)
  params = _ours(spec, weights)
  theirs = torch_networks.DrosSasRec(items, width, 10)
  names = {
    "item": "item_embeddings",
    "place": "positional_embeddings",
    "ln1": "ln_1",
    "ln2": "ln_2",
    "ln3": "ln_3",
    "ln_ffn": "feed_forward.layer_norm",
    "q": "mh_attn.linear_q",
    "k": "mh_attn.linear_k",
    "v": "mh_attn.linear_v",
    "conv1": "feed_forward.w_1",
    "conv2": "feed_forward.w_2",
  }
  theirs.load_state_dict(
    {
      f"{ours}.{part}": torch.tensor(weights[f"{name}.{part}"])
      for ours, name in names.items()
      for part in ("weight", "bias")
      if f"{name}.{part}" in weights
    }
  )
  rng = np.random.default_rng(0)
  lengths = rng.integers(3, 11, 64).astype(np.int32)
  tokens = rng.integers(0, items, (64, 10)).astype(np.int32)
  tokens = np.where(np.arange(10) < lengths[:, None], tokens, items)
  tokens = tokens.astype(np.int32)
  head = networks.head(spec, params)
  states = networks.last_states(spec, params, tokens, lengths, None)
  ours = np.asarray(states) @ head.kernel[:items].T + head.bias[:items]
  with torch.no_grad():
    found = theirs(torch.tensor(tokens).long(), torch.tensor(lengths).long())
    expected = found.numpy() @ weights["s_fc.weight"].T + weights["s_fc.bias"]
  assert expected.std() > 0.5
  np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)
