"""Every task's evaluation of a tiny network: alone, or as one of processes.

  python -m tests.tasks.evaluated FOLDER TASK...   # one of several processes

FOLDER has the base of `testing.tiny_base`; what each task finds is written as
FOLDER/<task>.<process>.json.
"""

import contextlib
import json
import pathlib
import sys
import types

import jax
import numpy as np

from bigrec_jax import models
from bigrec_jax.config import MeshConfig, from_config_dict
from bigrec_jax.data.text import tokenization
from bigrec_jax.devices import sharding
from bigrec_jax.models import hf_import, lora, own_weights
from bigrec_jax.tasks import protocol, registry
from bigrec_jax.tasks.auxiliary import negatives
from bigrec_jax.testing import store
from bigrec_jax.workdir import parts, paths, processes
from configs import cao, chatrec, fairllm, gpt4rec, llara, lmrecsys, m6rec

CONFIGS = {
  "title_likelihood": lmrecsys,
  "heads": m6rec,
  "auxiliary": cao,
  "choose": llara,
  "query": gpt4rec,
  "chat": chatrec,
  "fairness": fairllm,
}
ROWS = 6
# Each process has half of every weight.
MESH = MeshConfig(1, 2, 1)


class _Bar:
  """Is told of what is done."""

  def update(self, count: int) -> None:
    """Nothing."""

  skip = update


def _config(name):
  values = CONFIGS[name].get_config("tiny")
  values.lora.dropout, values.ground.cf_model = 0.0, ""
  values.generate.batch_size, values.generate.max_new_tokens = 4, 3
  values.generate.prompt_buckets, values.train.length_buckets = (256,), (128,)
  values.task.choose.candidates = values.task.auxiliary.candidates = 4
  values.task.chat.candidates, values.task.chat.listed = 4, 2
  values.task.fairness.attributes, values.task.fairness.num_names = ("age",), 2
  values.task.fairness.begin = "1. "  # So that titles are read.
  values.ground.bootstrap_samples = 5
  return from_config_dict(values)


def _store(name, root, tokenizer, mesh):
  vectors = np.random.default_rng(3).normal(size=(store.ITEMS, 6))
  return types.SimpleNamespace(
    config=_config(name),
    paths=paths.Paths(root),
    manifest=types.SimpleNamespace(fingerprint="data"),
    catalogue=store.catalogue(),
    examples=lambda split: store.examples(split, ROWS, len(split)),
    prompt=store.PROMPT,
    tokenizer=tokenizer,
    tokenizer_dir=root / "base",
    mesh=mesh,
    cf_item_vectors=lambda model: vectors.astype(np.float32),
  )


def _networks(task, root, tokenizer, mesh):
  config = task.store.config
  arch, params = hf_import.load_base(root / "base", config.model, mesh)
  model = models.build(arch, config.model, config.lora, mesh)
  # Fresh ones are no adapter at all: one of their two factors is 0.
  trained = jax.tree.map(
    lambda x: x + 0.05, lora.init(arch, config.lora, 1, mesh)
  )
  spec = task.own_weights(arch)
  if spec is not None:
    trained = own_weights.Trained(trained, spec.init(2, mesh))
  network = protocol.Network(model, params, tokenizer, mesh, root / "base")
  bare = models.build(arch, config.model, None, mesh)
  untuned = protocol.Network(bare, params, tokenizer, mesh, root / "base")
  return protocol.Tuned(network, trained), untuned


def _written(split):
  """Returns predictions: of each row two titles."""
  titles = store.catalogue().titles
  return [
    {"predict": [f'"{titles[n]}"', f'"{titles[n + 1]}"']} for n in range(ROWS)
  ]


def _lists(histories, k, **_):
  """Returns the first items, as a recommender."""
  known = store.catalogue()
  ids = known.external_ids[:k]
  own = [
    types.SimpleNamespace(external_id=one, title=title)
    for one, title in zip(ids, known.titles, strict=False)
  ]
  return [own for _ in histories]


def found(name, root, mesh):
  """Returns what a task's evaluation finds, as JSON has it."""
  tokenizer = tokenization.load_tokenizer(root / "base")
  task = registry.make(_store(name, root, tokenizer, mesh))
  tuned, untuned = _networks(task, root, tokenizer, mesh)
  if name == "auxiliary":  # Who had what at all: of prepared data.
    every = [task.store.examples(split) for split in ("train", "valid", "test")]
    about = task.store.catalogue.groups, np.ones(store.ITEMS, bool)
    task.__dict__["_had"] = negatives.Negatives(lambda: every, *about)
  if name == "choose":  # Of its evaluation only this needs the network.
    return task.selection(tuned.network).measure(tuned.adapter)
  with parts.Parts(root / f"{name}.parts", "work") as kept:
    evidence = protocol.Evidence(
      tuned=lambda: tuned,
      untuned=lambda path: untuned,
      recommender=lambda: _lists,
      predictions=_written,
      progress=lambda *_: contextlib.nullcontext(_Bar()),
      parts=kept,
    )
    rows = task.evaluate(evidence)
  return [[row.split, row.system, dict(row.metrics)] for row in rows]


def main(folder, *names):
  """Joins the others and evaluates."""
  processes.join()
  mesh = sharding.make_mesh(MESH, jax.devices())
  for name in names:
    path = pathlib.Path(folder, f"{name}.{jax.process_index()}.json")
    path.write_text(json.dumps(found(name, pathlib.Path(folder), mesh)))
  processes.leave(0)


if __name__ == "__main__":
  jax.config.update("jax_numpy_dtype_promotion", "strict")
  main(*sys.argv[1:])
