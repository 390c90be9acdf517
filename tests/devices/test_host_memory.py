"""Freed memory is kept: a program's second call has no pages to fill."""

import platform
import subprocess
import sys

import pytest

_PROGRAM = """
import resource
import jax
import jax.numpy as jnp
from bigrec_jax.config import MeshConfig
from bigrec_jax.devices import sharding

sharding.make_mesh(MeshConfig(-1, 1, 1))

@jax.jit
def f(x):  # Keeps three arrays of 64 MiB until the end.
  kept = [jax.lax.optimization_barrier(x * k) for k in (1.0, 2.0, 3.0)]
  return sum(jnp.sum(each) for each in kept)

x = jnp.ones((1 << 24,), jnp.float32)
f(x).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
f(x).block_until_ready()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(
  platform.libc_ver()[0] != "glibc", reason="glibc's malloc is what is set"
)
def test_a_second_call_faults_in_no_pages():
  done = subprocess.run(
    [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True
  )
  # 49,152 pages of 4 KiB otherwise.
  assert int(done.stdout) < 2000
