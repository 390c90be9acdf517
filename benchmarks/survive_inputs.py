"""Hostile input files and mistakes in a command.

Valid raw files, given results and a model's files are changed at random: bits
flipped, cut, doubled, fields of another type, numbers without end. Keys of the
configuration get values outside sense and paths that lead nowhere. A command
then does its work, or ends in one line; where a file's rows are lost, it
says so.
"""

import json
import os
import pathlib
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from benchmarks import survive_commands as commands_lib
from benchmarks.survive_commands import ROOT
from configs import common

_ODD: tuple[Any, ...] = (
  None, True, "false", "", -1, 0, 1e308, 10**40, "\u202eabc", "a\nb\tc",
  [], {}, [[[]]], {"a": {"b": [1]}}, "<s>", "NaN", float("nan"), "x" * 20_000,
)  # fmt: skip
_NUMBERS = ("-1", "0", "nan", "inf", "-inf", "1e30", "1.5", str(2**63), "true")


def _bytes_of(content: bytes, draw: random.Random) -> bytes:
  """Returns a text changed somewhere."""
  place = draw.randrange(len(content) + 1)
  length = draw.choice((1, 7, 200, 5000))
  kind = draw.randrange(6)
  if kind == 0:
    return content[:place]
  if kind == 1:
    return content[:place] + content[place + length :]
  if kind == 2:
    return content[:place] + content[place : place + length] + content[place:]
  if kind == 3:
    odd = (b"\0", b'"', b"\xff", b"[", b"\r", b"9" * 5000, b"\xe2\x80\xae")
    return content[:place] + draw.choice(odd) + content[place:]
  if kind == 4:
    return content + content
  changed = bytearray(content)
  for _ in range(min(length, len(changed))):
    changed[draw.randrange(len(changed))] = draw.randrange(256)
  return bytes(changed)


def _value_of(value: Any, draw: random.Random) -> Any:
  """Returns a JSON value with one part of another type."""
  if isinstance(value, dict) and value and draw.random() < 0.85:
    key = draw.choice(list(value))
    return value | {key: _value_of(value[key], draw)}
  if isinstance(value, list) and value and draw.random() < 0.85:
    n = draw.randrange(len(value))
    return [*value[:n], _value_of(value[n], draw), *value[n + 1 :]]
  return draw.choice(_ODD)


def change(path: pathlib.Path, draw: random.Random) -> None:
  """Changes a file for the worse."""
  content = path.read_bytes()
  is_json = path.suffix in (".json", ".jsonl")
  if not is_json or draw.random() > 0.6:
    path.write_bytes(_bytes_of(content, draw))
    return
  try:
    parts = [json.loads(content)]
  except ValueError:  # A value on each line.
    parts = [json.loads(line) for line in content.splitlines()]
  n = draw.randrange(len(parts))
  parts[n] = _value_of(parts[n], draw)
  path.write_text(_lines(list(map(json.dumps, parts))), errors="surrogatepass")


def _write_movielens(folder: pathlib.Path, draw: random.Random) -> None:
  folder.mkdir(parents=True)
  movies = [f'{n},"Film {n}, The (19{n:02d})",Drama' for n in range(1, 61)]
  (folder / "movies.csv").write_text("movieId,title,genres\n" + _lines(movies))
  ratings = [
    f"{user},{draw.randrange(1, 61)},{draw.randrange(1, 6)},{9e8 + n:.0f}"
    for user in range(1, 31)
    for n in range(16)
  ]
  header = "userId,movieId,rating,timestamp\n"
  (folder / "ratings.csv").write_text(header + _lines(ratings))


def _write_amazon(folder: pathlib.Path, draw: random.Random) -> None:
  folder.mkdir(parents=True)
  metadata = [
    json.dumps({"asin": f"B{n:03d}", "title": f"Game {n}"}) for n in range(60)
  ]
  (folder / "meta_Video_Games.json").write_text(_lines(metadata))
  reviews = [
    json.dumps(
      {
        "reviewerID": f"A{user}",
        "asin": f"B{draw.randrange(60):03d}",
        "overall": 5.0,
        "unixReviewTime": 1_400_000_000 + n,
      }
    )
    for user in range(30)
    for n in range(16)
  ]
  (folder / "Video_Games_5.json").write_text(_lines(reviews))


def _write_sequences(folder: pathlib.Path, draw: random.Random) -> None:
  folder.mkdir(parents=True)
  rows = [
    " ".join(map(str, [user, *draw.sample(range(1, 61), 12)]))
    for user in range(1, 41)
  ]
  (folder / "sequences.txt").write_text(_lines(rows))
  names = {str(n): f"Toy {n}" for n in range(1, 61)}
  (folder / "names.json").write_text(json.dumps(names))


