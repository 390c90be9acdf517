"""FLOP formulas against XLA's count of a network without loops."""

import dataclasses

import jax
import pytest

from bigrec_jax import config as config_lib, models
from bigrec_jax.devices import sharding
from bigrec_jax.planning import (
  arguments,
  header_work,
  step_programs,
  unrolled,
  work,
)
from configs import common

# Blocks of 128 queries: the last one is shorter.
ROWS, LENGTH = 3, 300
WHOLE = step_programs.TrainShape(ROWS, LENGTH, LENGTH, 0, LENGTH)


def settings(remat):
  config = common.get_config()
  arch = config.model.arch
  arch.hidden_size, arch.intermediate_size = 256, 704
  arch.num_hidden_layers, arch.num_attention_heads = 5, 4
  arch.num_key_value_heads, arch.tie_word_embeddings = 2, False
  config.model.remat, config.pretrain.vocab_size = remat, 1000
  config.lora.target_modules = ("q_proj", "v_proj", "down_proj")
  config.lora.dropout = 0.0
  config.train.max_length, config.plan.text_tokens = LENGTH, LENGTH
  return config_lib.from_config_dict(config)


def adapted(remat, modules):
  config = settings(remat)
  changed = dataclasses.replace(config.lora, target_modules=modules)
  config = dataclasses.replace(config, lora=changed)
  size = config.pretrain.vocab_size
  return config, models.from_arch(config.model.arch, size)


def sizes(config, arch):
  return work.Network(
    arch, config.lora, 4, "none", config.model.remat, "xla", 1
  )


@pytest.mark.parametrize("prefix", [0, 150])
@pytest.mark.parametrize("remat", ["none", "full", "dots"])
@pytest.mark.parametrize(
  "modules", [("q_proj", "v_proj", "down_proj"), ("v_proj", "o_proj")]
)
def test_a_micro_batch_against_xla(remat, modules, prefix):
  config, arch = adapted(remat, modules)
  shape = dataclasses.replace(WHOLE, prefix=prefix)
  counted = unrolled.accumulate_flops(arch, config, shape)
  net = sizes(config, arch)
  found = work.accumulate(net, ROWS, LENGTH, LENGTH, prefix)
  spared = work.first_layer(net, ROWS, LENGTH, prefix)
  # XLA also counts elementwise operations: less than 2 % at this width.
  excess = counted / (found.executed - spared) - 1
  assert 0 < excess < 0.02


@pytest.mark.parametrize("remat", ["none", "full", "dots"])
@pytest.mark.parametrize(
  "modules", [("q_proj", "v_proj", "down_proj"), ("k_proj", "o_proj")]
)
def test_the_header_against_xla(remat, modules):
  config, arch = adapted(remat, modules)
  shape = dataclasses.replace(WHOLE, prefix=150)
  counted = unrolled.header_flops(arch, config, shape)
  expected = header_work.one_by_one(sizes(config, arch), 150)
  assert 0 < counted / expected - 1 < 0.02


def test_the_header_is_useful_work_once_and_done_twice():
  config, arch = adapted("none", ("q_proj", "v_proj", "down_proj"))
  net = sizes(config, arch)
  opened = header_work.open_header(net, 96)
  closed = header_work.close_header(net, 96, 97, labelled=True)
  # As a row of 96 tokens, whose forward pass is made again.
  row = work.accumulate(net, 1, 96, 97)
  assert opened.flops + closed.flops == row.flops
  head = 4 * 256 * 1000
  assert closed.executed == row.executed + head
  # Instructions that are no labels spare the head.
  spared = header_work.close_header(net, 96, 97, labelled=False)
  assert closed.flops - spared.flops == 96 * head
  # Each part of the data axis does all of it.
  four = dataclasses.replace(net, replicas=4)
  assert header_work.open_header(four, 96).executed == 4 * opened.executed
  assert header_work.open_header(four, 96).flops == opened.flops


def test_the_first_layer_of_layers_one_by_one_needs_fewer_gradients():
  config = settings("none")
  arch = models.from_arch(config.model.arch, config.pretrain.vocab_size)
  tokens, rank = ROWS * LENGTH, config.lora.rank
  # Of q, k and v for their input; keys have no adapter. Blocks of queries see
  # all keys up to their end.
  products = 2 * tokens * 256 * (256 + 2 * 128 + 2 * rank)
  pairs = ROWS * (128 * 128 + 128 * 256 + 44 * 300)
  spared = work.first_layer(sizes(config, arch), ROWS, LENGTH)
  assert spared == products + 2 * 256 * pairs


def test_layers_extrapolate_exactly():
  config = settings("none")
  arch = models.from_arch(config.model.arch, config.pretrain.vocab_size)
  three = dataclasses.replace(arch, num_hidden_layers=3)
  mesh = sharding.make_mesh(
    config_lib.MeshConfig(1, 1, 1), jax.devices("cpu")[:1]
  )
  plain = dataclasses.replace(
    config,
    model=dataclasses.replace(config.model, scan_layers=False, attention="xla"),
    train=dataclasses.replace(config.train, loss_chunk=ROWS * LENGTH),
  )
  net = arguments.network(three, plain, mesh)
  made = step_programs.train(net, plain, WHOLE)
  direct = made.accumulate.lower().cost_analysis()["flops"]
  extrapolated = unrolled.accumulate_flops(three, config, WHOLE)
  assert extrapolated == pytest.approx(direct, rel=1e-5)


def test_frozen_weights_have_no_gradient_and_attention_counts_once():
  config = settings("none")
  arch = models.from_arch(config.model.arch, config.pretrain.vocab_size)
  net = sizes(config, arch)
  layer = 256 * (256 + 256 + 2 * 128) + 3 * 256 * 704
  assert net.linear() == layer
  rank, tokens = config.lora.rank, ROWS * LENGTH
  adapter = rank * ((256 + 256) + (256 + 128) + (704 + 256))
  pairs = ROWS * LENGTH * (LENGTH + 1) / 2
  useful = 5 * (4 * tokens * layer + 6 * tokens * adapter + 12 * 256 * pairs)
  useful += 4 * tokens * 256 * 1000
  assert work.accumulate(net, ROWS, LENGTH, 32).flops == useful


def test_a_decode_step_moves_weights_and_caches_once():
  config = settings("none")
  arch = models.from_arch(config.model.arch, config.pretrain.vocab_size)
  net = dataclasses.replace(sizes(config, arch), itemsize=2)
  one = work.decode_step(net, 7, 64, 16, 4, 31, 15.0)
  more = work.decode_step(net, 7, 64 + 10, 16, 4, 31, 15.0)
  # Keys and values of ten more tokens of each of 7 users, once for all beams.
  assert more.bytes - one.bytes == 5 * 7 * 10 * 2 * 128 * 2
  quantised = dataclasses.replace(net, quantization="nf4")
  less = work.decode_step(quantised, 7, 64, 16, 4, 31, 15.0)
  assert one.bytes - less.bytes == 5 * net.linear() * (2 - 4.5 / 8)
