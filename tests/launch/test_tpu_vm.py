"""tpu_vm.sh against a gcloud that records calls and runs commands here."""

import shlex
import signal
import subprocess
import time

import pytest

from tests.launch import stubs
from tests.launch.test_scripts import AWKWARD

COMMANDS = ["create", "install", "tail", "status", "stop", "delete"]
COMMANDS += ["run --mode=train", "resume --mode=train"]


def settings(machine, name="alpha", **changes):
  """Writes a file of variables; returns its path."""
  values = {
    "PROJECT": "project-1",
    "ZONE": "us-central2-b",
    "NAME": name,
    "ACCELERATOR_TYPE": "v5litepod-16",
    "RUNTIME_VERSION": "v2-alpha-tpuv5-lite",
    "KIND": "spot",
    "MOUNT": "/mnt/shared",
    "WORKDIR": "/mnt/shared/runs/game",
    "DIRECTORY": "bigrec_jax",
    "POLL_SECONDS": "0",
    "ATTEMPTS": "2",
    "HEALTHY_SECONDS": "60",
    "STOP_SECONDS": "10",
  } | changes
  path = machine.root / f"{name}.env"
  path.write_text("".join(f"{k}={v}\n" for k, v in values.items()))
  return str(path)


@pytest.fixture
def slice_(machine):
  """A machine whose gcloud finds a slice that is ready and installed."""
  machine.stub_gcloud(tpu_vm=["READY"])
  folder = machine.home / "bigrec_jax"
  folder.mkdir()
  (folder / "launch").symlink_to(machine.checkout / "launch")
  for name in ("pyproject.toml", "constraints.txt"):
    (folder / name).write_text("made up\n")
  machine.install(folder, "[tpu]")
  machine.stub("python3.11", script="#!/bin/sh\nexit 0\n")
  return machine


def vm(machine, *words, **options):
  env = options.pop("env", None) or settings(machine)
  return machine.run("tpu_vm.sh", "--env", env, *words, **options)


def verbs(machine):
  """Returns what gcloud was asked for, e.g. ["tpu-vm create", ...]."""
  return [" ".join(call[2:4]) for call in machine.calls("gcloud")]


def remote_words(machine):
  """Returns what was run on workers, as words, without the folder."""
  found = []
  for call in machine.calls("gcloud"):
    for word in call:
      if word.startswith("--command=cd bigrec_jax && "):
        found.append(shlex.split(word.split(" && ", 1)[1]))
  return found


def until_ended(machine, name="alpha", seconds=10):
  state = machine.home / ".local/state/bigrec_jax" / name / "status"
  end = time.monotonic() + seconds
  while not state.exists():
    assert time.monotonic() < end
    time.sleep(0.02)
  return state.read_text().strip()


@pytest.mark.parametrize("words", COMMANDS)
def test_dry_run_calls_nothing(machine, words):
  machine.stub_gcloud()
  result = vm(machine, "--dry-run", *words.split())
  assert result.returncode == 0, result.stderr
  lines = [x for x in result.stdout.splitlines() if not x.startswith("#")]
  assert any(line.startswith("gcloud compute tpus ") for line in lines)
  for line in lines:
    if line.startswith("gcloud"):
      assert "--project=project-1" in shlex.split(line), line
      assert "--zone=us-central2-b" in shlex.split(line), line
  assert machine.calls() == []


