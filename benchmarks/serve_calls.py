"""`Recommender` behind a pipe, one history a call; run by serve.py.

  python benchmarks/serve_calls.py WORKDIR FALLBACK

FALLBACK is 1 where `recommend.fallback` is on. One JSON object a line each way:
{"histories", "k"} in, {"lists", "seconds", "compiled"} out.
"""

import json
import sys
import time

from benchmarks import serving
from bigrec_jax.serving import compilations


def main(workdir: str, fallback: bool) -> None:
  """Loads the workdir, then answers orders."""
  recommender = serving.recommender(workdir, fallback)
  compilations.listen()
  print(json.dumps({}), flush=True)
  for line in sys.stdin:
    order = json.loads(line)
    lists, seconds, before = [], [], compilations.count()
    for history in order["histories"]:
      start = time.perf_counter()
      (found,) = recommender([history], order["k"])
      seconds.append(time.perf_counter() - start)
      lists.append([item.external_id for item in found])
    compiled = compilations.count() - before
    answer = {"lists": lists, "seconds": seconds, "compiled": compiled}
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
  main(sys.argv[1], bool(int(sys.argv[2])))
