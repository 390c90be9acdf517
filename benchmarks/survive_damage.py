"""Damaged and mixed files of a workdir.

A file is deleted, emptied, cut, changed in one byte, replaced by words, by a
folder or by another workdir's file, or changes places with its like. Then a
mode that reads is asked (its list must be as before, or it refuses), then the
pipeline (it must end with the same results, or refuse).
"""

import pathlib
import random
import shutil
from collections.abc import Callable

from benchmarks import survive_commands as commands_lib

# Logs and what only saves time. All else a run reads again.
_NOT_READ = ("tensorboard", ".compilation_cache", "report", ".lock")
_CURVES = ("train.jsonl", "pretrain.jsonl")  # Without digests, as the docs say.
Damage = Callable[[pathlib.Path, pathlib.Path, random.Random], None]


def _delete(path: pathlib.Path, other: pathlib.Path, draw: random.Random):
  path.unlink()


def _empty(path: pathlib.Path, other: pathlib.Path, draw: random.Random):
  path.write_bytes(b"")


def _cut(path: pathlib.Path, other: pathlib.Path, draw: random.Random):
  content = path.read_bytes()
  path.write_bytes(content[: draw.randrange(max(len(content), 1))])


def _flip(path: pathlib.Path, other: pathlib.Path, draw: random.Random):
  content = bytearray(path.read_bytes())
  if content:
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
  path.write_bytes(bytes(content))


def _words(path: pathlib.Path, other: pathlib.Path, draw: random.Random):
  path.write_text(draw.choice(["null", "[]", "{}", "[[[[", "no JSON", "1e999"]))


def _folder(path: pathlib.Path, other: pathlib.Path, draw: random.Random):
  path.unlink()
  path.mkdir()


def _mix(path: pathlib.Path, other: pathlib.Path, draw: random.Random):
  if other.is_file():
    shutil.copyfile(other, path)
  else:
    path.unlink()


def _swap(path: pathlib.Path, other: pathlib.Path, draw: random.Random):
  twin = path.with_name(path.name.replace("valid", "test"))
  if "valid" in path.name and twin.is_file():
    content = path.read_bytes()
    path.write_bytes(twin.read_bytes())
    twin.write_bytes(content)
  else:
    _flip(path, other, draw)


DAMAGES: dict[str, Damage] = {
  "deleted": _delete,
  "emptied": _empty,
  "cut": _cut,
  "a bit flipped": _flip,
  "words in its place": _words,
  "a folder in its place": _folder,
  "another workdir's": _mix,
  "valid and test swapped": _swap,
}


def files(workdir: pathlib.Path) -> list[pathlib.Path]:
  """Returns the files that a later run may read, relative to the workdir."""
  paths = (path.relative_to(workdir) for path in workdir.rglob("*"))
  return sorted(
    path
    for path in paths
    if (workdir / path).is_file()
    and path.parts[0] not in _NOT_READ
    and path.name not in _CURVES
  )


def run(
  commands: commands_lib.Commands,
  made: pathlib.Path,
  other: pathlib.Path,
  history: str,
  seed: int,
  most: int,
) -> list[commands_lib.Tally]:
  """Damages files and looks what happens.

  Args:
    commands: start main.py.
    made: a finished workdir.
    other: a finished workdir of another seed.
    history: an item of the catalogue.
    seed: of the draws.
    most: cases; all damages of all files if there are fewer.
  """
  draw = random.Random(seed)
  cases = [(name, path) for path in files(made) for name in DAMAGES]
  draw.shuffle(cases)
  expected = commands_lib.results(made)
  reading = _listed(commands, made, history)
  tallies = {
    (damage, then): commands_lib.Tally(f"{damage}: {then}")
    for damage in DAMAGES
    for then in ("recommend", "pipeline")
  }
  targets = commands_lib.copies(made, made.parent)
  for damage, path in cases[:most]:
    workdir = next(targets)
    DAMAGES[damage](workdir / path, other / path, draw)
    ended = _listed(commands, workdir, history)
    tallies[damage, "recommend"].add(str(path), *_read(ended, reading))
    ended = commands.run("--mode=pipeline", f"--workdir={workdir}")
    outcome = _made(ended, workdir, expected)
    tallies[damage, "pipeline"].add(str(path), *outcome)
  return list(tallies.values())


def _listed(
  commands: commands_lib.Commands, workdir: pathlib.Path, history: str
) -> commands_lib.Ended:
  return commands.run(
    "--mode=recommend", f"--workdir={workdir}", f"--history={history}"
  )


def _read(
  ended: commands_lib.Ended, expected: commands_lib.Ended
) -> tuple[str, str]:
  """Returns the outcome of a mode that reads."""
  if ended.is_refusal:
    return "refused", ended.told()
  if ended.status or ended.has_dump:
    return "lost", ended.told()
  same = _items(ended) == _items(expected)
  return ("right", "") if same else ("lost", "another list, status 0")


def _items(ended: commands_lib.Ended) -> list[str]:
  """Returns the lines of a list that was printed."""
  return [x for x in ended.out.splitlines() if x[:3].strip(" .").isdigit()]


def _made(
  ended: commands_lib.Ended, workdir: pathlib.Path, expected: object
) -> tuple[str, str]:
  """Returns the outcome of a mode that makes."""
  if ended.is_refusal:
    return "refused", ended.told()
  if ended.status or ended.has_dump:
    return "lost", ended.told()
  found = commands_lib.results(workdir)
  if line := commands_lib.difference(found, expected):
    return "lost", f"status 0, but {line}"
  # Whatever was made again says so; all current is said of each else.
  again = "again, because" in ended.out or "examples" in ended.out
  return ("healed" if again else "right"), ""
