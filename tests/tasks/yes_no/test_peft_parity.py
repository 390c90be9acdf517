"""Losses, probabilities and AUC against transformers and PEFT, run live."""

import jax
import numpy as np
import pytest

from bigrec_jax import config as config_lib, models
from bigrec_jax.data.text import pipeline
from bigrec_jax.devices import sharding
from bigrec_jax.models import hf_import, peft_import
from bigrec_jax.results import metrics
from bigrec_jax.tasks import protocol
from bigrec_jax.tasks.yes_no import scoring
from bigrec_jax.training import optimizer, step
from tests.tasks.yes_no import made_up
from tests.training import tiny

pytestmark = pytest.mark.torch
COUNT = 37


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
  """(directory, tokenizer, PEFT model) of a tiny LLaMA with LoRA."""
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  peft = pytest.importorskip("peft")
  root = tmp_path_factory.mktemp("peer")
  tokenizer = made_up.tokenizer(root / "base")
  torch.manual_seed(0)
  arch = transformers.LlamaConfig(
    vocab_size=tokenizer.vocab_size,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=512,
    tie_word_embeddings=False,
    initializer_range=0.2,  # Large enough that scores differ.
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
  return root, tokenizer, model.eval()


def _ours(peer, mesh_sizes):
  root, tokenizer, _ = peer
  devices = jax.devices()[: int(np.prod(mesh_sizes))]
  mesh = sharding.make_mesh(config_lib.MeshConfig(*mesh_sizes), devices)
  section = tiny.config().model
  arch, base = hf_import.load_base(root / "base", section, mesh)
  lora_config, lora = peft_import.load_adapter(root / "adapter", arch)
  model = models.build(arch, section, lora_config, mesh)
  return protocol.Network(model, base, tokenizer, mesh), lora


def _theirs(peer, source):
  """Returns (P(Yes) [N], mean loss over the answers' tokens)."""
  import torch
  import transformers

  root, tokenizer, model = peer
  found, total, count = [], 0.0, 0
  fast = transformers.PreTrainedTokenizerFast(
    tokenizer_file=str(root / "base" / "tokenizer.json")
  )
  ids = fast.convert_tokens_to_ids(["Yes", "No"])
  for n in range(len(source)):
    text = source.text(n)
    asked = tokenizer.encode(text.question)
    whole = [*tokenizer.encode(text.training), tokenizer.eos_id]
    labels = [-100] * len(asked) + whole[len(asked) :]
    with torch.no_grad():
      logits = model(input_ids=torch.tensor([asked])).logits[0, -1]
      out = model(
        input_ids=torch.tensor([whole]), labels=torch.tensor([labels])
      )
    found.append(float(torch.softmax(logits[ids], dim=-1)[0]))
    answers = len(whole) - len(asked)
    total, count = total + float(out.loss) * answers, count + answers
  return np.array(found), total / count


@pytest.mark.parametrize("mesh_sizes", [(1, 1, 1), (2, 2, 2)])
def test_losses_probabilities_and_auc_are_those_of_peft(peer, mesh_sizes):
  stats = pytest.importorskip("scipy.stats")
  source = made_up.source("valid", COUNT, 3)
  network, lora = _ours(peer, mesh_sizes)
  scorer = scoring.Scorer(network, source, 8)
  ours = scorer.probabilities(lora)
  theirs, their_loss = _theirs(peer, source)
  assert theirs.std() > 0.05  # They do differ.
  np.testing.assert_allclose(ours, theirs, atol=1e-4)

  label = source.samples.label
  won = stats.mannwhitneyu(theirs[label], theirs[~label]).statistic
  expected = won / (label.sum() * (~label).sum())
  assert abs(metrics.roc_auc(label, ours) - expected) < 1e-4

  config = tiny.config(
    train_on_inputs=False, max_length=512, micro_batch_size=8
  ).train
  batches = pipeline.eval_batches(
    source,
    network.tokenizer,
    config,
    rows=8,
    batch_size=16,
    share_header=True,
  )
  steps = step.make_steps(
    network.model,
    optimizer.AdamW(0.0, 1.0),
    network.mesh,
    jax.device_put(lora, sharding.replicated(network.mesh)),
    loss_chunk=64,
    dropout_seed=None,
  )
  parts = [
    steps.evaluate(lora, network.params, step.put_batch(network.mesh, batch))
    for group in batches
    for batch in group
  ]
  loss = sum(float(p[0]) for p in parts) / sum(int(p[1]) for p in parts)
  np.testing.assert_allclose(loss, their_loss, rtol=1e-4)
