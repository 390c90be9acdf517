"""Parity of the network, the embeddings, the adapters and generation."""

import dataclasses
import functools
import itertools
import json
import pathlib
from collections.abc import Iterator, Sequence

import jax
import numpy as np
import peft
import torch
import transformers

from benchmarks.parity_row import Row
from bigrec_jax import config as config_lib, models, progress
from bigrec_jax.config import LoraConfig
from bigrec_jax.data.text import prompts, tokenization
from bigrec_jax.decoding import generate
from bigrec_jax.devices import sharding
from bigrec_jax.models import (
  hf_export,
  hf_import,
  last_state,
  peft_import,
)
from configs import common
from tests.data import published, raw
from tests.peers import hugging_face, scripts
from tests.reference import old_generate, old_search

_VOCAB = 307
_SHAPE = dict(
  vocab_size=_VOCAB,
  hidden_size=40,
  intermediate_size=56,
  num_hidden_layers=2,
  num_attention_heads=4,
  num_key_value_heads=2,
  max_position_embeddings=1024,
  tie_word_embeddings=False,
  initializer_range=0.15,
)
_LLAMA3_ROPE = dict(
  rope_type="llama3",
  rope_theta=500_000.0,
  factor=8.0,
  low_freq_factor=1.0,
  high_freq_factor=4.0,
  original_max_position_embeddings=64,
)
_KINDS = {
  "LLaMA": (transformers.LlamaConfig, {"num_key_value_heads": 4}),
  "Llama-3": (transformers.LlamaConfig, {"rope_parameters": _LLAMA3_ROPE}),
  "Mistral": (transformers.MistralConfig, {"sliding_window": None}),
  "Qwen2": (transformers.Qwen2Config, {"tie_word_embeddings": True}),
}


def section() -> config_lib.Config:
  """Returns the default configuration."""
  return config_lib.from_config_dict(common.get_config())


@dataclasses.dataclass(frozen=True, eq=False)
class Pair:
  """The same random weights on both sides.

  Attributes:
    theirs: the transformers model.
    directory: where it is saved.
    mesh: over all devices.
    config: shape of ours.
    params: weights of ours.
  """

  theirs: transformers.PreTrainedModel
  directory: pathlib.Path
  mesh: jax.sharding.Mesh
  config: models.Architecture
  params: dict

  def ours(self, lora: LoraConfig | None = None) -> models.LanguageModel:
    """Returns our network."""
    return models.build(self.config, section().model, lora, self.mesh)

  def logits(
    self, tokens: Sequence[Sequence[int]], lora: tuple | None = None
  ) -> list[np.ndarray]:
    """Returns logits [n, V] of each row of a right-padded batch."""
    settings, tree = lora or (None, None)
    variables = {"params": self.params} | ({"lora": tree} if lora else {})
    width = max(map(len, tokens))
    rows = -len(tokens) % self.mesh.size + len(tokens)
    padded = np.zeros((rows, width), np.int32)
    segments = np.zeros((rows, width), np.int32)
    for row, ids in enumerate(tokens):
      padded[row, : len(ids)] = ids
      segments[row, : len(ids)] = 1
    positions = np.tile(np.arange(width, dtype=np.int32), (rows, 1))
    found = _forward(
      self.ours(settings), variables, padded, positions, segments
    )
    return [np.asarray(found[n, : len(ids)]) for n, ids in enumerate(tokens)]


@functools.partial(jax.jit, static_argnums=0)
def _forward(model: models.LanguageModel, variables: dict, *inputs: jax.Array):
  hidden = model.apply(variables, *inputs, True)
  return model.apply(variables, hidden, method="logits")


def pair(directory: pathlib.Path, kind: str, seed: int = 0) -> Pair:
  """Draws a model with transformers, saves it and loads it here."""
  make, changes = _KINDS[kind]
  torch.manual_seed(seed)
  model = transformers.AutoModelForCausalLM.from_config(
    make(**{**_SHAPE, **changes})
  )
  with torch.no_grad():
    for name, weight in model.named_parameters():
      # Else all norms are one and all biases nought.
      if name.endswith(("norm.weight", "bias")):
        weight += 0.2 * torch.randn_like(weight)
    # EOS in some hypotheses and not in others; logits far from flat.
    head = model.get_output_embeddings().weight
    head *= 3.0
    head[2] *= 2.0
  model.save_pretrained(directory)
  mesh = sharding.make_mesh(section().mesh)
  config, params = hf_import.load_base(directory, section().model, mesh)
  return Pair(hugging_face.load(directory), directory, mesh, config, params)


def _tokens(count: int, seed: int) -> list[list[int]]:
  rng = np.random.default_rng(seed)
  lengths = rng.integers(1, 90, count)
  return [rng.integers(3, _VOCAB, length).tolist() for length in lengths]


