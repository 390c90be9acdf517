"""Plans of real models on TPU slices that need not be there.

  python -m benchmarks.plan [--case NAME ...] [--effort=quick] [--show]

Writes a config.json of each published model to a temporary folder (no
weights), runs `main.py --mode=plan` and keeps its plan.json as
results/plan_<case>.json. docs/scaling.md shows what is printed here. Needs
libtpu (pip install 'bigrec_jax[plan]'); minutes a case on two cores.
"""

import argparse
import json
import os
import pathlib
import sys
import tempfile

from benchmarks import children, scratch
from bigrec_jax.results import table
from bigrec_jax.workdir import storage

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_COMMON = {
  "model_type": "llama",
  "hidden_act": "silu",
  "rms_norm_eps": 1e-5,
  "bos_token_id": 1,
  "eos_token_id": 2,
}


def _model(width, inner, layers, heads, keys, vocabulary, **more):
  return _COMMON | {
    "hidden_size": width,
    "intermediate_size": inner,
    "num_hidden_layers": layers,
    "num_attention_heads": heads,
    "num_key_value_heads": keys,
    "vocab_size": vocabulary,
    **more,
  }


MODELS = {
  "llama-7b": _model(4096, 11008, 32, 32, 32, 32000),
  "llama-3-8b": _model(4096, 14336, 32, 32, 8, 128256, rope_theta=500000.0),
  "llama-2-70b": _model(8192, 28672, 80, 64, 8, 32000),
}
# Rows of whole texts, to compare attention on equal work: splash shares no
# header whatever the option says, plain attention would.
_TRAIN = (
  "--config.plan.parts=('train',) --config.mesh.data=1"
  " --config.train.share_header=False --config.train.loss_chunk=128"
)
_GENERATE = (
  "--config.plan.parts=('generate',) --config.generate.max_new_tokens=64"
)
_FSDP_8 = "--config.mesh.fsdp=8"
_ONLY_THIS = "--config.plan.search=False"
# case: (model, topology, options); meshes are data, fsdp, tensor. A step of
# 128 texts is 72 packed rows, so rows of a micro-batch should divide them.
CASES = {
  "train_7b_v5e_2x4": (
    "llama-7b",
    "v5e:2x4",
    f"{_TRAIN} {_FSDP_8} --config.train.micro_batch_size=24",
  ),
  "generate_7b_v5e_2x4": (
    "llama-7b",
    "v5e:2x4",
    f"{_GENERATE} --config.mesh.data=1 --config.mesh.tensor=8"
    f" --config.generate.batch_size=256 {_ONLY_THIS}",
  ),
  "train_8b_v6e_2x4": (
    "llama-3-8b",
    "v6e:2x4",
    f"{_TRAIN} {_FSDP_8} --config.train.micro_batch_size=40",
  ),
  "generate_8b_v6e_2x4": (
    "llama-3-8b",
    "v6e:2x4",
    f"{_GENERATE} --config.mesh.data=1 --config.mesh.tensor=8"
    f" --config.generate.batch_size=128 {_ONLY_THIS}",
  ),
  "train_70b_v5p_4x4x4": (
    "llama-2-70b",
    "v5p:4x4x4",
    # Axes of a mesh are whole axes of the torus: 4, 16 or 64 chips. 72 rows
    # do not divide over 16 chips, so that 8 of 80 are empty.
    f"{_TRAIN} --config.mesh.fsdp=16 --config.mesh.tensor=4"
    " --config.train.micro_batch_size=80",
  ),
  "train_70b_v5e_2x4": (
    "llama-2-70b",
    "v5e:2x4",
    f"{_TRAIN} {_FSDP_8} --config.model.remat=full"
    f" --config.train.micro_batch_size=8 {_ONLY_THIS}",
  ),
  "train_70b_int8_v5e_2x4": (
    "llama-2-70b",
    "v5e:2x4",
    f"{_TRAIN} {_FSDP_8} --config.model.remat=full"
    " --config.model.quantization=int8"
    f" --config.train.micro_batch_size=8 {_ONLY_THIS}",
  ),
  "train_7b_xla_v5e_2x4": (
    "llama-7b",
    "v5e:2x4",
    f"{_TRAIN} {_FSDP_8} --config.model.attention=xla"
    f" --config.train.micro_batch_size=24 {_ONLY_THIS}",
  ),
  # As plain attention trains by default: what the prompts of configs/game.py
  # begin with, 85 tokens of LLaMA's tokenizer, is computed once a step.
  "train_7b_header_v5e_2x4": (
    "llama-7b",
    "v5e:2x4",
    f"{_TRAIN} {_FSDP_8} --config.model.attention=xla"
    " --config.train.share_header=True --config.plan.prefix_tokens=85"
    " --config.train.micro_batch_size=16",
  ),
  "ground_100m_v5p_4x4x4": (
    "llama-7b",
    "v5p:4x4x4",
    "--config.plan.parts=('ground',) --config.plan.num_items=100000000"
    # 64 users' distances to a chip's 1.6 million items at a time.
    " --config.ground.batch_size=64 --config.ground.block_items=1600000",
  ),
}


