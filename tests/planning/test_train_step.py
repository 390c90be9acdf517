"""What a plan compiles and counts for training is what training runs."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from bigrec_jax import config as config_lib
from bigrec_jax.data.text import encoding, packing, shared_header
from bigrec_jax.planning import arguments, chips, plan, step_programs, topology
from bigrec_jax.training import optimizer, step, trainer
from bigrec_jax.workdir import paths as paths_lib
from tests.training import tiny

BATCH, ROWS, LENGTH, COMMON, TEXT = 64, 8, 64, 17, 32
MESH = (2, 2, 2)
CHIP = chips.Chip("a chip", 2**34, 1e12, 1e11, 1e10)
STEP = {  # Of training/step.py: the plan's name of it.
  "open_header": "open header",
  "accumulate": "accumulate",
  "close_header": "close header",
  "apply": "apply",
}


def settings(**train):
  """Returns a configuration whose texts fill their rows without a gap."""
  changes = {"batch_size": BATCH, "micro_batch_size": ROWS} | train
  config = tiny.config(max_length=LENGTH, **changes)
  return dataclasses.replace(
    config,
    lora=tiny.lora_config(0.0),
    mesh=config_lib.MeshConfig(*MESH),
    plan=dataclasses.replace(
      config.plan,
      parts=("train",),
      text_tokens=TEXT,
      prefix_tokens=COMMON,
      search=False,
    ),
  )


def make_plan(config, folder, chip=None, tell=print):
  sizes = {
    "model_type": "llama",
    "hidden_size": tiny.LLAMA.hidden_size,
    "intermediate_size": tiny.LLAMA.intermediate_size,
    "num_hidden_layers": tiny.LLAMA.num_hidden_layers,
    "num_attention_heads": tiny.LLAMA.num_attention_heads,
    "num_key_value_heads": tiny.LLAMA.num_key_value_heads,
    "tie_word_embeddings": tiny.LLAMA.tie_word_embeddings,
    "vocab_size": tiny.V,
  }
  (folder / "config.json").write_text(json.dumps(sizes))
  model = dataclasses.replace(config.model, path=str(folder))
  config = dataclasses.replace(config, model=model)
  target = topology.Target("cpu:8", tuple(jax.devices()), chip)
  return plan.Plan(config, paths_lib.Paths(folder), target, tell)


def test_what_is_not_counted_is_told(tmp_path):
  config, lines = settings(), []
  make_plan(config, tmp_path, tell=lines.append)
  assert not lines
  legal = settings(objective="legal_tokens", train_on_inputs=False)
  generate = dataclasses.replace(
    config.generate, constrained=True, prior="sasrec", lookahead=2
  )
  changed = dataclasses.replace(legal, generate=generate)
  make_plan(changed, tmp_path, tell=lines.append)
  assert len(lines) == 1 and "train.objective" in lines[0]
  parts = dataclasses.replace(config.plan, parts=("generate",))
  changed = dataclasses.replace(changed, plan=parts)
  make_plan(changed, tmp_path, tell=lines.append)
  assert [line.split(":")[1] for line in lines[1:]] == [
    f" config.generate.{key}" for key in ("constrained", "lookahead", "prior")
  ]


def planned(config, folder, chip=None):
  """Returns plan.json's content, and its programs by name."""
  found = make_plan(config, folder, chip).make()
  names = [row["name"].removeprefix("train: ") for row in found["programs"]]
  return found["train"], dict(zip(names, found["programs"], strict=True))


def trained(config):
  """Trains one step; returns {part: XLA's FLOPs of each call}, and tokens."""
  mesh, model, base, adapter = tiny.build(MESH)
  rng = np.random.default_rng(0)
  common, texts = rng.integers(1, tiny.V, COMMON), []
  for n in range(BATCH):
    own = rng.integers(1, tiny.V, TEXT - COMMON)
    own[0] = 1 + n % (tiny.V - 1)  # So that no more is common.
    tokens = np.concatenate([common, own]).astype(np.int32)
    texts.append(encoding.Encoded(tokens, 1, False))
  shared, first = {}, 0
  if trainer.shares_header(config.train, model):
    tokens = common.astype(np.int32)
    header = shared_header.Header(tokens, np.ones_like(tokens))
    texts = [header.own_part(text) for text in texts]
    shared = dict(zip(packing.ROWLESS, header, strict=True))
    first = header.length
  batches = packing.packed(texts, ROWS, LENGTH, 0, first)
  batches = [batch | shared for batch in batches]
  calls = {}

  def counting(name, function):
    compiled = []  # Its calls have equal shapes.

    def call(*given):
      if not compiled:
        compiled.append(function.lower(*given).compile())
      flops = compiled[0].cost_analysis()["flops"]
      calls.setdefault(STEP[name], []).append(flops)
      return compiled[0](*given)

    return call

  steps = step.make_steps(
    model,
    optimizer.AdamW(config.train.weight_decay, config.train.max_grad_norm),
    mesh,
    adapter,
    loss_chunk=config.train.loss_chunk,
    dropout_seed=None,
  )
  parts = {name: counting(name, getattr(steps, name)) for name in STEP}
  steps = dataclasses.replace(steps, **parts)
  state, sums = steps.init(adapter)
  sums = steps.add_up(sums, state, base, batches)
  steps.apply(state, sums, np.float32(1e-3))
  return calls, sum(sum(packing.count_tokens(batch)) for batch in batches)


