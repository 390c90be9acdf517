"""GGUF files in: against transformers' own loading of them, and refusals."""

import json

import numpy as np
import pytest

from bigrec_jax import errors
from bigrec_jax.data.text import tokenization
from bigrec_jax.models import hf_import
from bigrec_jax.models.gguf import conversion, reading, rope
from tests.models import common, gguf_files

TOLERANCE = 1e-4


@pytest.fixture
def file(tmp_path):
  return gguf_files.small(tmp_path / "a.gguf")


def test_tensors_come_back_bit_for_bit(file, tmp_path):
  conversion.convert(file, tmp_path / "out", "float32")
  stored = hf_import.tensor_files.open_checkpoint(tmp_path / "out")
  expected = gguf_files.tensors()
  assert stored.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_array_equal(stored[name].view(), value)
  config = json.loads((tmp_path / "out" / "config.json").read_text())
  assert config["tie_word_embeddings"] and config["head_dim"] == 16
  assert config["rms_norm_eps"] == 1e-5 and "rope_scaling" not in config
  origin = json.loads((tmp_path / "out" / "origin.json").read_text())
  assert origin["quantisation"] == {"F32": 11}
  assert origin["file"] == "a.gguf" and origin["dequantised_to"] == "float32"


def test_bfloat16_is_the_rounding_that_loading_would_do(file, tmp_path):
  settings = common.model_config(dtype="bfloat16")
  loaded = []
  for dtype in ("float32", "bfloat16"):
    conversion.convert(file, tmp_path / dtype, dtype)
    loaded.append(
      hf_import.load_base(tmp_path / dtype, settings, common.mesh())
    )
  (config, one), (other_config, other) = loaded
  assert config == other_config
  for a, b in zip(*map(common.jax.tree.leaves, (one, other)), strict=True):
    assert a.dtype == b.dtype == np.dtype("bfloat16")
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_dequantising_by_blocks_of_rows_changes_nothing(file, monkeypatch):
  order = np.arange(64)[::-1]
  tensor = reading.open_file(file).tensors["token_embd.weight"]
  whole = tensor.values(np.dtype(np.float32))
  monkeypatch.setattr(reading, "_BLOCK", 5 * 32)
  np.testing.assert_array_equal(tensor.values(np.dtype(np.float32)), whole)
  found = tensor.values(np.dtype(np.float32), order)
  np.testing.assert_array_equal(found, whole[::-1])


LLAMA3 = {
  "rope_type": "llama3",
  "factor": 32.0,
  "low_freq_factor": 1.0,
  "high_freq_factor": 4.0,
  "original_max_position_embeddings": 8192,
}


def test_llama3_frequencies_are_found_again(tmp_path):
  divisors = rope.llama3_divisors(5e5, 16, LLAMA3).astype(np.float32)
  assert 1 < len(set(divisors)) < 8 and divisors[0] == 1
  extra = {rope.TENSOR: divisors}
  path = gguf_files.small(tmp_path / "a.gguf", extra, {"rope.freq_base": 5e5})
  config = conversion.read_config(path)
  assert config["rope_scaling"] == LLAMA3 and config["rope_theta"] == 5e5
  # All ones: nothing is stretched.
  extra = {rope.TENSOR: np.ones(8, np.float32)}
  path = gguf_files.small(tmp_path / "b.gguf", extra)
  assert "rope_scaling" not in conversion.read_config(path)


def test_linear_scaling_by_either_key(tmp_path):
  for n, settings in enumerate(
    (
      {"rope.scaling.type": "linear", "rope.scaling.factor": 2.5},
      {"rope.scale_linear": 2.5},
    )
  ):
    config = conversion.read_config(
      gguf_files.small(tmp_path / f"{n}.gguf", settings=settings)
    )
    assert config["rope_scaling"] == {"rope_type": "linear", "factor": 2.5}
  path = gguf_files.small(
    tmp_path / "c.gguf", settings={"rope.scaling.type": "none"}
  )
  assert "rope_scaling" not in conversion.read_config(path)


