"""Settings for every test: 8 forced CPU devices and strict numerics."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
_FLAG = "--xla_force_host_platform_device_count=8"
if _FLAG not in os.environ.get("XLA_FLAGS", ""):
  os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAG}".strip()
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pathlib

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"


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
