"""Which mesh decodes fastest, by formula.

Training reads every weight for thousands of tokens at a time, so that to split
the weights over fsdp and gather them costs little. Decoding reads them for one
token of each beam: there, gathering them again for every token is most of the
time, and over `tensor` they stay where they are and only activations travel.
Nothing is compiled for these estimates; of the mesh that is asked for they can
be held against the compiled program's figures in the same plan.
"""

import dataclasses

from bigrec_jax.planning import chips, programs, work


@dataclasses.dataclass(frozen=True)
class Estimate:
  """Decoding on one mesh.

  Attributes:
    data: size of the axis, as the others.
    fsdp: likewise.
    tensor: likewise.
    users_per_second: at the chip's peaks.
    held_bytes: weights, and caches with the copy that the loop works on, of a
      device.
    fits: whether a chip holds that.
  """

  data: int
  fsdp: int
  tensor: int
  users_per_second: float
  held_bytes: float
  fits: bool


def estimates(
  net: work.Network,
  shape: programs.GenerateShape,
  turns: int,
  devices: int,
  chip: chips.Chip,
  capacity: int,
) -> list[Estimate]:
  """Returns all meshes of so many devices: those that fit first, by speed.

  A mesh on which slots or heads do not divide is left out.

  Args:
    net: the network; its replicas are not used.
    shape: of the slots.
    turns: tokens of a beam.
    devices: their number.
    chip: its peaks.
    capacity: bytes of a device.
  """
  found = []
  for data, fsdp, tensor in _sizes(devices):
    heads = net.config.num_key_value_heads
    if shape.group % (data * fsdp) or heads % tensor:
      continue
    found.append(
      _estimate(net, shape, turns, (data, fsdp, tensor), chip, capacity)
    )
  return sorted(found, key=lambda one: (not one.fits, -one.users_per_second))


def _sizes(devices: int) -> list[tuple[int, int, int]]:
  divisors = [n for n in range(1, devices + 1) if devices % n == 0]
  return [
    (data, fsdp, devices // data // fsdp)
    for data in divisors
    for fsdp in divisors
    if devices // data % fsdp == 0
  ]


def _estimate(
  net: work.Network,
  shape: programs.GenerateShape,
  turns: int,
  mesh: tuple[int, int, int],
  chip: chips.Chip,
  capacity: int,
) -> Estimate:
  data, fsdp, tensor = mesh
  rows, devices = data * fsdp, data * fsdp * tensor
  net = dataclasses.replace(net, replicas=rows)
  config, layers = net.config, net.config.num_hidden_layers
  weights = layers * net.layer_bytes() + net.head_bytes()
  embedding = config.vocab_size * config.hidden_size * net.itemsize

  def seconds(done: work.Work, tokens: int) -> float:
    # A device receives the rest of every weight once a call, and twice a layer
    # the sums of its rows' activations.
    gathered = weights / tensor * (fsdp - 1) / fsdp
    summed = layers * 2 * 2 * (tensor - 1) / tensor
    summed *= tokens / rows * config.hidden_size * net.itemsize
    return max(
      done.executed / devices / chip.flops,
      done.bytes / devices / chip.bandwidth,
      (gathered + summed) / chip.network,
    )

  rest = (shape.prompt, shape.prefix)
  read = work.prefill(net, shape.group, *rest)
  token = work.decode_step(
    net, shape.users, *rest, shape.beams, shape.steps, turns / 2
  )
  total = shape.users / shape.group * seconds(read, shape.group * shape.prompt)
  total += turns * seconds(token, shape.users * shape.beams)
  kept = shape.users * (shape.prompt + shape.steps * shape.beams)
  entry = 2 * config.num_key_value_heads * config.head_dim * net.itemsize
  held = (weights + embedding) / fsdp / tensor
  held += 2 * layers * kept * entry / devices
  return Estimate(
    data, fsdp, tensor, shape.users / total, held, held <= capacity
  )
