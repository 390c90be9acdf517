"""Settings for every test: 8 forced CPU devices and strict numerics."""

import os

from tests import compiling

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault(compiling.UNOPTIMIZED, "1")
_FLAGS = compiling.xla_flags(devices=8)
if _FLAGS not in os.environ.get("XLA_FLAGS", ""):
  os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} {_FLAGS}".strip()
  )
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import gc
import pathlib

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")

# Each compiled program of a CPU is some memory maps, of which Linux allows a
# process 65,530; without another one XLA ends it (a segmentation fault).
_MANY_MAPS = 15_000

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="module", autouse=True)
def few_programs():
  """Forgets compiled programs between files, once there are many."""
  yield
  maps = pathlib.Path("/proc/self/maps")
  if maps.exists() and maps.read_bytes().count(b"\n") > _MANY_MAPS:
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
  """The folder of real data sets beside the repository, else a skip."""
  if not SHARED.is_dir():
    pytest.skip(f"real data sets are not here: {SHARED}")
  return SHARED


@pytest.fixture(scope="session")
def evaluated_demo(tmp_path_factory) -> pathlib.Path:
  """A workdir of the tiny demo, evaluated. Copy it before changing it."""
  from tests import demo_workdir

  root = tmp_path_factory.mktemp("demo") / "workdir"
  demo_workdir.make(root)
  return root
