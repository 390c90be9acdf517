"""Loss curves of fine-tuning on a bfloat16, an int8 and an nf4 base.

  python -m benchmarks.quantized_loss --json=results.json

A real pretrained model (shared/data/llm-tiny), Amazon Toys examples and the
training loop itself. A seed decides the adapter's first weights and the order
of the examples; a seed's runs differ in the base's storage alone.

Noise is what another seed does: the standard deviation over seeds of the
bfloat16 runs. The loss of a run at its end is the mean over its last epoch, so
that every run is measured on the same examples, whatever their order. A kind
of storage is within noise where its runs, seed by seed, are on average no
farther from the bfloat16 runs than that. The eval loss, of rows that nobody
trains on, is held to the same.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import platform
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from benchmarks import scratch, toys
from bigrec_jax import config as config_lib, models
from bigrec_jax.data.text import pipeline, prompts, tokenization
from bigrec_jax.devices import sharding
from bigrec_jax.models import hf_import, lora as lora_lib
from bigrec_jax.results import table
from bigrec_jax.tasks import next_title
from bigrec_jax.training import loop, optimizer, run_files, step
from bigrec_jax.workdir import paths as paths_lib
from configs import common
from tests.tools import llama2c

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"
KINDS = {"bfloat16": "none", "int8": "int8", "nf4": "nf4"}
_TOKENIZERS = {
  "stories260K.bin": "tok512.bin",
  "babyllama105.bin": "tok105.model",
}


@dataclasses.dataclass(frozen=True)
class Setting:
  """What all runs share.

  Attributes:
    model: a file of llm-tiny.
    examples: rows to train on.
    held_out: rows after them, for the eval loss.
    batch: examples of an optimizer step.
    epochs: of a run.
    learning_rate: at its highest; of 1e-3, 3e-3, 1e-2 and 3e-2 the one whose
      bfloat16 run had the lowest eval loss.
    max_length: tokens of a row, at which texts are cut.
  """

  model: str = "stories260K.bin"
  examples: int = 64
  held_out: int = 32
  batch: int = 8
  epochs: int = 5
  learning_rate: float = 3e-2
  max_length: int = 512


class Runs:
  """Fine-tuning runs on one model; call `run` for each."""

  def __init__(
    self,
    setting: Setting,
    kinds: Sequence[str],
    data: pathlib.Path,
    folder: pathlib.Path,
  ):
    """Converts the model and loads it once for each kind of storage.

    Args:
      setting: of all runs.
      kinds: of KINDS.
      data: shared/data.
      folder: where the converted model is written.
    """
    tiny = data / "llm-tiny"
    self._folder, self._mesh = folder, sharding.single_device_mesh()
    llama2c.convert(
      tiny / setting.model, tiny / _TOKENIZERS[setting.model], folder
    )
    tokenizer = tokenization.load_tokenizer(folder)
    count = setting.examples + setting.held_out
    examples, catalogue = toys.read_examples(data, count)
    prompt = prompts.Prompt("consistent", "", "")
    self._train = next_title.Titles(
      examples.take(slice(setting.examples)), catalogue, prompt
    )
    valid = examples.take(slice(setting.examples, None))
    self._valid = next_title.Titles(
      dataclasses.replace(valid, split="valid"), catalogue, prompt
    )
    self._defaults = config_lib.from_config_dict(common.get_config())
    self._config = dataclasses.replace(
      self._defaults.train,
      batch_size=setting.batch,
      micro_batch_size=4,
      num_epochs=setting.epochs,
      learning_rate=setting.learning_rate,
      warmup_steps=4,
      max_length=setting.max_length,
      early_stopping_patience=0,
    )
    self._text = (tokenizer, self._config)
    self._layout = {"rows": 4, "share_header": True}

    self._sides = {kind: self._side(kind) for kind in kinds}

  def _side(self, kind: str) -> tuple[models.Architecture, Any, step.Steps]:
    """Returns shape, base and compiled steps, which all seeds share."""
    section = dataclasses.replace(
      self._defaults.model, dtype="bfloat16", quantization=KINDS[kind]
    )
    arch, base = hf_import.load_base(self._folder, section, self._mesh)
    steps = step.make_steps(
      models.build(arch, section, self._defaults.lora, self._mesh),
      optimizer.AdamW(0.0, self._config.max_grad_norm),
      self._mesh,
      lora_lib.abstract(arch, self._defaults.lora, self._mesh),
      loss_chunk=self._config.loss_chunk,
      dropout_seed=0,
    )
    return arch, base, steps

  def run(self, kind: str, seed: int) -> dict[str, list[float]]:
    """Trains once.

    Args:
      kind: of KINDS.
      seed: of adapter and order.

    Returns:
      `loss` of each step and `eval_loss` of each epoch, nats a token.
    """
    arch, base, steps = self._sides[kind]
    adapter = lora_lib.init(arch, self._defaults.lora, seed, self._mesh)
    with tempfile.TemporaryDirectory() as folder:
      paths = paths_lib.Paths(pathlib.Path(folder))
      loop.TrainingRun(
        self._config,
        steps,
        base,
        adapter,
        pipeline.TrainStream(
          self._train, *self._text, seed=seed, **self._layout
        ),
        pipeline.eval_batches(
          self._valid, *self._text, batch_size=64, **self._layout
        ),
        mesh=self._mesh,
        files=run_files.RunFiles(paths, "f", lambda directory, tree: None),
      ).run()
      lines = paths.train_metrics.read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return {
      name: [row[name] for row in rows if name in row]
      for name in ("loss", "eval_loss")
    }


def judge(
  runs: dict[str, list[dict[str, list[float]]]], epochs: int
) -> dict[str, dict[str, dict[str, float]]]:
  """Compares each kind with bfloat16; see the module's text.

  Args:
    runs: of `Runs.run`, a list of seeds for each kind.
    epochs: of a run.

  Returns:
    {kind: {"loss" or "eval_loss": {"mean", "difference", "noise", "ratio"}}}
    of the last epoch: nats a token, and the difference in units of noise.
  """
  last = {
    kind: {
      "loss": np.array(
        [np.mean(r["loss"][-(len(r["loss"]) // epochs) :]) for r in each]
      ),
      "eval_loss": np.array([r["eval_loss"][-1] for r in each]),
    }
    for kind, each in runs.items()
  }
  found: dict[str, dict[str, dict[str, float]]] = {}
  for kind, ends in last.items():
    for name, values in ends.items():
      reference = last["bfloat16"][name]
      difference = float(np.mean(values - reference))
      noise = float(np.std(reference, ddof=1))
      found.setdefault(kind, {})[name] = {
        "mean": float(np.mean(values)),
        "difference": difference,
        "noise": noise,
        "ratio": abs(difference) / noise,
      }
  return found


def _curves(runs: dict[str, list[dict]], name: str, steps: list[int]) -> str:
  """Returns a table: mean and standard deviation over seeds at some steps."""
  rows = []
  for place in steps:
    cells = []
    for each in runs.values():
      values = np.array([run[name][place - 1] for run in each])
      cells.append(f"{values.mean():.4f} ± {values.std(ddof=1):.4f}")
    rows.append([place, *cells])
  unit = "step" if name == "loss" else "epoch"
  return table.format_table([f"{name}, {unit}", *runs], rows)


def _verdict(found: dict[str, dict[str, dict[str, float]]]) -> str:
  rows = [
    [kind, name, *(f"{x[k]:+.4f}" for k in ("mean", "difference")),
     f"{x['noise']:.4f}", f"{x['ratio']:.2f}"]
    for kind, each in found.items()
    for name, x in each.items()
  ]  # fmt: skip
  headers = ["last epoch", "of", "mean", "less bfloat16", "noise", "of noise"]
  return table.format_table(headers, rows)


def main() -> None:
  """Trains all runs, prints the tables and writes JSON."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--data", type=pathlib.Path, default=SHARED)
  parser.add_argument("--json", default="")
  parser.add_argument("--seeds", type=int, default=4)
  parser.add_argument("--kinds", nargs="*", default=list(KINDS))
  for field in dataclasses.fields(Setting):
    flag = "--" + field.name.replace("_", "-")
    parser.add_argument(flag, type=field.type, default=field.default)
  given = parser.parse_args()
  names = [field.name for field in dataclasses.fields(Setting)]
  setting = Setting(**{name: getattr(given, name) for name in names})
  start = time.process_time()
  runs: dict[str, list[dict[str, Any]]] = {}
  with tempfile.TemporaryDirectory() as folder:
    made = Runs(setting, given.kinds, given.data, pathlib.Path(folder))
    for kind in given.kinds:
      runs[kind] = [made.run(kind, seed) for seed in range(given.seeds)]
  found = judge(runs, setting.epochs)
  count = len(runs["bfloat16"][0]["loss"])
  per_epoch = count // setting.epochs
  steps = [1, *range(per_epoch, count + 1, per_epoch)]
  epochs = list(range(1, setting.epochs + 1))
  parts = [_curves(runs, "loss", steps), _curves(runs, "eval_loss", epochs)]
  print("\n\n".join([*parts, _verdict(found)]))
  result = {
    "what": dataclasses.asdict(setting) | {"seeds": given.seeds},
    "hardware": {
      "processor": platform.processor() or platform.machine(),
      "cores": len(os.sched_getaffinity(0)),
    },
    "versions": {"jax": jax.__version__, "python": platform.python_version()},
    "cpu_seconds": time.process_time() - start,
    "last_epoch": found,
    "runs": runs,
  }
  if given.json:
    scratch.write_json(given.json, result)


if __name__ == "__main__":
  main()
