import os

import pytest

from bigrec_jax import errors
from bigrec_jax.workdir import given_models


@pytest.fixture
def root(tmp_path, monkeypatch):
  """A folder of everything that a path could name; it is where we are."""
  for name in (
    "hf/config.json",
    "hf/model.safetensors",
    "hf/tokenizer.json",
    "bert/modules.json",
    "adapter/adapter_config.json",
    "adapter/adapter_model.safetensors",
    "torch/adapter_config.json",
    "torch/adapter_model.bin",
    "half/adapter_config.json",
    "ggufs/x.gguf",
    "work/records/base.json",
    "work/config.json",
    "models--a--b/snapshots/0123/config.json",
    "folder.gguf/x",
    "empty/x",
  ):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
  monkeypatch.chdir(tmp_path)
  return tmp_path


def encoder(given):
  given_models.check_base(given, "config.embed.model.path")


BASE, ADAPTER = given_models.check_base, given_models.check_adapter
TOKENIZER = given_models.check_tokenizer


def test_what_is_right_passes(root):
  BASE("hf")
  BASE(str(root / "hf"))
  BASE("ggufs/x.gguf")
  encoder("hf")
  encoder("bert")
  ADAPTER("adapter")
  ADAPTER("torch")  # Its reader says how to convert it.
  TOKENIZER("hf")


@pytest.mark.parametrize(
  ("check", "given", "words"),
  [
    (BASE, "meta-llama/Llama-2-7b-hf", "`hf download meta-llama/Llama-2-7b-hf"),
    (ADAPTER, "someone/lora", "`hf download someone/lora"),
    (TOKENIZER, "someone/lora", "`hf download"),
    (encoder, "sentence-transformers/all-MiniLM-L6-v2", "`hf download"),
    (BASE, "nowhere", "nowhere: not found, a Hugging Face directory expected"),
    (BASE, "nowhere.gguf", "not found, a GGUF file expected"),
    (BASE, "~/models/x", f"mean {os.path.expanduser('~/models/x')}?"),
    (ADAPTER, "~/x", "~ found, which isn't expanded"),
    (BASE, "hf/config.json", "a file found, a folder expected: hf may be"),
    (BASE, "hf/model.safetensors", "a file found"),
    (BASE, "hf/config.json/x", "is a file, a folder expected there"),
    (ADAPTER, "adapter/adapter_model.safetensors", "expected: adapter may be"),
    (ADAPTER, "ggufs/x.gguf", "only config.model.path may name one"),
    (encoder, "ggufs/x.gguf", "config.embed.model.path: ggufs/x.gguf: a GGUF"),
    (TOKENIZER, "hf/tokenizer.json", "a file found, a folder expected: hf"),
    (BASE, "folder.gguf", "a folder found, a GGUF file expected"),
    (BASE, "ggufs", "the file expected: ggufs/x.gguf"),
    (BASE, "adapter", "a PEFT adapter found"),
    (BASE, "work", "a workdir found; its base is work/base"),
    (BASE, "empty", "no config.json found"),
    (BASE, "bert", "no config.json found"),
    (BASE, "models--a--b", "models--a--b/snapshots/0123 may be meant"),
    (ADAPTER, "hf", "a model is there: config.model.path names bases"),
    (ADAPTER, "work", "a workdir found; its adapter is work/adapter"),
    (ADAPTER, "half", "no adapter_model.safetensors found"),
    (TOKENIZER, "empty", "no tokenizer found"),
    (TOKENIZER, "work", "its tokenizer is in work/base"),
    (BASE, "x" * 5000, "File name too long"),
    (BASE, "a\0b", "a NUL found"),
    (BASE, "a\nb", "'a\\nb': not found"),
    (BASE, "\ud800", "'\\ud800': "),
  ],
)
def test_what_was_meant_is_said(check, given, words, root):
  with pytest.raises(errors.UserError) as caught:
    check(given)
  message = str(caught.value)
  assert words in message and message.startswith("config.")
  assert message.isprintable()
