"""M6-Rec's heads against whole texts one by one; parts of a network; meshes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigrec_jax import config as config_lib, models, progress
from bigrec_jax.config import from_config_dict
from bigrec_jax.devices import sharding
from bigrec_jax.models import hf_import, lora as lora_lib, own_weights
from bigrec_jax.tasks import protocol
from bigrec_jax.tasks.heads import evaluation, heads, late, objective, samples
from bigrec_jax.testing import store
from bigrec_jax.training import step
from configs import m6rec

LAYERS, USERS = 2, 6


def _config(**changes):
  values = m6rec.get_config("tiny")
  values.task.heads.update({"negatives": 4, "late_layers": 1} | changes)
  values.generate.batch_size = 4
  return from_config_dict(values)


CONFIG = _config()


@functools.cache
def tokenizer(directory):
  return store.tokenizer(directory)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
  return tokenizer(tmp_path_factory.mktemp("heads") / "words")


def clicks(split="test", users=USERS, negatives=4):
  prompt = dataclasses.replace(store.PROMPT, history_lead="Bought:")
  examples = store.examples(split, users, 7)
  return samples.Clicks(examples, store.catalogue(), prompt, negatives, 3)


@functools.cache
def _host(vocabulary):
  """Base and trained weights on one device; the adapter is not zero."""
  config = CONFIG.model
  shape = dataclasses.replace(
    config.arch, num_hidden_layers=LAYERS, num_key_value_heads=2
  )
  arch = models.from_arch(shape, vocabulary)
  mesh = sharding.single_device_mesh()
  rank = dataclasses.replace(CONFIG.lora, rank=3, dropout=0.0)
  base = hf_import.init_base(arch, 0, "float32", mesh)
  lora = lora_lib.init(arch, rank, 1, mesh)
  spec = own_weights.Spec(heads.weights(CONFIG.task.heads, arch), {})
  own = spec.init(2, mesh)
  rng = np.random.default_rng(0)
  lora = jax.tree.map(lambda x: rng.normal(0, 0.1, x.shape), lora)
  to_host = lambda tree: jax.tree.map(lambda x: np.float32(x), tree)  # noqa: E731
  return arch, rank, spec, to_host((base, lora, own))


def build(words, sizes=(1, 1, 1)):
  """Returns (mesh, model, base, trained)."""
  arch, rank, spec, host = _host(words.vocab_size)
  devices = jax.devices()[: int(np.prod(sizes))]
  mesh = sharding.make_mesh(config_lib.MeshConfig(*sizes), devices)
  # Scanned layers compile faster, and are the harder ones to take parts of.
  model = models.build(arch, CONFIG.model, rank, mesh).clone(unrolled=False)
  like = (
    hf_import.abstract_base(arch, "float32", mesh),
    lora_lib.abstract(arch, rank, mesh),
    spec.abstract(mesh),
  )
  base, lora, own = jax.tree.map(
    lambda x, y: jax.device_put(x, y.sharding), host, like
  )
  return mesh, model, base, own_weights.Trained(lora, own)


def batches(words, rows=4, source=None):
  layout = (source or clicks()).layout(words, CONFIG.train, rows)
  return layout(range(USERS))


@functools.partial(jax.jit, static_argnums=0)
def whole(model, variables, x):
  """Returns the states [B, W, D] of texts alone, tokens or embeddings."""
  network, own = model.executable(variables)
  at = jnp.arange(x.shape[1], dtype=jnp.int32)[None]
  at = jnp.broadcast_to(at, x.shape[:2])
  return network.apply(own, x, at, jnp.ones_like(at), True)


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def of_layers(model, variables, x, first, last):
  """The same of some layers."""
  network, own = model.executable(variables)
  return whole(*network.part(own, first, last), x)


def padded(texts):
  """Returns tokens [B, W], padded where nothing before can see it."""
  tokens = np.zeros((len(texts), max(map(len, texts))), np.int32)
  for line, ids in zip(tokens, texts, strict=True):
    line[: len(ids)] = ids
  return tokens


def last(states, texts, before=0):
  """Returns the states [B, D] at the ends of texts."""
  ends = np.array([before + len(ids) - 1 for ids in texts])
  return np.asarray(states)[np.arange(len(texts)), ends]


def slow(head, model, base, trained, words, source):
  """Scores [N, M], a text each, from the definition of each head."""
  pieces = samples.Pieces(source.texts, words)
  own = jax.tree.map(np.asarray, trained.own[head])
  tuned = {"params": base, "lora": trained.lora}
  parts, items = [], []  # Of every pair of prompt and candidate.
  for n, row in enumerate(source.drawn(range(USERS))):
    for title in row:
      parts.append([pieces.tokens[k] for k in source.pieces(n)])
      items.append(pieces.candidates[title])
  prompts = [[token for ids in own for token in ids] for own in parts]
  texts = [[*p, *item] for p, item in zip(prompts, items, strict=True)]
  if head == "towers":
    users = last(whole(model, tuned, padded(prompts)), prompts) @ own["user"]
    others = last(whole(model, tuned, padded(items)), items) @ own["item"]
    norms = np.linalg.norm(users, axis=1) * np.linalg.norm(others, axis=1)
    found = (users * others).sum(axis=1) / norms / CONFIG.task.heads.temperature
  elif head == "options":
    bare, frozen = model.clone(lora=None), {"params": base}
    x = bare.apply(*bare.executable(frozen)[1:], padded(texts), method="embed")
    soft = np.broadcast_to(own["prompt"], (len(texts), *own["prompt"].shape))
    x = np.concatenate([soft, x], axis=1)
    states = last(whole(bare, frozen, x), texts, len(own["prompt"]))
    found = states @ own["embeddings"].T @ np.float32([-1, 1])
  else:
    x = padded(texts)
    if head == "late":
      every = [*pieces.tokens[:2], *pieces.candidates]
      apart = np.asarray(of_layers(model, tuned, padded(every), 0, 1))
      x = np.zeros((*x.shape, apart.shape[-1]), np.float32)
      for line, own_parts, item in zip(x, parts, items, strict=True):
        start = 0
        for ids in [*own_parts, item]:
          # A title of the history is a candidate without its EOS.
          (k,) = (k for k, o in enumerate(every) if o[: len(ids)] == ids)
          line[start : start + len(ids)] = apart[k, : len(ids)]
          start += len(ids)
      states = last(of_layers(model, tuned, x, 1, LAYERS), texts)
    else:
      states = last(whole(model, tuned, x), texts)
    found = states @ own["kernel"][:, 0] + own["bias"]
  return found.reshape(USERS, -1)


@pytest.mark.parametrize("head", CONFIG.task.heads.heads)
def test_scores_equal_one_text_at_a_time(words, head):
  mesh, model, base, trained = build(words)
  source = clicks()
  expected = slow(head, model, base, trained, words, source)
  judge = evaluation.Heads(
    protocol.Tuned(protocol.Network(model, base, words, mesh), trained),
    source,
    CONFIG,
  )
  # Kept pieces and towers, as an evaluation has them.
  found = judge.scores(head, source, progress.NullProgress())
  np.testing.assert_allclose(found.scores, expected, atol=1e-4)
  assert found.gflops > 0
  if head not in ("late", "towers"):
    return
  # As training reads them, with nothing kept.
  variables = step.adapter_variables(base, trained)
  for batch in batches(words):
    put = {k: jnp.asarray(v) for k, v in batch.items()}

    @jax.jit
    def scores(put):
      own = model.executable(variables)
      return heads.Reader(*own, CONFIG.task.heads, mesh).scores(head, put)

    used = batch["samples"] >= 0
    np.testing.assert_allclose(
      np.asarray(scores(put))[used],
      expected[batch["samples"][used]],
      atol=1e-4,
    )


@pytest.mark.parametrize("unrolled", [True, False])
def test_parts_one_after_another_are_the_whole_network(words, unrolled):
  _, model, base, trained = build(words)
  model = model.clone(unrolled=unrolled)
  tokens = np.arange(5, 29, dtype=np.int32).reshape(2, 12)
  variables = {"params": base, "lora": trained.lora}
  x = of_layers(model, variables, tokens, 0, 1)
  found = of_layers(model, variables, x, 1, LAYERS)
  np.testing.assert_allclose(found, whole(model, variables, tokens), atol=1e-5)


def test_scores_on_a_mesh_equal_those_of_one_device(words):
  source, found = clicks(), []
  config = dataclasses.replace(
    CONFIG, generate=dataclasses.replace(CONFIG.generate, batch_size=8)
  )
  for sizes in ((2, 2, 2), (1, 1, 1)):
    mesh, model, base, trained = build(words, sizes)
    network = protocol.Network(model, base, words, mesh)
    judge = evaluation.Heads(protocol.Tuned(network, trained), source, config)
    found.append(judge.scores("late", source, progress.NullProgress()))
  np.testing.assert_allclose(found[0].scores, found[1].scores, atol=1e-4)
  assert found[0].gflops == pytest.approx(found[1].gflops, rel=1e-4)


@pytest.mark.torch
def test_losses_are_those_of_torch():
  torch = pytest.importorskip("torch")
  rng = np.random.default_rng(3)
  scores = rng.normal(size=(8, 5)).astype(np.float32)
  right = rng.integers(0, 5, 8)
  there = jnp.ones((8, 5), jnp.bool_)
  labels = torch.nn.functional.one_hot(torch.tensor(right), 5).float()
  for head, expected in (
    (
      "score",
      torch.nn.functional.binary_cross_entropy_with_logits(
        torch.tensor(scores), labels, reduction="none"
      ).mean(dim=1),
    ),
    (
      "towers",
      torch.nn.functional.cross_entropy(
        torch.tensor(scores), torch.tensor(right), reduction="none"
      ),
    ),
  ):
    found = objective.loss(
      head, jnp.asarray(scores), jnp.asarray(right, jnp.int32), there
    )
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5)


def test_texts_are_their_pieces(words):
  source = clicks()
  for n in range(USERS):
    text = source.text(n)
    pieces = samples.Pieces(source.texts, words)
    own = [token for k in source.pieces(n) for token in pieces.tokens[k]]
    from bigrec_jax.data.text import encoding

    assert [own] == encoding.encode_questions(
      words, [(text.prompt, text.seams)]
    )
    assert text.prompt.startswith("Bought: ")
    assert text.prompt.endswith(". Say what comes next.")
    assert late.FIRST == 2