REFUSED = {
  "rope_freqs.weight: divisors": dict(
    extra={rope.TENSOR: np.full(8, 3, np.float32)}
  ),
  "rope.scaling.type: 'yarn' found": dict(
    settings={"rope.scaling.type": "yarn"}
  ),
  "llama.expert_count: 8 found": dict(settings={"expert_count": 8}),
  "attention.sliding_window: 32 found": dict(
    settings={"attention.sliding_window": 32}
  ),
  "feed_forward_length: .* a positive integer": dict(
    settings={"feed_forward_length": [32, 64]}
  ),
  "rope.dimension_count: 8 found, 16": dict(
    settings={"rope.dimension_count": 8, "attention.key_length": 16}
  ),
  "split.count: one of 3 parts": dict(general={"split.count": 3}.items()),
  "general.type: 'adapter' found": dict(
    general={"general.type": "adapter"}.items()
  ),
  "blk.0.ffn_up.weight: no such tensor": dict(
    without=["model.layers.0.mlp.up_proj.weight"]
  ),
  "blk.7.ffn_up.weight: unknown tensor": dict(
    extra={"blk.7.ffn_up.weight": np.zeros((32, 32), np.float32)}
  ),
  r"blk.0.attn_k.weight: shape \[32, 32\] found, \[16, 32\]": dict(
    extra={
      "model.layers.0.self_attn.k_proj.weight": np.zeros((32, 32), np.float32)
    }
  ),
  "x.weight: type I32 found, one of F32, F16": dict(
    extra={"x.weight": np.zeros((2, 2), np.int32)}
  ),
  "tokenizer.ggml.model: 'bert' found, one of gpt2, llama": dict(model="bert"),
  "tokenizer.ggml.pre: 'tekken' found, one of gpt-2": dict(pre="tekken"),
}


@pytest.mark.parametrize("problem", REFUSED)
def test_what_is_not_supported_is_refused(problem, tmp_path, monkeypatch):
  quantize = gguf_files.quants.quantize
  monkeypatch.setattr(  # So that the writer takes integers.
    gguf_files.quants,
    "quantize",
    lambda x, kind: x if x.dtype == np.int32 else quantize(x, kind),
  )
  path = gguf_files.small(tmp_path / "a.gguf", **REFUSED[problem])
  with pytest.raises(errors.UserError, match=problem) as caught:
    conversion.convert(path, tmp_path / "out", "float32")
  assert str(path) in str(caught.value) and "\n" not in str(caught.value)
  assert not (tmp_path / "out").exists()


