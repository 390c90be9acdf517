"""Commands that record their calls, and a checkout whose Python is one."""

import dataclasses
import os
import pathlib
import shutil
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
# What the scripts use of a system; nothing else is on PATH, whatever is here.
_TOOLS = """basename bash cat cksum cp cut date dirname env flock git grep gzip
  head id kill mkdir mktemp mv nohup ps rm sed seq setsid sh sleep tail tar
  touch tr wc""".split()
# What separates words, and calls, of a record.
_WORD, _CALL = "\x1f", "\x1e"
_RECORD = r"""#!/usr/bin/env bash
name=$(basename "$0")
printf -v line '%s\x1f' "$name" "$@"
printf '%s\x1e' "$line" >>"$CALLS" # At once: others write, too.
"""
# What a gcloud of one worker does: ssh is a shell that gets one string, states
# are lines of files, of which the last one stays.
_GCLOUD = (
  _RECORD
  + r"""
next() {
  local line
  [ -f "$STATES/$1" ] || { echo "ERROR: NOT_FOUND: $1" >&2; exit 1; }
  read -r line <"$STATES/$1"
  [ "$(wc -l <"$STATES/$1")" = 1 ] || sed -i 1d "$STATES/$1"
  [ "$line" != MISSING ] || { echo "ERROR: NOT_FOUND: $1" >&2; exit 1; }
  echo "$line"
}
if [ -f "$STATES/fail" ] && [[ "$*" == *"$(cat "$STATES/fail")"* ]]; then
  echo "ERROR: no quota" >&2
  exit 7
fi
case "$3 $4" in
  "tpu-vm ssh")
    for word; do
      if [[ $word == --command=* ]]; then
        cd "$HOME"
        exec bash -c "${word#--command=}"
      fi
    done
    ;;
  "tpu-vm scp") cp "$5" "$HOME/${6#*:}" ;;
  "tpu-vm describe" | "queued-resources describe") next "$3" ;;
esac
"""
)
# In place of .venv/bin/python: main.py as a stub. It sleeps while $HOME/busy is
# there, and ends with the first line of $HOME/statuses, else 0.
_PYTHON = (
  _RECORD
  + r"""
trap 'exit 143' TERM
while [ -f "$HOME/busy" ]; do sleep 0.02; done
status=0
if [ -s "$HOME/statuses" ]; then
  read -r status <"$HOME/statuses"
  sed -i 1d "$HOME/statuses"
fi
exit "$status"
"""
)


@dataclasses.dataclass
class Machine:
  """A folder with a home, a checkout and stubs.

  Attributes:
    root: holds all of it.
  """

  root: pathlib.Path

  def __post_init__(self):
    for folder in ("bin", "home", "states", "tools"):
      (self.root / folder).mkdir()
    for name in _TOOLS:
      (self.root / "tools" / name).symlink_to(shutil.which(name))
    self.checkout = self.root / "checkout"
    self.checkout.mkdir()
    shutil.copytree(ROOT / "launch", self.checkout / "launch")
    (self.checkout / "pyproject.toml").write_text("made up\n")
    (self.checkout / "constraints.txt").write_text("made up\n")

  @property
  def home(self):
    return self.root / "home"

  def stub(self, *names, script=_RECORD):
    """Puts commands on PATH."""
    for name in names:
      path = self.root / "bin" / name
      path.write_text(script)
      path.chmod(0o755)

  def stub_gcloud(self, **states):
    """Puts gcloud on PATH.

    Args:
      **states: lines that `describe` answers; tpu_vm, queued_resources.
    """
    self.stub("gcloud", script=_GCLOUD)
    for name, lines in states.items():
      file = self.root / "states" / name.replace("_", "-")
      file.write_text("\n".join(lines) + "\n")

  def install(self, folder, extras):
    """Makes a .venv that is taken for finished, with the stub of Python."""
    (folder / ".venv" / "bin").mkdir(parents=True)
    python = folder / ".venv" / "bin" / "python"
    python.write_text(_PYTHON)
    python.chmod(0o755)
    content = "made up\nmade up\n"
    sums = subprocess.run(
      ["cksum"], input=content, capture_output=True, text=True, check=True
    ).stdout.strip()
    (folder / ".venv" / "installed.txt").write_text(f"{extras} {sums}\n")

  def run(self, script, *words, timeout=30, **environment):
    """Runs a script of launch/ of the checkout; returns what it printed."""
    return subprocess.run(
      ["bash", f"launch/{script}", *words],
      cwd=self.checkout,
      env=self.environment() | environment,
      capture_output=True,
      text=True,
      timeout=timeout,
    )

  def environment(self):
    """Returns that of the scripts."""
    return {
      "PATH": f"{self.root / 'bin'}:{self.root / 'tools'}",
      "HOME": str(self.home),
      "HOSTNAME": "worker0",
      "CALLS": str(self.root / "calls"),
      "STATES": str(self.root / "states"),
      "LANG": os.environ.get("LANG", "C.UTF-8"),
    }

  def calls(self, name=None):
    """Returns the argument vectors so far; of one command without its name."""
    path = self.root / "calls"
    if not path.exists():
      return []
    calls = [
      call.split(_WORD)[:-1] for call in path.read_text().split(_CALL) if call
    ]
    if name is None:
      return calls
    return [call[1:] for call in calls if call[0] == name]


def mistake(result):
  """Returns the one line of a user's mistake."""
  lines = result.stderr.strip().splitlines()
  assert result.returncode == 2, result
  assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
  return lines[0]