@pytest.mark.parametrize(
  ("kind", "expected"),
  [
    ("on-demand", "tpu-vm create alpha --version=v2-alpha-tpuv5-lite"),
    ("spot", "tpu-vm create alpha --version=v2-alpha-tpuv5-lite --spot"),
    (
      "queued",
      "queued-resources create alpha-queued --node-id=alpha"
      " --runtime-version=v2-alpha-tpuv5-lite --valid-until-duration=6h",
    ),
    (
      "queued-spot",
      "queued-resources create alpha-queued --node-id=alpha"
      " --runtime-version=v2-alpha-tpuv5-lite --spot"
      " --valid-until-duration=6h",
    ),
  ],
)
def test_create(machine, kind, expected):
  machine.stub_gcloud(
    tpu_vm=["CREATING", "READY"],
    queued_resources=["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"],
  )
  changes = {"VALID_UNTIL": "6h"} if "queued" in kind else {}
  env = settings(
    machine,
    KIND=kind,
    NETWORK="own",
    CREATE_FLAGS='"--labels=a=b --x"',
    **changes,
  )
  result = vm(machine, "create", env=env)
  assert result.returncode == 0, result.stderr
  first, *rest = machine.calls("gcloud")
  common = "--project=project-1 --zone=us-central2-b --network=own --labels=a=b"
  common += " --x --accelerator-type=v5litepod-16"
  assert set(first[2:]) == {*expected.split(), *common.split()}
  assert len(rest) == (3 if "queued" in kind else 2)
  assert all(call[3] == "describe" for call in rest)


def test_create_that_gets_nothing(machine):
  machine.stub_gcloud(queued_resources=["ACCEPTED", "FAILED"])
  result = vm(machine, "create", env=settings(machine, KIND="queued"))
  assert result.returncode == 1
  assert "error: alpha is FAILED after create" in result.stderr


@pytest.mark.parametrize("words", COMMANDS)
def test_a_failing_command_ends_with_its_status_and_a_line(slice_, words):
  (slice_.root / "states" / "fail").write_text(" alpha")
  (slice_.checkout / ".git").mkdir()  # Nothing to copy: tar is not what fails.
  slice_.stub("git")
  result = vm(slice_, *words.split())
  assert result.returncode == 7, result
  last = result.stderr.strip().splitlines()[-1]
  assert last.startswith("error: ") and "ended with status 7" in last
  assert "no quota" in result.stderr


def test_install_copies_the_checkout_as_it_is(machine):
  machine.stub_gcloud(tpu_vm=["READY"])
  machine.stub("python3.11", script="#!/bin/sh\nexit 0\n")
  machine.stub("mountpoint", script="#!/bin/sh\nexit 1\n")
  machine.stub("sudo", "gcsfuse")
  machine.install(machine.home / "bigrec_jax", "[tpu]")
  git = ["git", "-C", str(machine.checkout)]
  subprocess.run([*git, "init", "-q"], check=True)
  subprocess.run([*git, "add", "launch", "pyproject.toml"], check=True)
  subprocess.run([*git, "add", "constraints.txt"], check=True)
  (machine.checkout / "launch" / "demo.sh").write_text("changed since\n")
  (machine.checkout / "secret").write_text("not tracked\n")
  env = settings(machine, SHARED="gs://bucket-1", SSH_FLAGS="--internal-ip")
  result = vm(machine, "install", env=env)
  assert result.returncode == 0, result.stderr
  own = machine.home / "bigrec_jax"
  assert (own / "launch" / "demo.sh").read_text() == "changed since\n"
  assert not (own / "secret").exists()
  assert verbs(machine) == ["tpu-vm scp", "tpu-vm ssh", "tpu-vm ssh"]
  assert all("--worker=all" in call for call in machine.calls("gcloud"))
  assert all("--internal-ip" in call for call in machine.calls("gcloud"))
  assert machine.calls("gcsfuse") == [
    ["--implicit-dirs", "bucket-1", "/mnt/shared"]
  ]
  assert ["mkdir", "-p", "/mnt/shared"] in machine.calls("sudo")
  assert "worker0: ready" in result.stdout


def test_install_clones_where_a_repository_is_named(slice_):
  slice_.stub("git")
  env = settings(
    slice_,
    REPOSITORY="https://host/it's.git",
    BRANCH="v1",
    SHARED="10.0.0.2:/s",
  )
  slice_.stub("mountpoint")  # It is mounted.
  result = vm(slice_, "install", env=env)
  assert result.returncode == 0, result.stderr
  fetch = ["fetch", "-q", "--depth=1", "https://host/it's.git", "v1"]
  assert fetch in slice_.calls("git")
  assert slice_.calls("mountpoint") == [["-q", "/mnt/shared"]]


