"""Modes that are killed or interrupted, and two of them at a time.

SIGKILL, SIGTERM or SIGINT comes at a random moment of a mode that has all its
work to do; the same command then has to end with the results of a run that
nobody stopped. Of two writers that start a moment apart one has to make the
artefact and the other to be refused, or to find it made.
"""

import pathlib
import random
import shutil
import signal
import time

from benchmarks import survive_commands as commands_lib

# What a mode makes, as patterns under the workdir, so that it is made again.
OWN = {
  "prepare": ("data",),
  "pretrain": ("base", "records/base.json"),
  "train": ("adapter", "checkpoints", "metrics/train*", "records/adapter.json"),
  "train_cf": ("cf", "records/cf_*"),
  "generate": ("predictions", "records/predictions_*"),
  "embed": ("embeddings", "records/embeddings.json"),
  "ground_eval": ("ranks", "records/ground_eval.json"),
  "report": ("report", "records/report.json"),
  "pipeline": ("*",),
}
_STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}
_SOON = 10.0  # Seconds in which a signal has to end a command.


def unmade(mode: str, made: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
  """Copies a workdir without what the mode makes; its configuration stays."""
  shutil.rmtree(target, ignore_errors=True)
  shutil.copytree(made, target)
  for pattern in OWN[mode]:
    for path in target.glob(pattern):
      if path.name != "config.json":
        shutil.rmtree(path) if path.is_dir() else path.unlink()
  return target


def _goes_on(
  commands: commands_lib.Commands,
  flags: tuple[str, str],
  workdir: pathlib.Path,
  expected: object,
) -> tuple[str, str]:
  """Runs the same command again, then all that is left; returns the outcome."""
  for again in (flags, ("--mode=pipeline", flags[1])):
    ended = commands.run(*again)
    if ended.status or ended.has_dump:
      return "lost", f"again {again[0]}: {ended.told()}"
  line = commands_lib.difference(commands_lib.results(workdir), expected)
  return ("lost", f"resumed, but {line}") if line else ("healed", "")


def _wrong_end(ended: commands_lib.Ended, number: int, after: float) -> str:
  """Returns what is wrong with how a signal ended a command, "" if nothing."""
  if ended.status == 0:
    return ""  # It was done before.
  lines = [x for x in ended.err.splitlines() if x.startswith("interrupted")]
  if ended.has_dump or ended.status != _STATUS[number] or len(lines) != 1:
    return ended.told()
  return f"after {after:.1f} s" if after > _SOON else ""


def stops(
  commands: commands_lib.Commands,
  made: pathlib.Path,
  seed: int,
  rounds: int,
  number: int,
  modes: tuple[str, ...],
) -> commands_lib.Tally:
  """Stops every mode at random moments with one signal.

  Args:
    commands: start main.py.
    made: a finished workdir.
    seed: of the moments.
    rounds: for each mode.
    number: of the signal.
    modes: to stop.
  """
  draw = random.Random(f"{seed} {number}")
  tally = commands_lib.Tally(signal.Signals(number).name)
  expected, target = commands_lib.results(made), made.parent / "stopped"
  for mode in modes:
    workdir = unmade(mode, made, target)
    flags = (f"--mode={mode}", f"--workdir={workdir}")
    whole = commands.run(*flags).seconds
    for _ in range(rounds):
      unmade(mode, made, target)
      moment = draw.uniform(0.0, whole)
      running = commands.start(*flags)
      time.sleep(moment)
      running.kill(number)
      sent = time.perf_counter()
      ended = running.wait()
      case = f"{mode} after {moment:.2f} of {whole:.2f} s"
      if number != signal.SIGKILL:
        after = time.perf_counter() - sent
        if problem := _wrong_end(ended, number, after):
          tally.add(case, "lost", problem)
          continue
      tally.add(case, *_goes_on(commands, flags, workdir, expected))
  return tally


def writers(
  commands: commands_lib.Commands,
  made: pathlib.Path,
  seed: int,
  rounds: int,
  modes: tuple[str, ...],
) -> commands_lib.Tally:
  """Starts every mode twice on one workdir, a random moment apart."""
  draw = random.Random(f"{seed} writers")
  tally = commands_lib.Tally("two writers")
  expected, target = commands_lib.results(made), made.parent / "shared"
  for mode in modes:
    workdir = unmade(mode, made, target)
    flags = (f"--mode={mode}", f"--workdir={workdir}")
    whole = commands.run(*flags).seconds
    for _ in range(rounds):
      unmade(mode, made, target)
      apart = draw.uniform(0.0, whole)
      first = commands.start(*flags)
      time.sleep(apart)
      second = commands.start(*flags)
      ends = [first.wait(), second.wait()]
      case = f"{mode} twice, {apart:.2f} s apart"
      bad = [e for e in ends if e.status and not e.is_refusal or e.has_dump]
      if bad or all(end.status for end in ends):
        tally.add(case, "lost", " / ".join(end.told() for end in ends))
        continue
      outcome, told = _goes_on(commands, flags, workdir, expected)
      refused = any(end.is_refusal for end in ends)
      if outcome == "healed":
        outcome = "refused" if refused else "right"
      tally.add(case, outcome, told)
  return tally
