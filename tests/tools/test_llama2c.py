"""The converter of llama2.c files, by what the converted models write."""

import gzip
import json
import struct

import jax
import numpy as np
import pytest

from bigrec_jax import config as config_lib, models
from bigrec_jax.data.text import tokenization
from bigrec_jax.devices import sharding
from bigrec_jax.models import hf_import
from configs import common
from tests.tools import llama2c

# What the documentation of stories260K shows for greedy decoding from BOS.
STORY = (
  "Once upon a time, there was a little girl named Lily. She loved to play"
  " outside in the park. One day, she saw a big, red ball. She wanted to play"
  " with it, but it was too high.\nLily's mom said, \"Lily, let's go to the"
  " park.\" Lily was sad and didn't know what to do."
)
OPENING = (
  "Once upon a time, there was a little girl named Lily. She loved to play"
  " outside in the park. One day, she saw a big, red ball."
)


@pytest.fixture(scope="module")
def stories(tmp_path_factory, shared_data):
  """The Hugging Face directory of stories260K."""
  directory = tmp_path_factory.mktemp("stories260K")
  folder = shared_data / "llm-tiny"
  llama2c.convert(folder / "stories260K.bin", folder / "tok512.bin", directory)
  return directory


def _titles(shared_data, count):
  path = shared_data / "amazon-toys" / "id2name.json.gz"
  with gzip.open(path, "rt", encoding="utf-8") as file:
    return list(json.load(file).values())[:count]


def _reference_encode(text, pieces):
  """llama2.c's encoder: characters, else bytes, then the best merges."""
  ids = {piece: i for i, (piece, _) in enumerate(pieces)}
  tokens = []
  for character in ("\u2581" + text).replace(" ", "\u2581"):
    if character in ids:
      tokens.append(ids[character])
    else:
      tokens.extend(byte + 3 for byte in character.encode())
  while True:
    best = None
    for at in range(len(tokens) - 1):
      joined = pieces[tokens[at]][0] + pieces[tokens[at + 1]][0]
      if joined in ids and (best is None or pieces[ids[joined]][1] > best[0]):
        best = (pieces[ids[joined]][1], at, ids[joined])
    if best is None:
      return [1, *tokens]
    tokens[best[1] : best[1] + 2] = [best[2]]


def test_tokenizer_equals_the_encoder_of_llama2c(stories, shared_data):
  pieces = llama2c.read_pieces(shared_data / "llm-tiny" / "tok512.bin", 512)
  tokenizer = tokenization.load_tokenizer(stories)
  assert tokenizer.vocab_size == 512
  assert (tokenizer.bos_id, tokenizer.eos_ids) == (1, (2,))
  texts = [
    STORY,
    "  two  blanks ",
    "Amélie 🎮\n\nx",
    *_titles(shared_data, 200),
  ]
  for text in texts:
    ids = tokenizer.encode(text)
    assert ids == _reference_encode(text, pieces)
    assert tokenizer.decode(ids) == text


def test_halves_turns_the_rotation_of_pairs_into_that_of_halves():
  """Scores of rotated q and k are equal under the two conventions."""
  rng = np.random.default_rng(0)
  heads, size, dim = 3, 6, 5
  wq, wk = rng.normal(size=(2, heads * size, dim))
  x, y = rng.normal(size=(2, dim))
  angles = rng.normal(size=(2, size // 2))

  def pairs(vector, angle):
    v = vector.reshape(heads, size // 2, 2)
    turned = (v[..., 0] + 1j * v[..., 1]) * np.exp(1j * angle)
    return np.stack([turned.real, turned.imag], -1).reshape(heads, size)

  def half(vector, angle):
    v = vector.reshape(heads, 2, size // 2)
    turned = (v[:, 0] + 1j * v[:, 1]) * np.exp(1j * angle)
    return np.concatenate([turned.real, turned.imag], -1)

  q = pairs(wq @ x, angles[0])
  k = pairs(wk @ y, angles[1])
  theirs_q = half(llama2c.halves(wq, heads) @ x, angles[0])
  theirs_k = half(llama2c.halves(wk, heads) @ y, angles[1])
  np.testing.assert_allclose((q * k).sum(1), (theirs_q * theirs_k).sum(1))


def test_a_cut_checkpoint_is_an_error(tmp_path, shared_data):
  path = tmp_path / "cut.bin"
  content = (shared_data / "llm-tiny" / "stories260K.bin").read_bytes()
  path.write_bytes(content[: len(content) - 4])
  with pytest.raises(ValueError, match="floats found"):
    llama2c.read_checkpoint(path)
  header = llama2c.Header(*struct.unpack_from("<7i", content))
  assert header == (64, 172, 5, 8, 4, 512, 512)


def test_greedy_text_of_our_model_is_the_documented_one(stories):
  """Each token of the story is the argmax after those before it."""
  mesh = sharding.single_device_mesh()
  config = config_lib.from_config_dict(common.get_config()).model
  arch, params = hf_import.load_base(stories, config, mesh)
  model = models.build(arch, config, None, mesh)
  ids = tokenization.load_tokenizer(stories).encode(STORY)
  tokens = np.array([ids], np.int32)

  @jax.jit
  def most_likely(params, tokens):
    hidden = model.apply(
      {"params": params},
      tokens,
      np.arange(len(ids), dtype=np.int32)[None],
      np.ones(tokens.shape, np.int32),
      deterministic=True,
    )
    logits = model.apply({"params": params}, hidden, method="logits")
    return logits.argmax(-1)

  predicted = np.asarray(most_likely(params, tokens))[0]
  assert predicted[:-1].tolist() == ids[1:]


def _greedy(directory, count):
  transformers = pytest.importorskip("transformers")
  torch = pytest.importorskip("torch")
  model = transformers.AutoModelForCausalLM.from_pretrained(
    directory, dtype=torch.float32
  )
  with torch.no_grad():
    ids = model.generate(
      torch.tensor([[1]]), max_new_tokens=count, do_sample=False
    )
  return ids[0].tolist()


@pytest.mark.torch
def test_greedy_text_of_hugging_face_is_the_documented_one(stories):
  tokenizer = tokenization.load_tokenizer(stories)
  count = len(tokenizer.encode(STORY)) - 1
  assert tokenizer.decode(_greedy(stories, count)) == STORY


@pytest.mark.torch
def test_hugging_face_reads_the_tokenizer_equal(stories, shared_data):
  transformers = pytest.importorskip("transformers")
  theirs = transformers.AutoTokenizer.from_pretrained(stories)
  ours = tokenization.load_tokenizer(stories)
  for text in [STORY, "  two  blanks ", "Amélie", *_titles(shared_data, 50)]:
    assert theirs.encode(text) == ours.encode(text)


@pytest.mark.torch
@pytest.mark.parametrize(
  "name, expected", [("babyllama105", 0.1223), ("babyllama361", 0.1273)]
)
def test_babyllama_has_its_documented_likelihood(
  tmp_path, shared_data, name, expected
):
  transformers = pytest.importorskip("transformers")
  torch = pytest.importorskip("torch")
  folder = shared_data / "llm-tiny"
  llama2c.convert(folder / f"{name}.bin", folder / "tok105.model", tmp_path)
  ids = torch.tensor([tokenization.load_tokenizer(tmp_path).encode(OPENING)])
  model = transformers.AutoModelForCausalLM.from_pretrained(
    tmp_path, dtype=torch.float32
  )
  with torch.no_grad():
    loss = model(ids, labels=ids).loss.item()
  assert abs(loss - expected) < 1e-4