def test_arguments_arrive_at_main_through_two_shells(slice_):
  result = vm(slice_, "run", *AWKWARD)
  assert result.returncode == 0, result.stderr
  assert until_ended(slice_) == "0"
  assert slice_.calls("python") == [
    [
      "main.py",
      "--distributed",
      *AWKWARD,
      "--workdir=/mnt/shared/runs/game",
    ]
  ]
  assert "worker0: ended 0" in vm(slice_, "status").stdout


def test_a_named_workdir_is_kept(slice_):
  vm(slice_, "run", "--workdir", "/mnt/shared/other", "--mode=train")
  until_ended(slice_)
  (call,) = slice_.calls("python")
  assert call[2:] == ["--workdir", "/mnt/shared/other", "--mode=train"]


def test_a_run_goes_on_in_the_background_and_is_stopped(slice_):
  (slice_.home / "busy").touch()
  result = vm(slice_, "run", "--mode=train")  # Returns while it runs.
  assert "worker0: started" in result.stdout
  assert "worker0: running" in vm(slice_, "status").stdout
  again = vm(slice_, "run", "--mode=train")
  assert again.returncode == 0 and "runs already" in again.stdout
  other = vm(slice_, "run", "--mode=embed")
  assert other.returncode == 2
  assert "another command runs as alpha" in other.stderr
  _until_called(slice_, 1)
  stopped = vm(slice_, "stop")
  assert "worker0: stopped 143" in stopped.stdout, stopped
  assert len(slice_.calls("python")) == 1
  watched = vm(slice_, "resume", "--mode=train")
  assert watched.returncode == 143
  assert "alpha: the run was stopped: status 143" in watched.stdout


def _until_called(machine, count, name="python"):
  end = time.monotonic() + 10
  while len(machine.calls(name)) < count:
    assert time.monotonic() < end
    time.sleep(0.02)


def test_two_names_do_not_clash(slice_):
  (slice_.home / "busy").touch()
  other = settings(slice_, name="beta")
  vm(slice_, "run", "--mode=train")
  assert "started" in vm(slice_, "run", "--mode=embed", env=other).stdout
  _until_called(slice_, 2)
  assert "stopped 143" in vm(slice_, "stop", env=other).stdout
  assert "worker0: running" in vm(slice_, "status").stdout
  vm(slice_, "stop")
  named = {call[4] for call in slice_.calls("gcloud") if call[3] == "ssh"}
  assert named == {"alpha", "beta"}


def test_tail_shows_the_log(slice_):
  vm(slice_, "run", "--mode=train")
  until_ended(slice_)
  process = subprocess.Popen(
    ["bash", "launch/tpu_vm.sh", "--env", settings(slice_), "tail", "3"],
    cwd=slice_.checkout,
    env=slice_.environment(),
    stdout=subprocess.PIPE,
    text=True,
    start_new_session=True,
  )
  assert "bash launch/tpu.sh --mode=train" in process.stdout.readline()
  assert "ended with status 0" in process.stdout.readline()
  import os

  os.killpg(process.pid, signal.SIGTERM)
  process.wait(timeout=10)
  assert "--worker=3" in slice_.calls("gcloud")[-1]


@pytest.mark.parametrize("kind", ["spot", "queued-spot"])
def test_resume_after_a_preemption(slice_, kind):
  """Taken away once: made again, installed, run, and waited for."""
  if kind == "spot":
    slice_.stub_gcloud(tpu_vm=["PREEMPTED", "PREEMPTED", "CREATING", "READY"])
  else:
    slice_.stub_gcloud(
      tpu_vm=["READY"],
      queued_resources=[
        "SUSPENDED", "SUSPENDING", "SUSPENDED", "PROVISIONING", "ACTIVE"
      ],
    )  # fmt: skip
  slice_.stub("git")
  env = settings(slice_, KIND=kind, REPOSITORY="https://host/r.git")
  result = vm(slice_, "resume", "--mode=train", env=env)
  assert result.returncode == 0, result
  assert result.stdout.strip().endswith("alpha: the run has ended")
  changes = [v for v in verbs(slice_) if not v.endswith(("describe", "ssh"))]
  node = "tpu-vm" if kind == "spot" else "queued-resources"
  assert changes == [f"{node} delete", f"{node} create"]
  done = [words[2] for words in remote_words(slice_)]
  # In whatever time the run took.
  assert done[:3] == ["prepare", "prepare", "start"]
  assert set(done[3:]) == {"status"}
  assert len(slice_.calls("python")) == 1