def run(case: str, results: pathlib.Path, effort: str) -> dict:
  """Plans one case; returns plan.json, kept under `results`."""
  model, topology, options = CASES[case]
  with tempfile.TemporaryDirectory() as folder:
    base, workdir = pathlib.Path(folder, "base"), pathlib.Path(folder, "run")
    base.mkdir()
    base.joinpath("config.json").write_text(json.dumps(MODELS[model]))
    command = [sys.executable, "main.py", "--mode=plan"]
    command += ["--config=configs/game.py", f"--workdir={workdir}"]
    command += [f"--config.plan.topology={topology}"]
    command += [f"--config.model.path={base}", "--config.model.dtype=bfloat16"]
    command += ["--config.data.num_train=1024"]
    command += [f"--config.plan.quick={effort == 'quick'}"]
    print(f"\n{case}: {model} on {topology}: {options}", flush=True)
    children.run(
      command + options.split(),
      cwd=_ROOT,
      env=os.environ | {"JAX_PLATFORMS": "cpu"},
      check=True,
    )
    plan = json.loads((workdir / "plan.json").read_text())
  plan = {"case": case, "model_name": model, "options": options, **plan}
  scratch.write_json(results / f"plan_{case}.json", plan)
  return plan


def summary(plans: list[dict]) -> str:
  """Returns tables: memory, roofline, collectives, and what comes of it."""
  each = [
    (f"{plan['case']}: {program['name'].split(': ')[-1]}", plan, program)
    for plan in plans
    for program in plan["programs"]
  ]
  parts = [_memory(each), _roofline(each), _collectives(each)]
  train = [plan for plan in plans if "train" in plan]
  rest = [plan for plan in plans if "train" not in plan]
  return "\n\n".join([*parts, _train(train), _rates(rest)])


def _memory(each) -> str:
  rows = []
  for name, plan, program in each:
    memory, capacity = program["memory"], plan["capacity_bytes"]
    held = memory["arguments"] + memory["outputs"] + memory["elsewhere"]
    excess = _gib(program["exceeds_by_bytes"])
    rows.append(
      [
        name,
        "n/a" if memory["refused"] else _gib(held),
        "n/a" if memory["refused"] else _gib(memory["temporaries"]),
        _gib(memory["peak"]),
        _gib(capacity),
        "yes" if program["fits"] else f"no, by {excess}",
      ]
    )
  headers = ["GiB a chip", "held", "temporaries", "peak", "of", "fits"]
  return table.format_table(headers, rows)


def _gib(size: float) -> str:
  return f"{size / 2**30:.2f}"


def _roofline(each) -> str:
  rows = []
  for name, _, program in each:
    done, times = program["work"], program["times"]
    found = [
      name,
      f"{done['flops'] / 1e12:.1f}",
      f"{done['executed'] * done['passes'] / 1e12:.1f}",
      f"{done['bytes'] / 1e9:.1f}",
    ]
    keys = ("compute", "memory", "network")
    found += [f"{1e3 * times[key]:.2f}" if times else "n/a" for key in keys]
    rows.append([*found, program["bound"] or "n/a"])
  headers = ["all chips, a call", "TFLOP", "executed", "HBM GB"]
  headers += ["compute ms", "memory ms", "network ms", "bound"]
  return table.format_table(headers, rows)


def _collectives(each) -> str:
  rows = [
    [name, kind, f"{found['count']}", f"{found['bytes'] / 1e6:.1f}"]
    for name, _, program in each
    for kind, found in (program["collectives"] or {}).items()
  ]
  headers = ["a chip, a call", "collective", "times", "MB received"]
  return table.format_table(headers, rows)


def _train(plans: list[dict]) -> str:
  rows = []
  for plan in plans:
    train = plan["train"]
    cost = ["n/a"] * 4
    if train["seconds_per_step"] is not None:
      cost = [
        f"{train['seconds_per_step']:.3f}",
        f"{train['tokens_per_second']:,.0f}",
        f"{100 * train['mfu']:.0f} %",
        f"{train['chip_hours']:.2f}",
      ]
    rows.append(
      [
        plan["case"],
        next(
          program["shape"]["rows"]
          for program in plan["programs"]
          if program["name"] == "train: accumulate"
        ),
        train["micro_batches_per_step"],
        *cost,
        _largest(train["largest_micro_batch"]),
        f"{train['xla_check']['ratio']:.3f}",
      ]
    )
  headers = ["train", "rows", "micro-batches", "s a step", "tokens/s", "MFU"]
  headers += ["chip-hours", "rows that fit", "XLA / formula"]
  return table.format_table(headers, rows)


def _rates(plans: list[dict]) -> str:
  rows = []
  for plan in plans:
    part = "ground" if "ground" in plan else "generate"
    largest = plan[part].get("largest_batch")
    rate = f"{plan[part]['users_per_second']:,.0f}"
    users = plan["programs"][0]["shape"]["users"]
    rows.append([plan["case"], users, rate, _largest(largest)])
  headers = ["generate, ground", "users", "users/s", "users that fit"]
  return table.format_table(headers, rows)


def _largest(search: dict | None) -> str:
  if search is None:
    return "not searched"
  more = " (all)" if search["rows"] == search["limit"] else ""
  return f"{search['rows']}{more}"


def main() -> None:
  """Runs the cases asked for and prints the summary."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--case", nargs="*", choices=CASES, default=list(CASES))
  parser.add_argument(
    "--results", type=pathlib.Path, default=_ROOT / "benchmarks" / "results"
  )
  parser.add_argument(
    "--show", action="store_true", help="print what is kept, compile nothing"
  )
  parser.add_argument(
    "--effort",
    choices=("quick", "full"),
    default="full",
    help="of the compiler; quick takes a quarter of the time and gives upper"
    " bounds of memory",
  )
  options = parser.parse_args()
  options.results.mkdir(parents=True, exist_ok=True)
  if not options.show:
    for case in options.case:
      run(case, options.results, options.effort)
  kept = [options.results / f"plan_{case}.json" for case in options.case]
  print(summary([storage.read_json(path) for path in kept]))


if __name__ == "__main__":
  main()
