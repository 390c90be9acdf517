"""The BERT encoder: any batch, order and mesh; what is refused."""

import json

import numpy as np
import pytest
from safetensors import numpy as safetensors

from bigrec_jax import errors, progress
from bigrec_jax.models import encoders
from bigrec_jax.models.bert import wordpiece
from bigrec_jax.models.bert.config import BertConfig
from tests.models import common
from tests.models.bert import tiny


def load(directory, batch_size=4, mesh=None):
  return encoders.load(
    directory,
    common.model_config(),
    batch_size,
    mesh or common.mesh(),
    "name",
  )


def encode(encoder, texts):
  return encoder.encode(texts, progress.NullProgress())


def test_batch_order_and_mesh_change_nothing(tmp_path):
  tiny.write(tmp_path)
  encoder = load(tmp_path)
  assert (encoder.width, encoder.fingerprint) == (24, "name")
  assert encoders.width(tmp_path) == 24
  texts = [*tiny.TEXTS, *(text * 2 for text in tiny.TEXTS)]
  found = encode(encoder, texts)
  assert found.shape == (14, 24) and found.dtype == np.float32
  np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
  assert np.abs(found[0] - found[1]).max() > 0.05
  split = load(tmp_path, 8, common.mesh(2, 2, 2))
  kernel = split.params["layers_0"]["intermediate"]["kernel"]
  assert not kernel.sharding.is_fully_replicated
  again = encode(split, texts[::-1])[::-1]
  np.testing.assert_allclose(again, found, atol=1e-5)


def test_texts_are_cut_at_the_length_of_the_files(tmp_path):
  tiny.write(tmp_path)
  # [CLS] and ten letters and [SEP] are 12 tokens.
  found = encode(
    load(tmp_path), ["a b c d e f g h i j k l", "a b c d e f g h i j"]
  )
  np.testing.assert_allclose(found[0], found[1], atol=1e-6)
  file = tmp_path / "sentence_bert_config.json"
  file.write_text(json.dumps({"max_seq_length": 21}))
  with pytest.raises(errors.UserError, match="max_seq_length: 21 found, at mo"):
    load(tmp_path)


def test_checkpoints_of_models_with_heads_and_of_tensorflow(tmp_path):
  config = tiny.write(tmp_path)
  wanted = encode(load(tmp_path), tiny.TEXTS)
  old = {
    f"bert.{name}".replace("Norm.weight", "Norm.gamma").replace(
      "Norm.bias", "Norm.beta"
    ): value
    for name, value in tiny.tensors(config, 0).items()
  }
  old["bert.pooler.dense.weight"] = np.zeros((24, 24), np.float32)
  old["cls.predictions.bias"] = np.zeros(7, np.float32)
  old["bert.embeddings.position_ids"] = np.arange(20)[None]
  safetensors.save_file(old, tmp_path / "model.safetensors")
  np.testing.assert_array_equal(encode(load(tmp_path), tiny.TEXTS), wanted)


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"hidden_act": "silu"}, "hidden_act: 'silu' found, one of gelu"),
    ({"position_embedding_type": "relative_key"}, "'absolute' expected"),
    ({"is_decoder": True}, "is_decoder: True found"),
    ({"num_attention_heads": 5}, "multiple of num_attention_heads 5"),
    ({"vocab_size": "x"}, "vocab_size: 'x' found, a positive integer"),
  ],
)
def test_a_config_that_asks_for_more(changes, words):
  with pytest.raises(errors.UserError, match=words):
    BertConfig.from_hf(tiny.CONFIG | changes, "config.json")


def test_a_damaged_directory(tmp_path):
  config = tiny.write(tmp_path)
  stored = tiny.tensors(config, 0)
  name = "encoder.layer.1.output.dense.weight"
  for change, words in (
    ({name: stored[name][:, :-1].copy()}, "shape .24, 39. found, .24, 40. exp"),
    ({"encoder.layer.9.extra": stored[name]}, "unknown tensor, not in a bert"),
    ({f"bert.{name}": stored[name]}, f"{name} is there twice"),
  ):
    safetensors.save_file(stored | change, tmp_path / "model.safetensors")
    with pytest.raises(errors.UserError, match=words):
      load(tmp_path)
  tiny.write(tmp_path, vocab_size=len(tiny.WORDS) - 1)
  with pytest.raises(errors.UserError, match="the tokenizer is another model"):
    load(tmp_path)
  (tmp_path / "vocab.txt").write_text("[UNK]\n[CLS]\na\n")
  with pytest.raises(errors.UserError, match="sep_token '.SEP.': no such word"):
    wordpiece.load(tmp_path)
  (tmp_path / "vocab.txt").unlink()
  with pytest.raises(errors.UserError, match="tokenizer.json or vocab.txt"):
    wordpiece.load(tmp_path)
