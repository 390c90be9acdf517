"""Large pages: a command starts anew once, and its programs fault little."""

import os
import subprocess
import sys

import pytest

from bigrec_jax.workdir import large_pages

_PROGRAM = """
import sys
from bigrec_jax.workdir import large_pages
large_pages.ask()
import os, resource
import jax
import jax.numpy as jnp

@jax.jit
def f(x):  # Keeps three arrays of 64 MiB until the end.
  kept = [jax.lax.optimization_barrier(x * k) for k in (1.0, 2.0, 3.0)]
  return sum(jnp.sum(each) for each in kept)

x = jnp.ones((1 << 24,), jnp.float32)
f(x).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
f(x).block_until_ready()
print(sys.argv[1:], os.environ["GLIBC_TUNABLES"])
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(
  not large_pages.are_to_be_asked_for(),
  reason="the kernel gives no large pages to who asks, or they are asked for",
)
def test_a_command_starts_anew_with_its_arguments_and_faults_little():
  others = "glibc.malloc.check=0"
  done = subprocess.run(
    [sys.executable, "-c", _PROGRAM, "--one=1", "two words"],
    capture_output=True,
    text=True,
    check=True,
    env={**os.environ, "GLIBC_TUNABLES": others},
  )
  told, faults = done.stdout.splitlines()
  wanted = f"{others}:glibc.malloc.hugetlb=1"
  assert told == f"{['--one=1', 'two words']} {wanted}"
  assert int(faults) < 5000  # 49,152 pages of 4 KiB otherwise.


@pytest.mark.parametrize(
  ("kernel", "variable", "asked"),
  [
    ("always [madvise] never", "", True),
    ("always [madvise] never", "glibc.malloc.hugetlb=0", False),
    ("[always] madvise never", "", False),
    (None, "", False),
  ],
)
def test_asked_only_where_it_helps_and_nobody_has_decided(
  tmp_path, monkeypatch, kernel, variable, asked
):
  path = tmp_path / "enabled"
  if kernel is not None:
    path.write_text(kernel)
  monkeypatch.setattr(large_pages, "_KERNEL", path)
  monkeypatch.setenv("GLIBC_TUNABLES", variable)
  assert large_pages.are_to_be_asked_for() == asked
