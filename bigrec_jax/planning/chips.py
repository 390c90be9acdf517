"""Published peaks of the chips that a plan can be made for.

Source: Google Cloud TPU documentation, pages "TPU v5e", "TPU v5p" and "TPU
v6e (Trillium)", tables of key specifications, read in 2026. They give the
inter-chip interconnect as a bidirectional sum over all links of a chip, so a
chip receives at half of it at most. Peaks are never reached: a time computed
from them is a floor.

Memory is not the published 16, 95 and 32 GiB but what libtpu 0.0.51 calls
"available HBM" when it refuses a program; the rest it keeps for itself.

GPUs: NVIDIA's data sheets "A100 80GB SXM", "H100 SXM" and "H200 SXM", dense
bfloat16 (the sheets of Hopper print it with sparsity, twice as much), NVLink
in one direction. Their memory is the published one in powers of ten; the
devices report some 5 GiB more, which CUDA and its libraries take. JAX leaves a
program three quarters of a GPU unless XLA_PYTHON_CLIENT_MEM_FRACTION says more.
"""

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """One accelerator.

  Attributes:
    name: as users know it.
    memory: bytes of HBM that a program may take.
    flops: bfloat16 FLOP/s.
    bandwidth: of HBM, bytes/s.
    network: bytes/s that a chip receives from others, over all links.
  """

  name: str
  memory: int
  flops: float
  bandwidth: float
  network: float


CHIPS = {
  "v5e": Chip("TPU v5e", round(15.75 * GIB), 197e12, 819e9, 400e9 / 2),
  "v5p": Chip("TPU v5p", round(95.73 * GIB), 459e12, 2765e9, 1200e9 / 2),
  "v6e": Chip("TPU v6e", round(31.24 * GIB), 918e12, 1638e9, 800e9 / 2),
  "a100": Chip("NVIDIA A100 80GB", 80 * 10**9, 312e12, 2039e9, 600e9 / 2),
  "h100": Chip("NVIDIA H100", 80 * 10**9, 989.5e12, 3350e9, 900e9 / 2),
  "h200": Chip("NVIDIA H200", 141 * 10**9, 989.5e12, 4800e9, 900e9 / 2),
}
# GPUs have no compiler here: their programs are compiled for the chip with the
# most memory, in a slice of as many.
STAND_IN = "v5p"