def test_another_architecture_and_damaged_files_are_refused(file, tmp_path):
  path = gguf_files.write(tmp_path / "b.gguf", "gemma2", {}, {}, {})
  with pytest.raises(errors.UserError, match="'gemma2' found, one of llama, q"):
    conversion.read_config(path)
  content = file.read_bytes()
  for length in (0, 3, 40, len(content) // 3, len(content) - 200):
    file.write_bytes(content[:length])
    with pytest.raises(errors.UserError, match="a whole GGUF file expected"):
      reading.open_file(file)
  with pytest.raises(errors.UserError, match="not found"):
    reading.open_file(tmp_path / "none.gguf")


KINDS = {
  "llama-F32": dict(attention_bias=True, mlp_bias=True),
  "llama-Q8_0": dict(tie_word_embeddings=True, num_key_value_heads=1),
  "llama-Q4_0": dict(head_dim=32),
  "qwen2-F16": dict(tie_word_embeddings=True),
  "qwen2-Q4_1": dict(),
}


@pytest.mark.torch
@pytest.mark.parametrize("kind", KINDS)
def test_logits_equal_transformers_loading_of_the_file(kind, tmp_path):
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  arch, quantisation = kind.split("-")
  config = transformers.AutoConfig.for_model(
    arch,
    **dict(
      vocab_size=64,
      hidden_size=64,
      intermediate_size=96,
      num_hidden_layers=2,
      num_attention_heads=4,
      num_key_value_heads=2,
      max_position_embeddings=128,
      rms_norm_eps=1e-6,
      rope_theta=50000.0,
      tie_word_embeddings=False,
    )
    | KINDS[kind],
  )
  torch.manual_seed(0)
  model = transformers.AutoModelForCausalLM.from_config(config).eval()
  weights = {
    name: (value + 0.2 * torch.randn_like(value)).detach().numpy()
    for name, value in model.state_dict().items()
    if not (config.tie_word_embeddings and name == "lm_head.weight")
  }
  path = gguf_files.write(
    tmp_path / "m.gguf",
    arch,
    weights,
    gguf_files.settings_of(config),
    gguf_files.LETTERS,
    quantisation,
  )
  # Biases of llama are in the file, but the config made of it has none.
  own = {k: v for k, v in KINDS[kind].items() if k.endswith("_bias")}
  reference = transformers.AutoModelForCausalLM.from_pretrained(
    tmp_path,
    gguf_file="m.gguf",
    dtype=torch.float32,
    attn_implementation="eager",
    config=transformers.AutoConfig.from_pretrained(
      tmp_path, gguf_file="m.gguf", **own
    ),
  ).eval()
  conversion.convert(path, tmp_path / "out", "float32")
  shape, params = hf_import.load_base(
    tmp_path / "out", common.model_config(), common.mesh()
  )
  tokens, positions, segments = common.batch(length=29)
  ours = common.forward(
    common.build(shape), {"params": params}, tokens, positions, segments
  )
  with torch.no_grad():
    theirs = reference(torch.from_numpy(tokens.astype(np.int64))).logits.numpy()
  assert np.abs(theirs).max() > 0.5
  np.testing.assert_allclose(ours, theirs, atol=TOLERANCE, rtol=TOLERANCE)
  tokenizer = tokenization.load_tokenizer(tmp_path / "out")
  assert tokenizer.encode("BAB") == [0, 3 + ord("B") - 33, 63]


@pytest.mark.torch
def test_llama3_divisors_are_those_of_transformers():
  pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

  config = transformers.LlamaConfig(
    head_dim=64,
    hidden_size=64,
    num_attention_heads=1,
    rope_parameters=LLAMA3 | {"rope_theta": 5e5},
  )
  stretched, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
  plain = 5e5 ** -(np.arange(0, 64, 2) / 64)
  expected = plain / stretched.numpy()
  found = rope.llama3_divisors(5e5, 64, LLAMA3)
  np.testing.assert_allclose(found, expected, rtol=1e-5)


# Where each number of the head lies, and what it must not be.
HEAD = {"version": 4, "tensors": 8, "keys": 16, "length_of_a_name": 24}


@pytest.mark.parametrize("place", list(HEAD))
@pytest.mark.parametrize("number", [2**60, 2**64 - 1])
def test_numbers_of_the_head_must_fit_in_the_file(place, number, tmp_path):
  path = gguf_files.small(tmp_path / "x.gguf")
  content = bytearray(path.read_bytes())
  at = HEAD[place]
  content[at : at + 8] = number.to_bytes(8, "little")
  path.write_bytes(content)
  with pytest.raises(errors.UserError, match="x.gguf: damaged"):
    conversion.read_config(path)


def damage(path, marker, skip, value):
  """Overwrites bytes behind a name in the head."""
  content = bytearray(path.read_bytes())
  at = content.index(marker) + len(marker) + skip
  content[at : at + len(value)] = value
  path.write_bytes(content)


@pytest.mark.parametrize(
  ("marker", "skip", "value", "words"),
  [
    # An array: 4 bytes of its type, 4 of its elements' type, 8 of its length.
    (b"ggml.token_type", 8, (2**60).to_bytes(8, "little"), "an array of"),
    (b"ggml.tokens", 8, (2**60).to_bytes(8, "little"), "texts found"),
    (b"ggml.tokens", 4, (9).to_bytes(4, "little"), "an array of type 9"),
    (b"ggml.tokens", 16, (2**60).to_bytes(8, "little"), "a text of"),
    (b"general.architecture", 0, (77).to_bytes(4, "little"), "of type 77"),
    # A tensor: 4 bytes of the number of its dimensions, then 8 of each.
    (b"token_embd.weight", 0, (2**31).to_bytes(4, "little"), "dimensions"),
    (b"token_embd.weight", 4, (2**60).to_bytes(8, "little"), "elements"),
    (b"token_embd.weight", 24, (2**60).to_bytes(8, "little"), "at byte"),
    (b"token_embd.weight", 20, (200).to_bytes(4, "little"), "200"),
    (b"llama.block_count", 4, (2**30).to_bytes(4, "little"), "block_count: "),
    (b"llama.context_length", 0, (6).to_bytes(4, "little"), "context_length"),
  ],
)
def test_lengths_types_and_offsets_that_lie(
  marker, skip, value, words, tmp_path
):
  path = gguf_files.small(tmp_path / "x.gguf")
  damage(path, marker, skip, value)
  with pytest.raises(errors.UserError, match=words) as caught:
    conversion.convert(path, tmp_path / "out", "float32")
  assert str(caught.value).startswith(f"{path}: ")
  assert not (tmp_path / "out").exists()


def test_a_weight_that_is_not_finite_is_refused(tmp_path):
  name = "model.layers.0.mlp.up_proj.weight"
  damaged = gguf_files.tensors()[name]
  damaged[3, 4] = np.inf
  path = gguf_files.small(tmp_path / "x.gguf", {name: damaged})
  with pytest.raises(errors.UserError) as caught:
    conversion.convert(path, tmp_path / "out", "float32")
  assert f"{path}: blk.0.ffn_up.weight: NaN or infinity" in str(caught.value)
  assert not (tmp_path / "out").exists()
