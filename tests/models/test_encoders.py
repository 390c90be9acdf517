"""Text encoders by directory: a language model's, and what is refused."""

import json

import numpy as np
import pytest

from bigrec_jax import errors, progress
from bigrec_jax.data.text import tokenization
from bigrec_jax.models import encoders, hf_export, last_state, sentences
from tests.models import common

TEXTS = ["Halo 3", "Myst", "", "The Legend of Zelda: Ocarina of Time"]


def test_another_language_model_is_an_encoder_by_its_last_state(tmp_path):
  tokenization.train_bpe(TEXTS, 300, tmp_path / "words")
  words = tokenization.load_tokenizer(tmp_path / "words")
  config = common.models.from_arch(common.ARCH, words.vocab_size)
  params = common.noisy_params(config)
  hf_export.save_base(tmp_path / "m", config, params, tmp_path / "words")
  mesh = common.mesh(2, 1, 1)
  loaded = encoders.load(tmp_path / "m", common.model_config(), 4, mesh, "name")
  assert (loaded.width, loaded.fingerprint) == (config.hidden_size, "name")
  assert encoders.width(tmp_path / "m") == config.hidden_size
  found = loaded.encode(TEXTS, progress.NullProgress())
  # An empty text is read as the end of a text.
  tokens = [ids or [words.eos_id] for ids in words.encode_batch(TEXTS)]
  wanted = last_state.embed_texts(
    common.build(config),
    params,
    tokens,
    2,
    common.mesh(),
    progress.NullProgress(),
  )
  assert np.abs(wanted).max() > 0.5
  np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_of_a_page_in_place_of_a_title_the_beginning_is_read(tmp_path, caplog):
  tokenization.train_bpe(TEXTS, 300, tmp_path / "words")
  words = tokenization.load_tokenizer(tmp_path / "words")
  config = common.models.from_arch(common.ARCH, words.vocab_size)
  params, mesh = common.noisy_params(config), common.mesh()
  encoder = last_state.LastState(
    common.build(config), params, words, 4, mesh, "name"
  )
  page = "<span id='x'>" * 2000
  (ids,) = words.encode_batch([page])
  assert len(ids) > last_state.MOST_TOKENS
  with caplog.at_level("WARNING", "absl"):
    found = encoder.encode(["Myst", page], progress.NullProgress())
  (line,) = [record.getMessage() for record in caplog.records]
  assert "1 texts are longer than 1024 tokens" in line
  assert "26000 characters: \"<span id='x'><span" in line and len(line) < 250
  wanted = last_state.embed_texts(
    common.build(config),
    params,
    [words.encode("Myst"), ids[: last_state.MOST_TOKENS]],
    4,
    mesh,
    progress.NullProgress(),
  )
  np.testing.assert_array_equal(found, wanted)


def write(path, value):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(value))


def modules(*kinds):
  """The content of modules.json; each module but the first has a folder."""
  return [
    {
      "idx": n,
      "name": str(n),
      "path": f"{n}_{kind}" if n else "",
      "type": f"sentence_transformers.models.{kind}",
    }
    for n, kind in enumerate(kinds)
  ]


def test_what_no_family_reads_is_named(tmp_path):
  write(tmp_path / "config.json", {"model_type": "gpt2", "hidden_size": 4})
  with pytest.raises(errors.UserError, match="'gpt2' found, one of .*llama"):
    encoders.load(tmp_path, common.model_config(), 4, common.mesh(), "")
  with pytest.raises(errors.UserError, match="config.json: not found"):
    encoders.load(tmp_path / "x", common.model_config(), 4, common.mesh(), "")


def test_pooling_of_a_language_model_is_not_dropped(tmp_path):
  write(tmp_path / "config.json", {"model_type": "qwen2", "hidden_size": 4})
  write(tmp_path / "modules.json", modules("Transformer", "Pooling"))
  with pytest.raises(errors.UserError, match="pooling of a qwen2 model"):
    encoders.load(tmp_path, common.model_config(), 4, common.mesh(), "")


def test_sentence_files_of_old_and_new_versions(tmp_path):
  assert sentences.read(tmp_path) == sentences.Sentences(
    tmp_path, "mean", False, None, False
  )
  kinds = ("Transformer", "Pooling", "Normalize")
  write(tmp_path / "modules.json", modules(*kinds))
  write(tmp_path / "1_Pooling/config.json", {"pooling_mode_cls_token": True})
  write(
    tmp_path / "sentence_bert_config.json",
    {"max_seq_length": 128, "do_lower_case": True},
  )
  wanted = sentences.Sentences(tmp_path, "cls", True, 128, True)
  assert sentences.read(tmp_path) == wanted
  write(tmp_path / "1_Pooling/config.json", {"pooling_mode": "cls"})
  assert sentences.read(tmp_path) == wanted


@pytest.mark.parametrize(
  ("kinds", "pooling", "words"),
  [
    (("Transformer", "Pooling", "Dense"), {}, "Pooling, Dense found"),
    (("Transformer", "Pooling"), {"pooling_mode": "max"}, "pooling max found"),
    (
      ("Transformer", "Pooling"),
      {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
      "mean and cls found",
    ),
    (
      ("Transformer", "Pooling"),
      {"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False},
      "pooling_mode_lasttoken found",
    ),
    (("Transformer", "Pooling"), {}, "pooling none found"),
  ],
)
def test_sentence_files_that_ask_for_more(kinds, pooling, words, tmp_path):
  write(tmp_path / "modules.json", modules(*kinds))
  write(tmp_path / "1_Pooling/config.json", pooling)
  with pytest.raises(errors.UserError, match=words):
    sentences.read(tmp_path)
