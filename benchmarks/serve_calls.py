"""`Recommender` behind a pipe, one history a call; run by serve.py.

One JSON object a line each way: {"histories"} in, {"lists", "seconds"} out.
"""

import json
import sys
import time

import bigrec_jax
from bigrec_jax.config import MeshConfig


def main(workdir: str) -> None:
  """Loads the workdir, then answers orders."""
  recommender = bigrec_jax.Recommender.load(
    workdir, injection="none", mesh=MeshConfig(-1, 1, 1)
  )
  print(json.dumps({}), flush=True)
  for line in sys.stdin:
    order = json.loads(line)
    lists, seconds = [], []
    for history in order["histories"]:
      start = time.perf_counter()
      (found,) = recommender([history], order.get("k", 10))
      seconds.append(time.perf_counter() - start)
      lists.append([item.external_id for item in found])
    print(json.dumps({"lists": lists, "seconds": seconds}), flush=True)


if __name__ == "__main__":
  main(sys.argv[1])