def _difference(ours: Sequence, theirs: Sequence) -> float:
  return max(
    float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True)
  )


def logits(root: pathlib.Path) -> Iterator[Row]:
  """Compares logits at every token of left- and right-padded batches."""
  for kind in _KINDS:
    both = pair(root / kind, kind)
    tokens = _tokens(8, seed=1)
    theirs = hugging_face.logits(both.theirs, tokens)
    difference = _difference(both.logits(tokens), theirs)
    cases = sum(map(len, tokens))
    yield Row(
      f"logits, {kind}", type(both.theirs).__name__, cases, difference, 1e-4
    )


# Ours and theirs. Every size of ours compiles a program per length bucket.
_EMBED_BATCHES = {"LLaMA": ((16, 16), (16, 50), (5, 1)), "Qwen2": ((16, 16),)}


def embed(root: pathlib.Path) -> Iterator[Row]:
  """Compares last-token states whatever the batch and the padding."""
  for kind, sizes in _EMBED_BATCHES.items():
    both = pair(root / kind, kind)
    tokens = [ids[:40] for ids in _tokens(50, seed=2)]
    differences = []
    for batch, their_batch in sizes:
      batch += -batch % both.mesh.size
      ours = last_state.embed_texts(
        both.ours(),
        both.params,
        tokens,
        batch,
        both.mesh,
        progress.NullProgress(),
      )
      theirs = hugging_face.last_states(both.theirs, tokens, their_batch)
      differences.append(float(np.abs(ours - theirs).max()))
    peer = "hidden_states[-1][:, -1]"
    yield Row(
      f"embeddings, {kind}", peer, 3 * len(tokens), max(differences), 1e-4
    )


def adapter(root: pathlib.Path) -> Iterator[Row]:
  """Compares logits under adapters that went either way, and merged ones."""
  both = pair(root / "base", "Qwen2")
  tokens = _tokens(8, seed=3)
  peer = f"peft {peft.__version__}"
  for name, targets in (
    ("q, v", ["q_proj", "v_proj"]),
    ("all", "all-linear"),
  ):
    torch.manual_seed(1)
    settings = peft.LoraConfig(
      r=5,
      lora_alpha=12,
      target_modules=targets,
      task_type="CAUSAL_LM",
      init_lora_weights=False,
    )
    theirs = peft.get_peft_model(hugging_face.load(both.directory), settings)
    theirs = theirs.eval()
    theirs.save_pretrained(root / name)
    lora, tree = peft_import.load_adapter(root / name, both.config)
    wanted = hugging_face.logits(theirs, tokens)
    changed = _difference(wanted, hugging_face.logits(both.theirs, tokens))
    cases = sum(map(len, tokens)) if changed > 0.1 else 0
    found = both.logits(tokens, (lora, tree))
    difference = _difference(found, wanted)
    yield Row(
      f"adapter of PEFT read here, {name}", peer, cases, difference, 1e-4
    )
    hf_export.save_adapter(
      root / f"{name} back", both.config, lora, tree, str(both.directory)
    )
    back = peft.PeftModel.from_pretrained(
      hugging_face.load(both.directory), root / f"{name} back"
    )
    ours, theirs = back.state_dict(), theirs.state_dict()
    difference = max(
      float((ours[k] - v).abs().max()) for k, v in theirs.items()
    )
    yield Row(f"and read back by PEFT, {name}", peer, len(ours), difference, 0)
    hf_export.save_merged(
      root / f"{name} merged", both.config, both.params, lora, tree, None
    )
    merged = hugging_face.load(root / f"{name} merged")
    difference = _difference(hugging_face.logits(merged, tokens), wanted)
    yield Row(f"merged export, {name}", "transformers", cases, difference, 1e-4)


_GENERATED = 12  # Tokens at most.
_EOS_IDS = ((2,), (2, 11, 40))


def generation(root: pathlib.Path) -> Iterator[Row]:
  """Compares ids, texts and scores of beam and greedy search."""
  directory = root / "base"
  texts, ours_tokenizer, theirs_tokenizer = _prompts(directory)
  both = pair(directory, "LLaMA", seed=4)
  prompt_ids = ours_tokenizer.encode_batch(texts)
  grid = list(itertools.product((1, 2, 4, 10), (0.0, 1.0, 2.0), (False, True)))
  for eos_ids in _EOS_IDS:
    result = _Generated()
    # Several ends only with four beams: else this takes minutes.
    for beams, penalty, early in grid:
      if beams == 1 and (penalty, early) != (1.0, False):
        continue  # Greedy search knows neither.
      if beams != 4 and len(eos_ids) > 1:
        continue
      flags = dict(length_penalty=penalty, early_stopping=early)
      result.add(
        _ours(both, prompt_ids, eos_ids, num_beams=beams, **flags),
        hugging_face.generate(
          both.theirs,
          prompt_ids,
          eos_ids=eos_ids,
          num_beams=beams,
          max_new_tokens=_GENERATED,
          **(flags if beams > 1 else {}),
        ),
        eos_ids,
        texts,
        ours_tokenizer,
        theirs_tokenizer,
      )
    ends = "EOS" if len(eos_ids) == 1 else f"{len(eos_ids)} EOS ids"
    yield from result.rows(f"transformers {transformers.__version__}", ends)