def _lines(lines: list[str]) -> str:
  return "".join(f"{line}\n" for line in lines)


Writer = Callable[[pathlib.Path, random.Random], None]
# Format: who writes it, the configuration, and its keys for a folder.
_RAW: Mapping[str, tuple[Writer, str, Mapping[str, str]]] = {
  "movielens": (_write_movielens, "movie", {"data.raw_dir": ""}),
  "amazon": (_write_amazon, "game", {"data.raw_dir": ""}),
  "sequences": (
    _write_sequences,
    "toys",
    {"data.train": "sequences.txt", "data.catalogue": "names.json"},
  ),
}


def raw_files(
  commands: commands_lib.Commands, folder: pathlib.Path, seed: int, most: int
) -> commands_lib.Tally:
  """Prepares changed raw files of every format, `most` each."""
  tally = commands_lib.Tally("hostile raw files")
  target, workdir = folder / "raw", folder / "of_raw"
  for name, (write, config, keys) in _RAW.items():
    draw = random.Random(f"{seed} {name}")
    flags = [f"--config={ROOT}/configs/{config}.py:tiny", "--mode=prepare"]
    flags += [f"--workdir={workdir}", f"--config.data.format={name}"]
    flags += [f"--config.{k}={target / file}" for k, file in keys.items()]
    for n in range(most):
      for old in (target, workdir):
        shutil.rmtree(old, ignore_errors=True)
      write(target, draw)
      path = draw.choice(sorted(target.iterdir()))
      change(path, draw)
      tally.add(f"{name} {n}: {path.name}", *_verdict(commands.run(*flags)))
  return tally


def model_files(
  commands: commands_lib.Commands,
  made: pathlib.Path,
  seed: int,
  most: int,
) -> commands_lib.Tally:
  """Decodes with changed files of a given base and adapter, `most` in all."""
  draw = random.Random(f"{seed} model")
  tally = commands_lib.Tally("hostile base and adapter")
  for n in range(most):
    workdir = next(commands_lib.copies(made, made.parent))
    given = made.parent / "given"
    shutil.rmtree(given, ignore_errors=True)
    for name in ("base", "adapter"):
      shutil.copytree(made / name, given / name)
    paths = [p for p in sorted(given.rglob("*")) if p.is_file()]
    path = draw.choice(paths)
    change(path, draw)
    ended = commands.run(
      "--mode=generate",
      f"--workdir={workdir}",
      f"--config.model.path={given / 'base'}",
      f"--config.model.adapter={given / 'adapter'}",
    )
    outcome = _verdict(ended)
    if outcome[0] == "right" and _empty_predictions(workdir):
      outcome = "lost", "an empty list of predictions, status 0"
    tally.add(f"{n}: {path.relative_to(given)}", *outcome)
  return tally


def given_files(
  commands: commands_lib.Commands,
  made: pathlib.Path,
  seed: int,
  most: int,
) -> commands_lib.Tally:
  """Evaluates changed predictions, scores and counts that are given."""
  draw = random.Random(f"{seed} given")
  tally = commands_lib.Tally("hostile given results")
  given = made.parent / "given"
  lines = (made / "data" / "catalogue.jsonl").read_text().splitlines()
  counts = {json.loads(line)["external_id"]: 3 for line in lines[:9]}
  for n in range(most):
    workdir = next(commands_lib.copies(made, made.parent))
    shutil.rmtree(given, ignore_errors=True)
    given.mkdir()
    (given / "popularity.json").write_text(json.dumps(counts))
    flags = [f"--config.ground.popularity={given / 'popularity.json'}"]
    for split in ("valid", "test"):
      shutil.copy(made / "predictions" / f"{split}.json", given)
      shutil.copy(made / "cf" / "sasrec" / f"{split}.npy", given)
      flags += [f"--config.ground.predictions.{split}={given}/{split}.json"]
      flags += [f"--config.ground.cf_scores.{split}={given}/{split}.npy"]
    path = draw.choice(sorted(given.iterdir()))
    change(path, draw)
    ended = commands.run("--mode=ground_eval", f"--workdir={workdir}", *flags)
    tally.add(f"{n}: {path.name}", *_verdict(ended))
  return tally


def _empty_predictions(workdir: pathlib.Path) -> bool:
  paths = (workdir / "predictions").glob("*.json")
  rows = (row for path in paths for row in json.loads(path.read_text()))
  return any(not row["predict"] for row in rows)


def _verdict(ended: commands_lib.Ended) -> tuple[str, str]:
  if ended.is_refusal:
    return "refused", ended.told()
  if ended.status or ended.has_dump:
    return "lost", ended.told()
  return "right", ""


