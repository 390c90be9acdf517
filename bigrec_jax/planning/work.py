"""FLOPs and bytes of each compiled program, from formulas.

XLA's cost analysis counts the body of a loop once, and layers, chunks of
logits and decode steps are loops here; so the work is counted by formula. The
tests hold the FLOPs against XLA's count of a network without loops, and every
plan shows XLA's count of one and two unrolled layers, extrapolated.

FLOPs: a product of [n, d] and [d, f] is 2 n d f. A frozen weight costs the
backward pass one product, for its input, and none for itself; an adapter's
matrices cost two. Causal attention counts the T (T + 1) / 2 pairs that are
seen; `executed` adds what the chosen implementation does beyond that, and what
rematerialisation repeats. Elementwise work is left out.

Bytes: what has to cross HBM if every product reads its operands and writes its
result once, and all else is fused. A compiled program moves more; it is a
floor like the rest.

Letters: L layers, D width, V vocabulary, N query heads, K key heads, H head
size, R rows, T tokens of a row, B users, S prompt, P prefix, W beams, U steps.
"""

import dataclasses

from bigrec_jax.config import LoraConfig
from bigrec_jax.models import Architecture, attention, registry

# Bits of a weight with its scales (quantize.py: nf4 has one float32 a block).
_BITS = {"int8": 8.0, "nf4": 4.5}


@dataclasses.dataclass(frozen=True)
class Work:
  """What one call of a program does, on all devices together.

  Attributes:
    flops: that the result needs, causal attention counted once; MFU's.
    executed: that the program does.
    bytes: over HBM.
    passes: of the matrix unit per product: 6 for float32 at highest precision
      on a TPU, 1 for bfloat16.
  """

  flops: float
  executed: float
  bytes: float
  passes: int = 1


@dataclasses.dataclass(frozen=True)
class Network:
  """Sizes of a network on a mesh, for the formulas.

  Attributes:
    config: of the base.
    lora: of the adapter.
    itemsize: bytes of an activation, and of a weight that isn't quantised.
    quantization: `none`, `int8` or `nf4`.
    remat: `none`, `full` or `dots`.
    attention: `xla`, `cudnn` or `splash`.
    replicas: devices that read a weight's every byte: data x fsdp.
  """

  config: Architecture
  lora: LoraConfig
  itemsize: int
  quantization: str
  remat: str
  attention: str
  replicas: int

  def linear(self, modules: tuple[str, ...] | None = None) -> int:
    """Weights of linear layers, None = all, in one layer of the network."""
    return sum(a * b for a, b in self._sizes(modules))

  def adapter(self) -> int:
    """Weights of the adapter in one layer."""
    sizes = self._sizes(self.lora.target_modules)
    return sum((a + b) * self.lora.rank for a, b in sizes)

  def edges(self) -> int:
    """Inputs and outputs of all linear layers, per token and layer."""
    return sum(a + b for a, b in self._sizes())

  def layer_bytes(self) -> float:
    """Bytes of one layer's linear weights, as stored."""
    bits = _BITS.get(self.quantization, 8.0 * self.itemsize)
    return self.linear() * bits / 8

  def head_bytes(self) -> float:
    """Bytes of the output matrix."""
    return self.config.hidden_size * self.config.vocab_size * self.itemsize

  def entries(self, tokens: int) -> int:
    """Keys and values of so many tokens in one layer, in every replica."""
    config = self.config
    size = 2 * config.num_key_value_heads * config.head_dim
    return tokens * size * self.replicas

  def pairs(self, length: int, implementation: str) -> int:
    """Products of a query and a key that attention over a row computes.

    Blocks of queries meet all keys up to their end; cuDNN's own blocks are
    not known, so that it counts the whole square.
    """
    if implementation == "cudnn":
      return length * length
    block = attention.block_of(length, implementation)
    starts = range(0, length, block)
    ends = [min(start + block, length) for start in starts]
    return sum(
      (end - start) * end for start, end in zip(starts, ends, strict=True)
    )

  def _sizes(
    self, modules: tuple[str, ...] | None = None
  ) -> list[tuple[int, ...]]:
    kernels = {
      entry.path[1]: entry.shape
      for entry in registry.base_entries(self.config)
      if entry.kind == "kernel"
    }
    return [kernels[name] for name in modules or kernels]


