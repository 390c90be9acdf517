"""The fake base is one that others read, too."""

import numpy as np
import pytest

from bigrec_jax import models
from bigrec_jax.data.text import tokenization
from bigrec_jax.testing import store, tiny_base


def test_it_is_read_as_any_base(tmp_path):
  directory = tiny_base.write(tmp_path / "base")
  arch = models.read_config(directory)
  tokenizer = tokenization.load_tokenizer(directory)
  assert arch.vocab_size == tokenizer.vocab_size
  title = store.catalogue().titles[0]
  assert tokenizer.decode(tokenizer.encode(title)).strip() == title


@pytest.mark.torch
def test_transformers_reads_it(tmp_path):
  import torch
  import transformers

  directory = tiny_base.write(tmp_path / "base")
  model = transformers.AutoModelForCausalLM.from_pretrained(directory)
  assert np.isfinite(model(torch.arange(5)[None]).logits.detach()).all()