def _numeric_keys(node: Any, prefix: str = "") -> Iterator[str]:
  """Yields every dotted key whose default is a number."""
  for key, value in node.items():
    if hasattr(value, "items"):
      yield from _numeric_keys(value, f"{prefix}{key}.")
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
      yield prefix + key


def numbers(
  commands: commands_lib.Commands, made: pathlib.Path, seed: int, most: int
) -> commands_lib.Tally:
  """Gives numeric keys values that make no sense, `most` in all."""
  keys = list(_numeric_keys(common.get_config()))
  cases = [(key, value) for key in keys for value in _NUMBERS]
  random.Random(f"{seed} numbers").shuffle(cases)
  tally = commands_lib.Tally("numbers of the configuration")
  target = commands_lib.copies(made, made.parent)
  for key, value in cases[:most]:
    flags = [f"--workdir={next(target)}", f"--config.{key}={value}"]
    outcome = _verdict(commands.run("--mode=pipeline", *flags, timeout=180))
    tally.add(f"{key}={value}", *outcome)
  return tally


_PATH_KEYS = (
  "config.model.path", "config.model.adapter", "config.model.tokenizer",
  "config.embed.model.path", "config.data.raw_dir", "config.data.train",
  "config.data.catalogue", "config.ground.predictions.test",
  "config.ground.cf_scores.test", "config.ground.popularity",
  "config.recommend.histories", "config.recommend.output", "workdir", "config",
)  # fmt: skip


def _paths(folder: pathlib.Path) -> dict[str, str]:
  """Returns paths that lead nowhere, by what is wrong with them."""
  folder.mkdir(parents=True, exist_ok=True)
  loop, file, empty = folder / "loop", folder / "file", folder / "empty"
  if not loop.is_symlink():
    os.symlink(loop, loop)
  file.write_text("nothing of use")
  empty.mkdir(exist_ok=True)
  return {
    "missing": str(folder / "missing" / "file.json"),
    "under a file": str(file / "below"),
    "a loop": str(loop),
    "too long": str(folder / ("x" * 300)),
    "a file": str(file),
    "an empty folder": str(empty),
    "in /proc": "/proc/nothing/there",
    "a home": "~/models/x",
    "a hub id": "meta-llama/Llama-2-7b-hf",
    "a bucket": "gs://bucket/x",
    "a surrogate": str(folder / "x\udcff"),
    "a device": "/dev/full",
  }


def paths(
  commands: commands_lib.Commands, made: pathlib.Path
) -> commands_lib.Tally:
  """Gives every key of a path all of these."""
  tally = commands_lib.Tally("paths")
  modes = {"recommend": "recommend", "ground": "ground_eval"}
  target = commands_lib.copies(made, made.parent)
  for key in _PATH_KEYS:
    section = key.removeprefix("config.").split(".")[0]
    mode = modes.get(section, "prepare" if section == "data" else "generate")
    for name, path in _paths(made.parent / "paths").items():
      flags = [f"--mode={mode}", f"--workdir={next(target)}", f"--{key}={path}"]
      if key.startswith("config.data"):
        kind = "movielens" if key.endswith("raw_dir") else "bigrec"
        flags.append(f"--config.data.format={kind}")
      if key == "workdir":
        flags.append(f"--config={ROOT}/configs/demo.py:tiny")
      tally.add(f"{key}: {name}", *_verdict(commands.run(*flags)))
  return tally


_CONFIG_FILES = {
  "raises": "def get_config():\n  raise ValueError('no')\n",
  "returns nothing": "def get_config():\n  return None\n",
  "returns a dict": "def get_config():\n  return {'seed': 1}\n",
  "has no get_config": "x = 1\n",
  "isn't Python": "def get_config(:\n",
  "imports nothing that is there": "import nothing_that_is_there\n",
  "exits": "import sys\nsys.exit(3)\n",
  "is no text": "\x00\x01",
  "recurses": "def get_config():\n  return get_config()\n",
  "returns another tree": (
    "import ml_collections\n"
    "def get_config():\n  return ml_collections.ConfigDict({'a': 1})\n"
  ),
}


def config_files(
  commands: commands_lib.Commands, folder: pathlib.Path
) -> commands_lib.Tally:
  """Names configuration files that are none."""
  tally = commands_lib.Tally("configuration files")
  for name, text in _CONFIG_FILES.items():
    path = folder / "odd_config.py"
    path.write_text(text)
    flags = ["--mode=prepare", f"--config={path}"]
    ended = commands.run(*flags, f"--workdir={folder / 'of_config'}")
    outcome = _verdict(ended)
    tally.add(name, *(outcome if ended.status else ("lost", "status 0")))
  return tally
