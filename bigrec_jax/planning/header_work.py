"""FLOPs and bytes of the header that training computes once per step.

As in work.py. One text has no rows to split, so each part of the mesh's data
axis computes all of it: that is what `Network.replicas` counts here. Over fsdp
the compiler splits most of its products by the width, and tensor splits them
by heads, so that a floor counts neither.

Letters: P tokens of the header, C = P + 1 of them with the one that its last
position predicts, as in training/header.py.
"""

import dataclasses

from bigrec_jax.planning import work


def open_header(net: work.Network, prefix: int) -> work.Work:
  """Returns the work of reading the header, for its keys and values.

  Args:
    net: the network; `replicas` are the parts of the mesh's data axis.
    prefix: P.
  """
  config, layers = net.config, net.config.num_hidden_layers
  pair = 4 * config.num_attention_heads * config.head_dim
  common = 2 * prefix * (net.linear() + net.adapter())
  useful = layers * (common + pair * prefix * (prefix + 1) / 2)
  done = net.pairs(prefix, net.attention)
  moved = prefix * net.edges() * net.itemsize + net.layer_bytes()
  moved += 4 * config.num_attention_heads * done * 4  # Scores, as in training.
  moved = moved * net.replicas + net.entries(prefix) * (net.itemsize + 4)
  executed = layers * (common + pair * done) * net.replicas
  return work.Work(useful, executed, layers * moved)


def close_header(
  net: work.Network, prefix: int, chunk: int, labelled: bool
) -> work.Work:
  """Returns the work of the header's gradient and of its own loss.

  It is read a second time, which only `executed` counts.

  Args:
    net: as for `open_header`.
    prefix: P.
    chunk: positions whose logits are held at once.
    labelled: whether the header's tokens are labels; else the head is spared.
  """
  config, count = net.config, net.replicas
  alone = dataclasses.replace(net, replicas=1)
  stack, forward = work.layers(alone, 1, prefix, 0), open_header(alone, prefix)
  head, turns = 4 * config.hidden_size * config.vocab_size, -(-prefix // chunk)
  moved = 2 * turns * net.head_bytes() + 3 * prefix * config.vocab_size * 4
  labels, positions = (prefix, turns * chunk) if labelled else (0, 0)
  return work.Work(
    flops=stack.flops - forward.flops + labels * head,
    executed=count * (stack.executed + positions * head),
    bytes=count * (stack.bytes + (moved if labelled else 0.0))
    + config.num_hidden_layers * net.entries(prefix) * 4,
  )


def one_by_one(net: work.Network, prefix: int) -> float:
  """Returns FLOPs of opening and closing where layers are one by one.

  A loop makes all layers the same. One by one they spare, in the first layer,
  gradients that nobody needs (`work.first_layer`), and, where the header is
  opened, all of the last layer but its keys and values.

  Args:
    net: on one device.
    prefix: P.
  """
  readers = ("k_proj", "v_proj")
  targets = tuple(n for n in net.lora.target_modules if n in readers)
  kept = dataclasses.replace(
    net, lora=dataclasses.replace(net.lora, target_modules=targets)
  )
  weights = net.linear() + net.adapter() - net.linear(readers) - kept.adapter()
  pair = 4 * net.config.num_attention_heads * net.config.head_dim
  spared = 2 * prefix * weights + pair * net.pairs(prefix, net.attention)
  opened = open_header(net, prefix).executed - spared
  closed = close_header(net, prefix, prefix + 1, labelled=True).executed
  return opened + closed - work.first_layer(net, 1, prefix)