def _prompts(directory: pathlib.Path) -> tuple:
  """Returns inference prompts and both sides' tokenizer, of _VOCAB ids."""
  rng = np.random.default_rng(5)
  instruction, lead = published.SENTENCES["game"]
  render = prompts.Prompt("bigrec", instruction, lead)
  texts = [
    render.inference_text(
      instruction, render.input_text(rng.choice(raw.titles(60), n))
    )
    for n in (3, 8, 1, 6, 5, 2)
  ]
  tokenization.train_bpe(texts, _VOCAB, directory)
  theirs = transformers.AutoTokenizer.from_pretrained(directory)
  return texts, tokenization.load_tokenizer(directory), theirs


def _ours(
  both: Pair,
  prompt_ids: list[list[int]],
  eos_ids: tuple[int, ...],
  **changes: float,
) -> generate.Hypotheses:
  options = dataclasses.replace(
    section().generate,
    batch_size=-len(prompt_ids) % both.mesh.size + len(prompt_ids),
    max_new_tokens=_GENERATED,
    prompt_buckets=(512,),
    **changes,
  )
  return generate.generate(
    both.ours(),
    both.params,
    None,
    prompt_ids,
    options,
    eos_ids,
    both.mesh,
    seed=0,
    norm_lengths=None,
    trie=None,
    progress=progress.NullProgress(),
  )


class _Generated:
  """Sums up what differs between two sides' hypotheses."""

  def __init__(self):
    self._ended, self._cut, self._wrong_ended, self._wrong_cut = 0, 0, 0, 0
    self._wrong_texts, self._score = 0, 0.0

  def add(
    self,
    ours: generate.Hypotheses,
    theirs: tuple[list[list[list[int]]], np.ndarray],
    eos_ids: tuple[int, ...],
    texts: list[str],
    our_tokenizer: tokenization.Tokenizer,
    their_tokenizer: transformers.PreTrainedTokenizerBase,
  ) -> None:
    """Takes the hypotheses of one setting."""
    tokens, scores = theirs
    for prompt, found, wanted in zip(texts, ours.tokens, tokens, strict=True):
      for mine, other in zip(found, wanted, strict=True):
        ended = other[-1] in eos_ids
        self._ended += ended
        self._cut += not ended
        self._wrong_ended += ended and mine != other
        self._wrong_cut += not ended and mine != other
        # The published script decodes the prompt with it, then splits.
        text = their_tokenizer.decode(other, skip_special_tokens=True)
        text = scripts.prediction(prompt + text)
        mine = prompts.response_text(our_tokenizer.decode(mine))
        self._wrong_texts += mine != text
    self._score = max(self._score, float(np.abs(ours.scores - scores).max()))

  def rows(self, peer: str, ends: str) -> Iterator[Row]:
    """Yields the rows of the table."""
    what = f"generate, {ends}: ids"
    yield Row(f"{what}, ended", peer, self._ended, self._wrong_ended, 0)
    yield Row(f"{what}, cut off", peer, self._cut, self._wrong_cut, 0)
    cases = self._ended + self._cut
    yield Row(f"generate, {ends}: texts", peer, cases, self._wrong_texts, 0)
    yield Row(f"generate, {ends}: scores", peer, cases, self._score, 1e-4)


def old_generation(root: pathlib.Path) -> Iterator[Row]:
  """Compares beams with what the version that the paper ran with gave."""
  search = old_search.Search(root)
  golden = json.loads(old_generate.GOLDEN.read_text())
  cases = wrong = 0
  largest = 0.0
  for result in golden["results"]:
    tokens, scores = result.pop("tokens"), np.array(result.pop("scores"))
    found = search(length_norm_includes_prompt=True, **result)
    for mine, other in zip(found.tokens, tokens, strict=True):
      cases += len(other)
      wrong += sum(a != b for a, b in zip(mine, other, strict=True))
    largest = max(largest, float(np.abs(found.scores - scores).max()))
  peer = f"transformers {golden['transformers']}, recorded"
  what = "generate, length_norm_includes_prompt"
  yield Row(f"{what}: ids", peer, cases, wrong, 0)
  yield Row(f"{what}: scores", peer, cases, largest, 1e-4)
