"""The section `serve` of the configuration."""

import dataclasses
from typing import Annotated

from bigrec_jax.config import checks


@dataclasses.dataclass(frozen=True)
class ServeConfig:
  """Where `--mode=serve` listens, and how much it takes on."""

  host: str
  port: Annotated[int, checks.Range(0, 65535)]
  token_file: str
  max_batch: Annotated[int, checks.Range(1, 2**12)]
  max_wait_ms: Annotated[float, checks.Range(0, 10_000)]
  queue: Annotated[int, checks.Range(1, 2**20)]
  deadline_ms: Annotated[float, checks.Range(1, 3_600_000)]
  prompt_buckets: Annotated[tuple[int, ...], checks.Range(1, 2**24)]
  max_k: Annotated[int, checks.Range(1, 2**16)]
  max_history: Annotated[int, checks.Range(1, 2**16)]
  max_histories: Annotated[int, checks.Range(1, 2**16)]
  max_body_kib: Annotated[int, checks.Range(1, 2**20)]
  read_seconds: Annotated[float, checks.Range(0.1, 3600)]
  drain_seconds: Annotated[float, checks.Range(0.1, 3600)]
  spare_items: Annotated[int, checks.Range(0, checks.MOST, also=-1)]
