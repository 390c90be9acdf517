"""Plans of real models on TPU slices that need not be there.

  python -m benchmarks.plan [--case=NAME ...] [--results=benchmarks/results]

Writes a config.json of each published model to a temporary folder (no
weights), runs `main.py --mode=plan` and keeps its plan.json as
results/plan_<case>.json. docs/scaling.md shows what is printed here. Needs
libtpu (pip install 'bigrec_jax[plan]'); minutes a case on two cores.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

from bigrec_jax import schema
from bigrec_jax.reporting import table

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
_TRAIN = "--config.plan.parts=('train',) --config.mesh.data=1"
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
    " --config.generate.batch_size=64",
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
    f"{_TRAIN} --config.mesh.fsdp=8 --config.mesh.tensor=8"
    " --config.train.micro_batch_size=72",
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
    subprocess.run(
      command + options.split(),
      cwd=_ROOT,
      env=os.environ | {"JAX_PLATFORMS": "cpu"},
      check=True,
    )
    plan = json.loads((workdir / "plan.json").read_text())
  plan = {"case": case, "model_name": model, "options": options, **plan}
  schema.write_json(results / f"plan_{case}.json", plan)
  return plan


def summary(plans: list[dict]) -> str:
  """Returns one row a program: memory, roofline, bound and what it gives."""
  rows = []
  for plan in plans:
    for program in plan["programs"]:
      times = program["times"] or {}
      rows.append(
        [
          f"{plan['case']}: {program['name'].split(': ')[-1]}",
          f"{program['memory']['peak'] / 2**30:.2f}",
          {True: "yes", False: "no", None: "n/a"}[program["fits"]],
          *(
            f"{1e3 * times[name]:.1f}" if times else "n/a"
            for name in ("compute", "memory", "network")
          ),
          program["bound"] or "n/a",
        ]
      )
  headers = ["program", "GiB a chip", "fits", "compute ms", "memory ms"]
  return table.format_table([*headers, "network ms", "bound"], rows)


def main() -> None:
  """Runs the cases asked for and prints the summary."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--case", nargs="*", choices=CASES, default=list(CASES))
  parser.add_argument(
    "--results", type=pathlib.Path, default=_ROOT / "benchmarks" / "results"
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
  print(
    summary([run(c, options.results, options.effort) for c in options.case])
  )


if __name__ == "__main__":
  main()
