"""Soft tokens against transformers and PEFT with a torch projector, live.

Embeddings, loss, its gradients and what is written are those of LLaMA run on
`inputs_embeds` with the projected vectors put in by a loop.
"""

import dataclasses

import jax
import numpy as np
import pytest

from bigrec_jax import config as config_lib, models
from bigrec_jax.data.text import encoding, packing, pipeline, tokenization
from bigrec_jax.decoding import generate
from bigrec_jax.devices import sharding
from bigrec_jax.models import hf_import, own_weights, peft_import, soft_tokens
from bigrec_jax.progress import NullProgress
from bigrec_jax.training import objective as objective_lib, step
from tests.data.text.test_soft_tokens import TITLES, Texts
from tests.training import tiny

pytestmark = pytest.mark.torch
E, WIDTH = 6, 32


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
  """(root, tokenizer, PEFT model, torch projector, item vectors)."""
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  peft = pytest.importorskip("peft")
  root = tmp_path_factory.mktemp("peer")
  words = [*TITLES, "Played . The next game of this user will surely be , "]
  tokenization.train_bpe(words, 300, root / "base")
  tokenizer = tokenization.load_tokenizer(root / "base")
  torch.manual_seed(0)
  arch = transformers.LlamaConfig(
    vocab_size=tokenizer.vocab_size,
    hidden_size=WIDTH,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=512,
    tie_word_embeddings=False,
    initializer_range=0.2,
  )
  base = transformers.LlamaForCausalLM(arch)
  base.save_pretrained(root / "base")
  lora = peft.LoraConfig(
    r=3,
    lora_alpha=16,
    lora_dropout=0.0,
    target_modules=["q_proj", "v_proj"],
    task_type="CAUSAL_LM",
  )
  model = peft.get_peft_model(base, lora)
  for name, weight in model.named_parameters():
    if "lora_B" in name:
      torch.nn.init.normal_(weight, std=0.3)
  model.save_pretrained(root / "adapter")
  nn = torch.nn
  projector = nn.Sequential(
    nn.Linear(E, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH)
  )
  table = np.random.default_rng(0).normal(size=(len(TITLES), E))
  return root, tokenizer, model.eval(), projector, table.astype(np.float32)


def _ours(peer, mesh_sizes):
  """Returns (mesh, model, base, trained)."""
  root, _, _, projector, _ = peer
  devices = jax.devices()[: int(np.prod(mesh_sizes))]
  mesh = sharding.make_mesh(config_lib.MeshConfig(*mesh_sizes), devices)
  section = tiny.config().model
  arch, base = hf_import.load_base(root / "base", section, mesh)
  lora_config, lora = peft_import.load_adapter(root / "adapter", arch)
  own: dict = {"projector": {}}
  for name, layer in (("in", projector[0]), ("out", projector[2])):
    own["projector"][name] = {
      "kernel": layer.weight.detach().numpy().T,
      "bias": layer.bias.detach().numpy(),
    }
  spec = own_weights.Spec(soft_tokens.projector(E, WIDTH), {})
  own = jax.tree.map(
    lambda x, like: jax.device_put(np.array(x), like.sharding),
    own,
    spec.abstract(mesh),
  )
  lora = jax.device_put(lora, sharding.replicated(mesh))
  model = models.build(arch, section, lora_config, mesh)
  return mesh, model, base, own_weights.Trained(lora, own)


def _their_embeddings(peer, tokens, places, items):
  import torch

  _, _, model, projector, table = peer
  x = model.get_input_embeddings()(torch.tensor(tokens)[None])[0].clone()
  for place, item in zip(places, items, strict=True):
    if item >= 0:
      x[place] = projector(torch.tensor(table[item]))
  return x[None]


def _examples(peer):
  """Returns the encoded texts; of the last four items are left out."""
  encoder = encoding.Encoder(peer[1], max_length=80, train_on_inputs=False)
  source = Texts()
  return encoder.encode_batch([source.text(n) for n in (*range(6), 8, 10)])