@pytest.mark.parametrize("share", [True, False])
def test_it_compiles_the_programs_that_a_step_runs(tmp_path, share):
  config = settings(share_header=share)
  train, rows = planned(config, tmp_path)
  calls, tokens = trained(config)
  assert len(calls) == (4 if share else 2)
  counts = {n: row["xla_device_loops_once"]["flops"] for n, row in rows.items()}
  assert counts == {name: each[0] for name, each in calls.items()}
  assert train["micro_batches_per_step"] == len(calls["accumulate"])
  assert train["tokens_per_step"] == tokens == BATCH * TEXT
  assert train["header_tokens"] == (COMMON - 1 if share else 0)


def test_whole_texts_are_planned_as_before_there_was_a_header(tmp_path):
  train, rows = planned(settings(share_header=False), tmp_path, CHIP)
  assert list(rows) == ["accumulate", "apply"]
  # Numbers of commit 8f2d5ef, which knew whole texts only.
  work = rows["accumulate"]["work"]
  assert (work["flops"], work["executed"]) == (50_298_880, 62_685_184)
  assert work["bytes"] == 11_208_704
  assert train["micro_batches_per_step"] == 4
  assert train["tokens_per_step"] == BATCH * TEXT
  seconds = 4 * rows["accumulate"]["seconds"] + rows["apply"]["seconds"]
  assert train["seconds_per_step"] == pytest.approx(seconds)
  flops = work["flops"] * BATCH * TEXT / (ROWS * LENGTH)
  assert train["mfu"] == pytest.approx(flops / (seconds * 8 * CHIP.flops))


def test_a_step_pays_for_the_header_once(tmp_path):
  train, rows = planned(settings(), tmp_path, CHIP)
  assert list(rows) == ["open header", "close header", "accumulate", "apply"]
  seconds = {name: row["seconds"] for name, row in rows.items()}
  assert min(seconds.values()) > 0
  # 64 texts of 16 tokens of their own, 8 rows of 64 at a time.
  assert train["micro_batches_per_step"] == 2
  step_seconds = sum(seconds.values()) + seconds["accumulate"]
  assert train["seconds_per_step"] == pytest.approx(step_seconds)
  rate = BATCH * TEXT / step_seconds
  assert train["tokens_per_second"] == pytest.approx(rate)
  works = {name: row["work"] for name, row in rows.items()}
  opened, closed = works["open header"], works["close header"]
  flops = 2 * works["accumulate"]["flops"] + opened["flops"] + closed["flops"]
  share = flops / (step_seconds * 8 * CHIP.flops)
  assert train["mfu"] == pytest.approx(share)
  # Each half of the data axis reads all of the header, and reads it twice.
  assert opened["executed"] >= MESH[0] * opened["flops"]
  assert closed["executed"] >= MESH[0] * (closed["flops"] + opened["flops"])


def test_what_stays_in_memory_beside_a_program(tmp_path):
  made = make_plan(settings(), tmp_path)
  shape = step_programs.train_shape(made.config, made.net, ROWS)
  train = step_programs.train(made.net, made.config, shape)
  adapter, base = (
    arguments.device_bytes(tree) for tree in (made.net.adapter, made.net.base)
  )
  config = tiny.LLAMA
  keys = 2 * config.num_key_value_heads * config.head_dim
  prefix = config.num_hidden_layers * keys * (COMMON - 1) * 4
  assert train.accumulate.elsewhere == 2 * adapter  # Adam's moments.
  assert train.apply.elsewhere == base
  opens, closes = train.header
  assert opens.elsewhere == 3 * adapter + 3 * 4  # Sums, of three counts.
  assert closes.elsewhere == 2 * adapter + prefix


def test_what_decides_whether_there_is_a_header(tmp_path):
  def tokens(section, **changes):
    config = settings()
    changed = dataclasses.replace(getattr(config, section), **changes)
    config = dataclasses.replace(config, **{section: changed})
    made = make_plan(config, tmp_path)
    shape = step_programs.train_shape(made.config, made.net, ROWS)
    return shape.prefix, shape.own

  assert tokens("plan") == (COMMON - 1, TEXT - COMMON + 1)
  # As in training: a few tokens stay in the rows, flash kernels know none,
  assert tokens("plan", prefix_tokens=16) == (0, TEXT)
  assert tokens("plan", prefix_tokens=18) == (17, TEXT - 17)
  assert tokens("model", attention="splash") == (0, TEXT)
  # and texts are cut before their beginning is looked for.
  assert tokens("train", max_length=17) == (16, 1)
