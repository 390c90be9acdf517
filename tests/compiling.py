"""How tests compile: fast, since they compile much and compute little.

For all of them, and what they start, alike: a program that was compiled in
another way differs in its last bits, and JAX takes it again without asking how
it was compiled. To test what users run:

  JAX_DISABLE_MOST_OPTIMIZATIONS=0 bash launch/test.sh
"""

import os
from importlib import metadata

UNOPTIMIZED = "JAX_DISABLE_MOST_OPTIMIZATIONS"
# XLA's older way to write loops and one piece a program: half the CPU seconds
# of the end-to-end tests. An unknown flag ends a process, so other releases go
# without.
_FAST = (
  "--xla_cpu_use_fusion_emitters=false",
  "--xla_cpu_parallel_codegen_split_count=1",
)
_RELEASE = "0.10."


def xla_flags(devices: int, fast: bool = True) -> str:
  """Returns XLA_FLAGS of a process with forced CPU devices.

  Args:
    devices: how many.
    fast: unless UNOPTIMIZED of this process is 0; False = as for users.
  """
  flags = [f"--xla_force_host_platform_device_count={devices}"]
  fast = fast and os.environ.get(UNOPTIMIZED) != "0"
  if fast and metadata.version("jaxlib").startswith(_RELEASE):
    flags += _FAST
  return " ".join(flags)