def accumulate(
  net: Network, rows: int, length: int, chunk: int, prefix: int = 0
) -> Work:
  """Returns the work of one micro-batch: loss and the adapter's gradients.

  Args:
    net: the network.
    rows: R.
    length: T.
    chunk: positions of every row whose logits are held at once.
    prefix: P, tokens of the header that every row attends to; their keys and
      values are there, and the gradient by those is added up.
  """
  tokens = rows * length
  stack = layers(net, rows, length, prefix)
  head = 4 * tokens * net.config.hidden_size * net.config.vocab_size
  turns = -(-length // chunk)
  moved = 2 * turns * net.head_bytes() * net.replicas
  moved += 3 * tokens * net.config.vocab_size * 4
  return add((1, stack), (1, Work(head, head, moved)))


def layers(net: Network, rows: int, length: int, prefix: int) -> Work:
  """Returns the work of all layers, forward and backward; see `accumulate`."""
  config, tokens = net.config, rows * length
  count = config.num_hidden_layers
  product = 2 * tokens * net.linear()
  adapter = 2 * tokens * net.adapter()
  pair = 4 * config.num_attention_heads * config.head_dim
  seen = rows * length * ((length + 1) / 2 + prefix)
  done = rows * (net.pairs(length, net.attention) + length * prefix)
  useful = count * (2 * product + 3 * adapter + 3 * pair * seen)
  repeated = 0.0
  # splash's two backward kernels each make the scores again (4 + 3 products
  # against the 4 that are needed); cuDNN's one kernel does once.
  again = {"splash": 1.5, "cudnn": 0.5}.get(net.attention, 0.0)
  if net.remat == "full":
    # The last product of a layer is no input of any gradient.
    down = 2 * tokens * net.linear(("down_proj",))
    repeated = product - down + adapter + pair * done
  elif net.remat == "dots":
    # Scores and mix: the softmax's divisor is the mix's too.
    repeated = pair * done
  executed = count * (
    2 * product + 3 * adapter + (3 + again) * pair * done + repeated
  )
  passes = 3 if net.remat == "full" else 2
  moved: float = passes * count * tokens * net.edges() * net.itemsize
  moved += passes * count * net.layer_bytes() * net.replicas
  if net.attention == "xla":  # float32 scores, written, masked and read.
    scores = config.num_attention_heads * done * 4
    moved += (passes + 1) * 2 * count * scores
  # Keys and values read in each pass, their float32 gradients read and written.
  moved += count * net.entries(prefix) * (passes * net.itemsize + 8)
  return Work(useful, executed, moved)


def first_layer(net: Network, rows: int, length: int, prefix: int = 0) -> float:
  """Returns FLOPs of gradients in the first layer that nobody needs.

  Nothing below it is trained, so its input needs none, nor do queries, keys
  or values without an adapter. A loop over layers makes them all the same,
  and `accumulate` counts them; layers one by one do not.

  Args:
    net: the network.
    rows: R.
    length: T.
    prefix: P; with one, its keys and values have gradients in every layer.
  """
  readers = ("q_proj", "k_proj", "v_proj")
  plain = [name for name in readers if name not in net.lora.target_modules]
  weights = net.linear(readers)
  weights += (3 - len(plain)) * net.lora.rank * net.config.hidden_size
  # One product of attention each, and that of the scores that q and k share.
  products = len(plain) + ("q_proj" in plain and "k_proj" in plain)
  if prefix:
    products = int("q_proj" in plain)
  product = 2 * net.config.num_attention_heads * net.config.head_dim
  pairs = rows * (net.pairs(length, net.attention) + length * prefix)
  return 2.0 * rows * length * weights + products * product * pairs


def apply(parameters: int) -> Work:
  """Returns the work of an optimizer step on so many adapter weights.

  Gradient, parameter and two moments are read, all but the gradient written
  back, and the sum zeroed, float32 each.
  """
  return Work(15.0 * parameters, 15.0 * parameters, 32.0 * parameters)


def prefill(net: Network, users: int, prompt: int, prefix: int) -> Work:
  """Returns the work of reading B prompts of S tokens after P shared ones."""
  config, tokens = net.config, users * prompt
  layers = config.num_hidden_layers
  pair = 4 * config.num_attention_heads * config.head_dim
  common = layers * 2 * tokens * (net.linear() + net.adapter())
  common += layers * pair * tokens * prefix
  common += 2 * users * config.hidden_size * config.vocab_size
  seen = users * prompt * (prompt + 1) / 2
  # No kernel knows a prefix.
  chosen = "xla" if prefix else net.attention
  done = users * net.pairs(prompt, chosen)
  moved: float = layers * tokens * net.edges() * net.itemsize
  moved += (layers * net.layer_bytes() + net.head_bytes()) * net.replicas
  if chosen == "xla":  # float32 scores, as in training.
    scores = config.num_attention_heads * (done + tokens * prefix) * 4
    moved += 4 * layers * scores
  return Work(
    common + layers * pair * seen, common + layers * pair * done, moved
  )


def decode_step(
  net: Network,
  users: int,
  prompt: int,
  prefix: int,
  beams: int,
  steps: int,
  written: float,
) -> Work:
  """Returns the work of one token of every beam.

  Args:
    net: the network.
    users: B.
    prompt: S.
    prefix: P.
    beams: W.
    steps: U, the length of the suffix cache: the program reads all of it, for
      all beams of a user, whatever is written yet.
    written: tokens of a beam's suffix, on average over the search.
  """
  config, tokens = net.config, users * beams
  layers = config.num_hidden_layers
  pair = 4 * config.num_attention_heads * config.head_dim
  common = layers * 2 * tokens * (net.linear() + net.adapter())
  common += 2 * tokens * config.hidden_size * config.vocab_size
  useful = common + layers * pair * tokens * (prompt + prefix + written)
  executed = common + layers * pair * tokens * (prompt + prefix + steps * beams)
  entry = 2 * config.num_key_value_heads * config.head_dim * net.itemsize
  cache = users * (prompt + steps * beams) + prefix * net.replicas
  rest = tokens * net.edges() * net.itemsize
  moved: float = layers * (cache * entry + rest)
  moved += (layers * net.layer_bytes() + net.head_bytes()) * net.replicas
  moved += 2 * tokens * config.vocab_size * 4
  return Work(useful, executed, moved)


def distances(users: int, items: int, width: int) -> Work:
  """Returns the work of the distances of one block of users.

  Args:
    users: B.
    items: I, with padding.
    width: D.
  """
  flops = 2.0 * users * items * width
  # Vectors once; distances written, and read by the list of the nearest.
  moved = 4.0 * items * width + 2 * 4.0 * users * items
  return Work(flops, flops, moved, passes=6)


def counting(users: int, items: int) -> Work:
  """Returns the work of counting who is nearer than each target.

  Distances are compared with bounds, a dozen operations each, which the
  matrix unit has no part in.
  """
  return Work(0.0, 0.0, 4.0 * users * items + 12.0 * items)


def add(*parts: tuple[float, Work]) -> Work:
  """Returns the sum of (times, work)."""
  return Work(
    flops=sum(n * w.flops for n, w in parts),
    executed=sum(n * w.executed for n, w in parts),
    bytes=sum(n * w.bytes for n, w in parts),
    passes=max(w.passes for _, w in parts),
  )
