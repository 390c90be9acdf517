"""FLOP formulas against XLA's count of a network without loops."""

import dataclasses

import jax
import pytest

from bigrec_jax import config as config_lib, sharding
from bigrec_jax.models.config import LlamaConfig
from bigrec_jax.planning import arguments, programs, unrolled, work
from configs import common

# Blocks of 128 queries: the last one is shorter.
ROWS, LENGTH = 3, 300


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


def sizes(config, arch):
  return work.Network(
    arch, config.lora, 4, "none", config.model.remat, "xla", 1
  )


@pytest.mark.parametrize("remat", ["none", "full", "dots"])
@pytest.mark.parametrize(
  "modules", [("q_proj", "v_proj", "down_proj"), ("v_proj", "o_proj")]
)
def test_a_micro_batch_against_xla(remat, modules):
  config = settings(remat)
  config = dataclasses.replace(
    config, lora=dataclasses.replace(config.lora, target_modules=modules)
  )
  arch = LlamaConfig.from_arch(config.model.arch, config.pretrain.vocab_size)
  counted = unrolled.accumulate_flops(arch, config, ROWS)
  net = sizes(config, arch)
  found = work.accumulate(net, ROWS, LENGTH, LENGTH)
  spared = work.first_layer(net, ROWS, LENGTH)
  # XLA also counts elementwise operations: less than 2 % at this width.
  excess = counted / (found.executed - spared) - 1
  assert 0 < excess < 0.02


def test_the_first_layer_of_layers_one_by_one_needs_fewer_gradients():
  config = settings("none")
  arch = LlamaConfig.from_arch(config.model.arch, config.pretrain.vocab_size)
  tokens, rank = ROWS * LENGTH, config.lora.rank
  # Of q, k and v for their input; keys have no adapter. Blocks of queries see
  # all keys up to their end.
  products = 2 * tokens * 256 * (256 + 2 * 128 + 2 * rank)
  pairs = ROWS * (128 * 128 + 128 * 256 + 44 * 300)
  spared = work.first_layer(sizes(config, arch), ROWS, LENGTH)
  assert spared == products + 2 * 256 * pairs


def test_layers_extrapolate_exactly():
  config = settings("none")
  arch = LlamaConfig.from_arch(config.model.arch, config.pretrain.vocab_size)
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
  accumulate, _ = programs.train(net, plain, ROWS)
  direct = accumulate.lower().cost_analysis()["flops"]
  extrapolated = unrolled.accumulate_flops(three, config, ROWS)
  assert extrapolated == pytest.approx(direct, rel=1e-5)


def test_frozen_weights_have_no_gradient_and_attention_counts_once():
  config = settings("none")
  arch = LlamaConfig.from_arch(config.model.arch, config.pretrain.vocab_size)
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
  arch = LlamaConfig.from_arch(config.model.arch, config.pretrain.vocab_size)
  net = dataclasses.replace(sizes(config, arch), itemsize=2)
  one = work.decode_step(net, 7, 64, 16, 4, 31, 15.0)
  more = work.decode_step(net, 7, 64 + 10, 16, 4, 31, 15.0)
  # Keys and values of ten more tokens of each of 7 users, once for all beams.
  assert more.bytes - one.bytes == 5 * 7 * 10 * 2 * 128 * 2
  quantised = dataclasses.replace(net, quantization="nf4")
  less = work.decode_step(quantised, 7, 64, 16, 4, 31, 15.0)
  assert one.bytes - less.bytes == 5 * net.linear() * (2 - 4.5 / 8)