@pytest.mark.parametrize("mesh_sizes", [(1, 1, 1), (2, 2, 2)])
def test_embeddings_loss_and_gradients_are_those_of_torch(peer, mesh_sizes):
  import torch

  mesh, model, base, trained = _ours(peer, mesh_sizes)
  examples = _examples(peer)
  pairs = [examples[n : n + 2] for n in range(0, 8, 2)]
  batch = packing.fill([*pairs, *[[]] * 4], 8, 128, peer[1].pad_id)
  rows = step.put_batch(mesh, batch)
  objective = objective_lib.SoftTokens(item_vectors=peer[4])
  rows |= sharding.put_replicated(mesh, dict(objective.tables))

  def loss(trained, base, rows):
    variables = step.adapter_variables(base, trained)
    found = objective(
      model, variables, rows, None, chunk=40, mesh=mesh, prefix=None
    )
    x = soft_tokens.inputs(model, variables, rows)
    return found.loss, (found.count, x)

  run = jax.jit(jax.value_and_grad(loss, has_aux=True))
  (total, (count, x)), grads = run(trained, base, rows)

  _, _, theirs, projector, _ = peer
  theirs.zero_grad(), projector.zero_grad()
  expected, labels, rows_of = 0.0, 0, np.asarray(x)
  for n, example in enumerate(examples):
    own = _their_embeddings(peer, example.tokens, example.places, example.items)
    start = len(examples[n - 1].tokens) if n % 2 else 0
    ours = rows_of[n // 2, start : start + len(example.tokens)]
    np.testing.assert_allclose(ours, own[0].detach().numpy(), atol=1e-5)
    target = torch.tensor(example.tokens, dtype=torch.int64)
    target[: example.first_label] = -100
    out = theirs(inputs_embeds=own, labels=target[None])
    here = len(example.tokens) - example.first_label
    (out.loss * here).backward()
    expected, labels = expected + float(out.loss) * here, labels + here
  assert int(count) == labels
  np.testing.assert_allclose(float(total), expected, rtol=1e-4)
  own = grads.own["projector"]
  for name, layer in (("in", projector[0]), ("out", projector[2])):
    np.testing.assert_allclose(
      own[name]["kernel"], layer.weight.grad.numpy().T, rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(
      own[name]["bias"], layer.bias.grad.numpy(), rtol=1e-4, atol=1e-4
    )
  assert float(np.abs(own["in"]["kernel"]).max()) > 1e-3


@pytest.mark.parametrize("mesh_sizes", [(1, 1, 1), (4, 1, 2)])
def test_greedy_texts_and_their_logits_are_those_of_torch(peer, mesh_sizes):
  import torch

  mesh, model, base, trained = _ours(peer, mesh_sizes)
  _, tokenizer, theirs, _, table = peer
  asked = pipeline.soft_questions(Texts(), tokenizer)
  config = dataclasses.replace(
    tiny.config().generate,
    num_beams=1,
    max_new_tokens=10,
    batch_size=4,
    length_penalty=0.0,
    prompt_buckets=(128,),
  )
  found = generate.generate(
    model,
    base,
    trained,
    [example.tokens.tolist() for example in asked],
    config,
    tokenizer.eos_ids,
    mesh,
    seed=0,
    norm_lengths=None,
    trie=None,
    progress=NullProgress(),
    soft=soft_tokens.Prompts(
      [example.places for example in asked],
      [example.items for example in asked],
      table,
    ),
  )
  for n, example in enumerate(asked):
    x = _their_embeddings(peer, example.tokens, example.places, example.items)
    with torch.no_grad():
      out = theirs.generate(
        inputs_embeds=x,
        attention_mask=torch.ones(x.shape[:2], dtype=torch.int64),
        do_sample=False,
        max_new_tokens=10,
        eos_token_id=list(tokenizer.eos_ids),
        pad_token_id=tokenizer.pad_id,
        output_logits=True,
        return_dict_in_generate=True,
      )
    written = out.sequences[0].tolist()
    assert found.tokens[n][0] == written
    score = sum(
      float(torch.log_softmax(logits[0], -1)[token])
      for logits, token in zip(out.logits, written, strict=True)
    )
    np.testing.assert_allclose(found.scores[n, 0], score, rtol=1e-4)
  assert len({tuple(tokens[0]) for tokens in found.tokens}) > 2