def test_resume_makes_what_is_not_there_and_runs_what_does_not(slice_):
  slice_.stub_gcloud(tpu_vm=["MISSING", "MISSING", "READY"])
  slice_.stub("git")
  env = settings(slice_, REPOSITORY="https://host/r.git")
  (slice_.home / "statuses").write_text("137\n1\n")  # Then 0.
  result = vm(slice_, "resume", "--mode=train", env=env)
  assert result.returncode == 0, result
  assert "tpu-vm delete" not in verbs(slice_)
  assert "ended 137; again (1 of 2)" in result.stdout
  assert "ended 1; again (2 of 2)" in result.stdout
  assert len(slice_.calls("python")) == 3


@pytest.mark.parametrize(
  ("statuses", "status", "runs"), [("9\n" * 5, 9, 3), ("2\n", 2, 1)]
)
def test_resume_gives_up(slice_, statuses, status, runs):
  (slice_.home / "statuses").write_text(statuses)
  slice_.stub("git")
  env = settings(slice_, REPOSITORY="https://host/r.git")
  result = vm(slice_, "resume", "--mode=train", env=env)
  assert result.returncode == status, result
  assert result.stderr.strip().startswith("error: alpha: ")
  assert len(slice_.calls("python")) == runs


def test_resume_counts_anew_after_a_run_that_lasted(slice_):
  (slice_.home / "statuses").write_text("9\n" * 5)
  slice_.stub("git")
  env = settings(
    slice_, REPOSITORY="https://host/r.git", HEALTHY_SECONDS="0", ATTEMPTS="1"
  )
  result = vm(slice_, "resume", "--mode=train", env=env)
  assert result.returncode == 0, result
  assert len(slice_.calls("python")) == 6


def test_resume_gives_up_on_a_silent_worker(slice_):
  (slice_.root / "states" / "fail").write_text("worker.sh status")
  result = vm(slice_, "resume", "--mode=train")
  assert result.returncode == 1
  last = result.stderr.strip()
  assert last.startswith("error: alpha: a worker does not answer, after 2")


