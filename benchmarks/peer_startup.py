"""The start of the published way; run by benchmarks/startup.py.

  python benchmarks/peer_startup.py BASE ADAPTER

Imports what the published scripts import, loads tokenizer, base and adapter,
and prints {"import": seconds, "load": seconds} and versions as JSON. Nothing
is trained or decoded.
"""

import time

_START = time.perf_counter()

import json  # noqa: E402
import sys  # noqa: E402

import peft  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402


def _touch_lazy_classes() -> tuple[type, type]:
  """Imports the code: transformers loads a model's class on demand."""
  return transformers.AutoModelForCausalLM, transformers.AutoTokenizer


def main(base: str, adapter: str) -> None:
  """Loads and prints."""
  model_class, tokenizer_class = _touch_lazy_classes()
  imported = time.perf_counter()
  tokenizer_class.from_pretrained(base)
  model = model_class.from_pretrained(base, dtype=torch.float32)
  peft.PeftModel.from_pretrained(model, adapter).eval()
  modules = (torch, transformers, peft)
  found = {
    "import": imported - _START,
    "load": time.perf_counter() - imported,
    "versions": {m.__name__: m.__version__ for m in modules},
  }
  print(json.dumps(found))


if __name__ == "__main__":
  main(sys.argv[1], sys.argv[2])
