"""A tiny LLaMA as chat model, against whole forward passes in a loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigrec_jax import config as config_lib, models
from bigrec_jax.data.text import dialogue, tokenization
from bigrec_jax.devices import sharding
from bigrec_jax.models import hf_import
from bigrec_jax.tasks import protocol, written
from bigrec_jax.tasks.chat import model as model_lib
from bigrec_jax.testing import tiny_base
from configs import chatrec

TURNS = [
  dialogue.Turn("system", "You help."),
  dialogue.Turn("user", "Which red moon?"),
]
ANSWERS = ["red quest 1", "iron", "blue star saga 12"]


def _config(score="sum"):
  values = chatrec.get_config("tiny")
  values.task.chat.score = score
  values.task.chat.max_new_tokens = 6
  values.generate.prompt_buckets = (96,)
  return config_lib.from_config_dict(values)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
  folder = tiny_base.write(tmp_path_factory.mktemp("chat") / "base", 3)
  config = _config()
  mesh = sharding.make_mesh(config.mesh)
  arch, params = hf_import.load_base(folder, config.model, mesh)
  model = models.build(arch, config.model, None, mesh)
  tokenizer = tokenization.load_tokenizer(folder)
  return protocol.Network(model, params, tokenizer, mesh, folder)


@pytest.fixture(scope="module")
def logits(network):
  """Returns the function from a text's ids to all its logits [T, V]."""
  config = _config()
  alone = sharding.single_device_mesh()
  arch, params = hf_import.load_base(network.directory, config.model, alone)
  model = models.build(arch, config.model, None, alone)
  variables = {"params": params}

  @jax.jit
  def run(tokens):
    slots = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
    hidden = model.apply(variables, tokens, slots, jnp.ones_like(slots), True)
    head = model.apply(variables, method="head_weight")
    return (hidden @ head)[0]

  def padded(ids):
    tokens = np.zeros((1, 128), np.int32)
    tokens[0, : len(ids)] = ids
    return np.asarray(run(jnp.asarray(tokens)))[: len(ids)]

  return padded


def _prompt(network):
  turns = dialogue.Dialogues(network.directory, network.tokenizer)
  (ids,) = turns.tokens([TURNS])
  return ids


@pytest.mark.parametrize("score", ["sum", "mean"])
def test_log_probs_equal_whole_forward_passes(score, network, logits):
  chat = model_lib.DecodedChat(network, _config(score))
  found = chat.log_probs([TURNS, TURNS], [ANSWERS, ANSWERS[:1]])
  assert found.shape == (2, 3)
  prompt = _prompt(network)
  for n, answer in enumerate(ANSWERS):
    text = network.tokenizer.decode(prompt) + answer
    (ids,) = network.tokenizer.encode_data([text])
    ids = [*ids, network.tokenizer.eos_id]
    assert ids[: len(prompt)] == prompt
    logs = jax.nn.log_softmax(jnp.asarray(logits(ids)), axis=-1)
    own = [float(logs[t - 1, ids[t]]) for t in range(len(prompt), len(ids))]
    expected = np.sum(own) if score == "sum" else np.mean(own)
    assert found[0, n] == pytest.approx(expected, abs=1e-4)
  assert found[1, 0] == pytest.approx(found[0, 0], abs=1e-5)
  assert np.all(np.isneginf(found[1, 1:]))


def test_what_is_written_is_the_likeliest_token_each_time(network, logits):
  """One beam that stops at its first end is greedy decoding."""
  chat = model_lib.DecodedChat(network, _config())
  ids = _prompt(network)
  start = len(ids)
  for _ in range(6):
    ids = [*ids, int(np.argmax(logits(ids)[-1]))]
    if ids[-1] in network.tokenizer.eos_ids:
      break
  text = network.tokenizer.decode(ids[start:])
  assert chat.write(TURNS) == text.partition("\n### ")[0].strip()
  settings = written.greedy(_config().generate)
  assert (settings.num_beams, settings.early_stopping) == (1, True)
