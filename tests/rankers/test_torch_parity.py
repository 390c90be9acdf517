"""Embedding and grounding against torch and transformers, live."""

import dataclasses

import numpy as np
import pytest

from bigrec_jax import config as config_lib, progress
from bigrec_jax.models import hf_export
from bigrec_jax.rankers import evaluate
from configs import common as defaults
from tests.models import common, test_embedding
from tests.rankers import published

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

CUTOFFS = (1, 3, 5, 10, 20, 50)


def test_embeddings_equal_hidden_states_under_left_padding(tmp_path):
  config, texts = test_embedding.CONFIG, test_embedding._texts()
  hf_export.save_base(tmp_path / "m", config, common.noisy_params(config), None)
  model = transformers.AutoModelForCausalLM.from_pretrained(
    tmp_path / "m", attn_implementation="eager", dtype=torch.float32
  ).eval()
  found = test_embedding._embed(texts, 8)
  for start in range(0, len(texts), 16):  # The published batch.
    part = texts[start : start + 16]
    longest = max(len(text) for text in part)
    tokens = torch.zeros((len(part), longest), dtype=torch.int64)
    mask = torch.zeros_like(tokens)
    for row, text in enumerate(part):
      tokens[row, longest - len(text) :] = torch.tensor(text)
      mask[row, longest - len(text) :] = 1
    with torch.no_grad():
      output = model(
        input_ids=tokens, attention_mask=mask, output_hidden_states=True
      )
    want = output.hidden_states[-1][:, -1].numpy()
    np.testing.assert_allclose(found[start : start + 16], want, atol=1e-4)


def _world(duplicates):
  """Norm 1 and no exact ties: what float32 in torch ranks reliably."""
  world = published.world(seed=21, duplicates=duplicates)
  rng = np.random.default_rng(22)
  items = rng.standard_normal((211, 37)).astype(np.float32)
  world["items"] = items / np.linalg.norm(items, axis=1, keepdims=True)
  for row, title in enumerate(world["titles"]):
    # Equal titles stay equal vectors where the best of them counts.
    first = world["titles"].index(title)
    if duplicates == "best":
      world["items"][row] = world["items"][first]
  for split in ("valid", "test"):
    part = world[split]
    noise = rng.standard_normal((len(part["targets"]), 37)) * 0.12
    queries = world["items"][part["targets"]] + noise
    part["queries"] = queries.astype(np.float32)
  return world


def _places(scores):
  return scores.argsort(dim=-1).argsort(dim=-1).numpy()


def _ranks(scores, world, targets):
  place = _places(scores)
  ids: dict[str, list[int]] = {}
  for row, title in enumerate(world["titles"]):
    if world["duplicates"] == "best":
      ids.setdefault(title, []).append(row)
    else:
      ids[title] = [row]
  return [
    min(place[user][row] for row in ids[world["titles"][target]])
    for user, target in enumerate(targets)
  ]


def _normal(split, world):
  distance = torch.cdist(
    torch.from_numpy(split["queries"]), torch.from_numpy(world["items"]), p=2
  )
  low, high = distance.min(dim=1).values, distance.max(dim=1).values
  return (distance - low[:, None]) / (high - low)[:, None]


def _weights(name, split, world):
  if name == "popularity":
    share = torch.tensor(world["popularity"], dtype=torch.float32)
    share = share / share.sum()
    return ((share - share.min()) / (share.max() - share.min()))[None]
  scores = torch.from_numpy(split["cf"])
  low, high = scores.min(dim=1).values, scores.max(dim=1).values
  return (scores - low[:, None]) / (high - low)[:, None]


def _adjusted(name, split, world, gamma):
  weights = _weights(name, split, world)
  scores = torch.pow(1 + weights, -gamma) * _normal(split, world)
  return _ranks(scores, world, split["targets"])


@pytest.mark.parametrize(
  ("name", "duplicates", "grid", "quirks"),
  [
    ("cf", "last", "movie_ci", False),
    ("cf", "best", "game_ci", False),
    ("popularity", "last", "movie_pda", True),
  ],
)
def test_tables_equal_the_published_scripts(name, duplicates, grid, quirks):
  world = _world(duplicates)
  ground = config_lib.from_config_dict(defaults.get_config()).ground
  found = evaluate.evaluate(
    {
      split: evaluate.Split(
        world[split]["queries"],
        world[split]["targets"],
        world[split]["cf"],
        "cf",
      )
      for split in ("valid", "test")
    },
    world["items"],
    published.groups(world["titles"]),
    world["popularity"],
    dataclasses.replace(
      ground,
      duplicates=duplicates,
      gamma_grid=grid,
      protocol_quirks=quirks,
      injections=("none", name),
      bootstrap_samples=10,
    ),
    common.mesh(2, 2, 2),
    seed=0,
    progress=progress.NullProgress(),
  )
  gammas = published.GRIDS[grid]
  by_gamma = [_adjusted(name, world["valid"], world, g) for g in gammas]
  rows = {
    row.injection: row
    for row in found.results
    if row.split == "test" and row.protocol == "bigrec"
  }
  plain = _ranks(_normal(world["test"], world), world, world["test"]["targets"])
  for metric, function in published.METRICS.items():
    tuned = published.ndcg if quirks else function
    for k in CUTOFFS:
      gamma = published.first_best([tuned(r, k) for r in by_gamma], gammas)
      assert rows[name].gamma[metric][str(k)] == gamma
      value = function(_adjusted(name, world["test"], world, gamma), k)
      assert getattr(rows[name], metric)[str(k)] == pytest.approx(
        value, abs=1e-6
      )
      assert getattr(rows["none"], metric)[str(k)] == pytest.approx(
        function(plain, k), abs=1e-6
      )