@pytest.mark.parametrize(
  ("reports", "expected"),
  [
    (["ended 0", "running 17"], "running"),
    (["ended 0", "ended 2", "ended 137"], "ended 137"),
    (["ended 2", "ended 0"], "ended 2"),
    (["ended 2", "died"], "died"),
    (["ended 1", "stopped 143"], "stopped 143"),
    (["ended 0", "none"], "none"),
    (["ended 0", "ended 0"], "ended 0"),
    ([], "silent"),
  ],
)
def test_which_worker_decides(reports, expected):
  text = (stubs.ROOT / "launch" / "tpu_vm.sh").read_text()
  function = text[text.index("worst() {") :].split("\n}\n")[0] + "\n}\n"
  report = "\n".join(f"t1v-n-{n}: {r}" for n, r in enumerate(reports))
  result = subprocess.run(
    ["bash", "-euc", f'{function}worst "$1"', "worst", report],
    capture_output=True,
    text=True,
    check=True,
  )
  assert result.stdout.strip() == expected


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"PROJECT": ""}, ["PROJECT", "''"]),
    ({"PROJECT": "a b"}, ["PROJECT", "'a b'"]),
    ({"ZONE": "mars"}, ["ZONE", "'mars'", "us-central2-b"]),
    ({"NAME": "Alpha"}, ["NAME", "'Alpha'"]),
    ({"NAME": "-x"}, ["NAME", "'-x'"]),
    ({"NAME": "a" * 41}, ["NAME", "at most 40"]),
    ({"ACCELERATOR_TYPE": "h100"}, ["ACCELERATOR_TYPE", "'h100'"]),
    ({"RUNTIME_VERSION": ""}, ["RUNTIME_VERSION"]),
    ({"KIND": "cheap"}, ["KIND", "'cheap'", "queued-spot"]),
    ({"VALID_UNTIL": "6h"}, ["VALID_UNTIL", "KIND is spot"]),
    ({"KIND": "queued", "VALID_UNTIL": "6 h"}, ["VALID_UNTIL", "'6 h'"]),
    ({"SHARED": "s3://b"}, ["SHARED", "'s3://b'"]),
    ({"SHARED": "gs://b/folder"}, ["SHARED", "gs://BUCKET"]),
    ({"MOUNT": "mnt"}, ["MOUNT", "'mnt'"]),
    ({"WORKDIR": "gs://b/runs"}, ["WORKDIR", "'gs://b/runs'", "MOUNT"]),
    ({"WORKDIR": "/elsewhere"}, ["WORKDIR", "'/elsewhere'", "below MOUNT"]),
    ({"WORKDIR": "/mnt/shared"}, ["WORKDIR", "below MOUNT"]),
    ({"DIRECTORY": "../x"}, ["DIRECTORY", "'../x'"]),
    ({"REPOSITORY": "--upload-pack=x"}, ["REPOSITORY"]),
    ({"BRANCH": "v1"}, ["BRANCH", "REPOSITORY is empty"]),
    ({"SERVICE_ACCOUNT": "me"}, ["SERVICE_ACCOUNT", "'me'"]),
    ({"CREATE_FLAGS": "x"}, ["CREATE_FLAGS", "'x'"]),
    ({"SSH_FLAGS": "-v"}, ["SSH_FLAGS", "'-v'"]),
    ({"POLL_SECONDS": "1m"}, ["POLL_SECONDS", "'1m'"]),
    ({"ATTEMPTS": "-1"}, ["ATTEMPTS", "'-1'"]),
    ({"HEALTHY_SECONDS": "1h"}, ["HEALTHY_SECONDS", "'1h'"]),
    ({"STOP_SECONDS": ""}, ["STOP_SECONDS"]),
    ({"NAMES": "x"}, ["NAMES: no such variable", ":14:"]),
    ({"# x\nfoo bar": ""}, ["'foo bar=' found, NAME=VALUE"]),
    ({"RUNTIME_VERSION": "$(touch /tmp/x)"}, ["RUNTIME_VERSION", "$(touch"]),
  ],
)
def test_a_wrong_variable_is_one_line(machine, changes, words):
  machine.stub_gcloud()
  env = machine.root / "own.env"
  base = settings(machine, **changes)
  (machine.root / base).rename(env)
  line = stubs.mistake(vm(machine, "create", env=str(env)))
  assert "own.env" in line
  for word in words:
    assert word in line
  assert machine.calls() == []


def test_values_may_be_quoted_and_the_environment_does_not_count(machine):
  machine.stub_gcloud(tpu_vm=["READY"])
  env = settings(machine, ZONE='"us-central2-b"', PROJECT="'project-1' \r")
  result = vm(machine, "create", env=env, NETWORK="of the environment")
  assert result.returncode == 0, result.stderr
  assert not any("network" in word for word in machine.calls("gcloud")[0])


@pytest.mark.parametrize(
  ("words", "expected"),
  [
    ([], "no command found"),
    (["start"], "start: not a command"),
    (["--fast", "create"], "--fast: not an option"),
    (["create", "now"], "create: 'now' found"),
    (["run"], "run: no arguments for main.py"),
    (["resume"], "resume: no arguments"),
    (["tail", "all"], "tail: 'all' found, the number of a worker"),
    (["tail", "1", "2"], "tail: 2 arguments"),
  ],
)
def test_a_wrong_command_is_one_line(machine, words, expected):
  machine.stub_gcloud()
  assert expected in stubs.mistake(vm(machine, *words))
  assert machine.calls() == []


def test_what_else_is_missing(machine):
  assert "gcloud: not found" in stubs.mistake(vm(machine, "create"))
  absent = vm(machine, "create", env="/no/such.env")
  assert "/no/such.env: not found" in stubs.mistake(absent)
  template = machine.run("tpu_vm.sh", "create")
  assert "tpu_vm.env: PROJECT: ''" in stubs.mistake(template)
