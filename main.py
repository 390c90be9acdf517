"""Runs one mode of bigrec_jax on one workdir.

  python main.py --config=configs/demo.py --mode=pipeline
  python main.py --config=configs/movie.py --mode=train --workdir=/data/run \
    --config.data.raw_dir=/data/ml-10m --config.model.path=/models/llama-7b
  python main.py --mode=recommend --workdir=/data/run --history="Heat (1995)"

A workdir remembers its configuration, so only the first command on it needs
--config (docs/workdir.md).
This file only reads flags, starts jax.distributed where asked, and dispatches.
Exit status: 0 when what was asked is on disk; 2 after a user's mistake, or
where another process of the run is gone; 130 and 143 after Ctrl-C and SIGTERM;
each of these with one line on stderr; 1 after anything else, and where
--mode=selfcheck finds that devices do not agree.
"""

import sys

from bigrec_jax.workdir import interrupts, large_pages, processes

if __name__ == "__main__":  # First: the imports below take a while.
  large_pages.ask()
  interrupts.install(processes.are_asked_for(sys.argv))
  processes.expect_others(sys.argv)

import contextlib
import dataclasses
import difflib
import importlib
import logging as python_logging
import os
import pathlib
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections
from absl import flags, logging
from ml_collections import config_flags
from ml_collections.config_flags import config_path

from bigrec_jax import config as config_lib, errors
from bigrec_jax.config import source_file
from bigrec_jax.stages import seeds, session
from bigrec_jax.workdir import (
  faults,
  given as given_paths,
  locks,
  paths as paths_lib,
  records,
  settings,
)

MODES = (
  "prepare",
  "pretrain",
  "train",
  "train_cf",
  "generate",
  "embed",
  "ground_eval",
  "evaluate",
  "contamination",
  "recommend",
  "serve",
  "chat",
  "report",
  "export",
  "pipeline",
  "plan",
  "selfcheck",
)
# They use what is there; only --make has them train or remember anything.
_READING = ("recommend", "serve", "chat", "report", "export", "plan")
# In them model.adapter is where training starts, elsewhere the one to use.
_STARTING = ("train", "pipeline")
# They neither read nor change what is there.
_OF_NO_WORKDIR = ("selfcheck",)
# Where configs/ is: in a checkout, or in the installed package.
_HOME = pathlib.Path(__file__).resolve().parent
# The defaults alone, where the workdir remembers all else.
_DEFAULTS = _HOME / "configs" / "common.py"

# For the others to say why they stop, too.
_FAREWELL_SECONDS = 2.0

_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "configs/<name>.py, or configs/<name>.py:tiny"
)
_MODE = flags.DEFINE_string("mode", None, f"One of {', '.join(MODES)}.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Default: runs/<config name>.")
_HISTORY = flags.DEFINE_multi_string(
  "history",
  [],
  "An id or a title that the user has had; once for each, oldest first, or a"
  " JSON list of them. For --mode=recommend and --mode=chat.",
)
_MAKE = flags.DEFINE_bool(
  "make", False, "A mode that only reads makes first what is missing or stale."
)
_DRY_RUN = flags.DEFINE_bool(
  "dry_run", False, "Say what would be made, and why; make and write nothing."
)
_VERIFY = flags.DEFINE_bool(
  "verify",
  False,
  "Digest every file that is looked at, even where its size and time are those"
  " of before.",
)
_DISTRIBUTED = flags.DEFINE_bool(
  "distributed", False, "One process of many: call jax.distributed.initialize."
)


def _nearest(word: str, known: list[str]) -> str:
  match = difflib.get_close_matches(word, known, n=1, cutoff=0.0)
  return f"; did you mean {match[0]}?" if match else ""


def _config_keys(name: str) -> list[str]:
  """Returns every dotted key of the defaults, for suggestions."""
  from configs import common  # Only needed once something is wrong.

  def walk(node, prefix):
    for key, value in node.items():
      yield from (
        walk(value, f"{prefix}{key}.")
        if hasattr(value, "items")
        else [prefix + key]
      )

  return list(walk(common.get_config(), f"{name}."))


def _one_line(error: Exception) -> str:
  """Returns the message of a flag error, without the traceback inside it."""
  lines = [line.strip() for line in str(error).splitlines() if line.strip()]
  if any("Traceback" in line for line in lines):
    lines = [lines[0].split(": Error")[0] + ":", lines[-1]]
  return " ".join(lines)


def _named(argv: list[str], flag: str) -> str | None:
  """Returns the last value of a flag, before flags are parsed."""
  found = None
  for n, argument in enumerate(argv[1:], 1):
    name, is_one, value = argument.partition("=")
    if name in (f"--{flag}", f"-{flag}"):
      found = value if is_one else "".join(argv[n + 1 : n + 2])
  return found


def _without(arguments: list[str], *names: str) -> Iterator[str]:
  """Yields the arguments but for some flags and their values."""
  skipped = False
  for argument in arguments:
    name, is_one, _ = argument.lstrip("-").partition("=")
    if argument.startswith("-"):
      skipped = name.removeprefix("no") in names or name in names
      if not skipped:
        yield argument
      skipped = skipped and not is_one  # Its value comes next.
    elif not skipped:
      yield argument


@contextlib.contextmanager
def _keys_before_methods() -> Iterator[None]:
  """Makes `--config.data.items=FILE` a key: ConfigDict has a method items.

  config_flags takes attributes first, and has no other way to say it.
  """
  plain = config_path._get_item_or_attribute

  def by_key(config: Any, field: Any, field_path: str | None = None) -> Any:
    if isinstance(config, ml_collections.ConfigDict) and field in config:
      return config[field]
    return plain(config, field, field_path)

  config_path._get_item_or_attribute = by_key
  try:
    yield
  finally:
    config_path._get_item_or_attribute = plain


def _config_is_missing(workdir: str | None) -> errors.UserError:
  where = ""
  if workdir:
    file = paths_lib.Paths(pathlib.Path(workdir)).config
    where = f" (there is no {file}, which would say it)"
  return errors.UserError(
    "--config is missing: e.g. configs/demo.py, or --workdir of an earlier"
    f" run, which remembers it{where}"
  )


def _parse(argv: list[str]) -> None:
  """Parses flags; every mistake becomes a UserError.

  Where no configuration is named but a workdir that remembers its own is, or
  none is needed, flags are parsed as changes of the defaults.
  """
  workdir = _named(argv, "workdir")
  if workdir:
    given_paths.check_workdir(workdir)
  if named := _named(argv, "config"):
    found = source_file.find(named, _HOME)
    source_file.check(found)
    if found != named:
      argv = [argv[0], f"--config={found}", *_without(argv[1:], "config")]
  elif _named(argv, "mode") == "selfcheck" or (
    workdir and paths_lib.Paths(pathlib.Path(workdir)).config.exists()
  ):
    argv = [argv[0], f"--config={_DEFAULTS}", *argv[1:]]
  elif any(word.lstrip("-").startswith("config.") for word in argv[1:]):
    raise _config_is_missing(workdir)  # Without one no key is known.
  try:
    with _keys_before_methods():
      rest = flags.FLAGS(argv)
    if (config := _CONFIG.value) is not None:
      config.lock()  # Touch it: a file that did not load says so only now.
  except (flags.Error, OSError) as error:
    raise errors.UserError(_one_line(error)) from None
  except (AttributeError, KeyError) as error:
    known = _config_keys("config")
    given = [a.lstrip("-").split("=")[0] for a in argv[1:]]
    unknown = [
      a for a in given if a.startswith("config.") and a not in known
    ] or [str(error)]
    raise errors.UserError(
      f"--{unknown[0]}: no such key{_nearest(unknown[0], known)}"
    ) from None
  except (SyntaxError, TypeError, ValueError) as error:
    raise errors.UserError(f"flags: {error}") from None
  if len(rest) > 1:
    raise errors.UserError(f"{rest[1]!r}: not a flag; flags start with --")
  if _CONFIG.value is None:
    raise _config_is_missing(_WORKDIR.value)
  if _MODE.value not in MODES:
    near = _nearest(_MODE.value, list(MODES)) if _MODE.value else ""
    raise errors.UserError(
      f"--mode={_MODE.value or ''}: one of {', '.join(MODES)} expected{near}"
    )


def _config_name() -> str | None:
  """Returns the name of the configuration file; None = none was named."""
  name = config_flags.get_config_filename(flags.FLAGS["config"])
  if name == str(_DEFAULTS):
    return None
  return pathlib.Path(name.split(":")[0]).stem


def _flags_given() -> frozenset[str]:
  """Returns the configuration keys that this command line names."""
  given = config_flags.get_override_values(flags.FLAGS["config"])
  return frozenset(given)


def _remembered(paths: paths_lib.Paths) -> dict[str, Any] | None:
  """Returns what the workdir says of its configuration, if it does."""
  try:
    found = settings.recall(paths)
  except settings.DamagedConfig as error:
    if _config_name() is None:
      raise
    logging.warning("%s", error)
    found = None
  if found is None and _MODE.value in _READING:
    found = settings.of_records(paths)
  return found


def _configure(
  remembered: Mapping[str, Any] | None,
) -> tuple[config_lib.Config, dict[str, Any] | None, list[str]]:
  """Returns the configuration that counts: flags, file and memory together.

  Returns:
    The configuration, what its file alone says (None = no file was named), and
    what to tell of it, a line each.
  """
  file = None
  if _config_name() is not None:
    path = config_flags.get_config_filename(flags.FLAGS["config"])
    file = flags.FLAGS["config"].parser.parse(path).to_dict()
  lines: list[str] = []
  if remembered is not None:
    values, lines = settings.merge(
      records.flatten(_CONFIG.value.to_dict()),
      _flags_given(),
      None if file is None else records.flatten(file),
      remembered,
    )
    if remembered["name"] is None:
      lines = [
        f"{key} {value!r} (as the workdir's records say)"
        for key, value in values.items()
        if value != records.flatten(file)[key] and key not in _flags_given()
      ]
    _CONFIG.value.update_from_flattened_dict(values)
  if _HISTORY.value:
    _CONFIG.value.recommend.history = tuple(_HISTORY.value)
  return config_lib.from_config_dict(_CONFIG.value), file, lines


def _remember(
  paths: paths_lib.Paths,
  config: config_lib.Config,
  file: Mapping[str, Any] | None,
  remembered: Mapping[str, Any] | None,
) -> None:
  """Keeps the configuration in the workdir for later commands.

  An adapter that is named to be used is not where a training of the workdir's
  own adapter started.
  """
  name, values = _config_name(), config.to_dict()
  if (
    remembered is not None
    and _MODE.value not in _STARTING
    and "model.adapter" in _flags_given()
    and paths.record("adapter").exists()
  ):
    values["model"]["adapter"] = remembered["config"]["model"]["adapter"]
  settings.remember(paths, values, name or remembered["name"], file)


def _repeated(arguments: list[str]) -> Iterator[str]:
  """Yields the flags that another mode on the same workdir needs, too."""
  own = ("mode", "history", "make", "dry_run", "verify")
  return _without(arguments, *own)


def _set_up_jax(workdir: pathlib.Path) -> None:
  """Says where compiled programs are kept, before JAX is imported.

  Not every mode imports it, and those that do only once there is work.
  Programs outlive the process: the next start reads them. All of them are
  kept, as a mode has dozens that take a few hundredths of a second each.
  """
  cache = paths_lib.real(workdir).parent / ".compilation_cache"
  os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.fspath(cache))
  os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
  if _DISTRIBUTED.value:
    processes.join()


def _refuse_urls() -> None:
  """Raises UserError where a URL is given in place of a path."""
  flat = records.flatten(_CONFIG.value.to_dict(), "config.")
  named = {k: v for k, v in flat.items() if not k.startswith("config.prompt.")}
  paths_lib.refuse_urls({"workdir": _WORKDIR.value, **named})


def _run(argv: list[str]) -> int:
  """Runs the mode; returns the exit status, which only selfcheck decides."""
  _parse(argv)
  _refuse_urls()
  if _HISTORY.value and _MODE.value not in ("recommend", "chat", "pipeline"):
    raise errors.UserError(
      f"--history: --mode={_MODE.value} found, chat or recommend expected"
    )
  workdir = pathlib.Path(
    _WORKDIR.value or f"runs/{_config_name() or _MODE.value}"
  )
  paths = paths_lib.Paths(workdir)
  remembered = _remembered(paths)
  config, file, lines = _configure(remembered)
  if not _DRY_RUN.value:
    _set_up_jax(workdir)
  for line in lines:
    session.say(f"config: {line}")
  named = "model.adapter" in _flags_given() and _MODE.value not in _STARTING
  asked = session.Asked(
    make=_MAKE.value,
    dry_run=_DRY_RUN.value,
    verify=_VERIFY.value,
    adapter=config.model.adapter if named else "",
    flags=tuple(_repeated(argv[1:])),
    remember=lambda: _remember(paths, config, file, remembered),
  )
  mode = importlib.import_module(f"bigrec_jax.stages.{_MODE.value}")
  if not config.seeds or _MODE.value in seeds.ANY:
    with _writes(workdir):
      return mode.run(config, workdir, asked) or 0

  def one(own: config_lib.Config, root: pathlib.Path, asked: Any) -> None:
    def remember() -> None:
      asked.remember()
      _remember(paths_lib.Paths(root), own, file, remembered)

    mode.run(own, root, dataclasses.replace(asked, remember=remember))

  seeds.check(config, workdir, _MODE.value)
  with _writes(workdir):
    seeds.run(config, workdir, asked, _MODE.value, one)
  return 0


def _writes(workdir: pathlib.Path) -> contextlib.AbstractContextManager[None]:
  """Returns what keeps other writers away, where this command is one."""
  reads = _MODE.value in _READING and not _MAKE.value
  if reads or _DRY_RUN.value or _MODE.value in _OF_NO_WORKDIR:
    return contextlib.nullcontext()
  given_paths.check_folder_to_write("--workdir", workdir)
  return locks.writer(workdir, _MODE.value)


def _set_up_logging() -> None:
  """Shows our own notes, and of the libraries only warnings."""
  package = os.sep + "bigrec_jax" + os.sep
  handler = logging.get_absl_handler()
  handler.addFilter(
    lambda r: r.levelno >= python_logging.WARNING or package in r.pathname
  )
  handler.addFilter(faults.is_news)
  handler.setFormatter(
    python_logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S")
  )
  logging.use_absl_handler()
  sys.excepthook = faults.excepthook
  logging.set_verbosity(logging.INFO)
  logging.set_stderrthreshold("info")


def main(argv: list[str]) -> int:
  """Returns the exit status; see the module docstring."""
  _set_up_logging()
  try:
    return _run(argv)
  except errors.UserError as error:
    line = str(error)
    if not isinstance(error, errors.Interrupted):
      line = f"error: {line}"
    interrupts.claim()
    print(line, file=sys.stderr)
    return error.status
  except Exception as error:
    # The machine's limits, not a bug: say it plainly. Writes are atomic.
    refused = faults.as_os_error(error)
    if refused is None:
      raise
    interrupts.claim()
    print(f"error: {faults.line(refused)}", file=sys.stderr)
    return 2


def _run_and_leave(argv: list[str]) -> int:
  """Returns the exit status; a process of several leaves here if it failed.

  It can't wait for the others as JAX does at exit: they may wait for it.
  """
  try:
    status = main(argv)
  except BaseException:
    if processes.are_several():
      # What failed may be a collective with a process that is gone, which the
      # lookout says in one line.
      time.sleep(_FAREWELL_SECONDS)
    interrupts.claim()
    if number := interrupts.pending():
      print(errors.Interrupted(number, interrupts.KEPT), file=sys.stderr)
      status = 128 + number
    elif not processes.are_several():
      raise
    else:
      traceback.print_exc()
      status = 1
  if status and processes.are_several():
    sys.stdout.flush()
    sys.stderr.flush()
    processes.leave(status)
    time.sleep(_FAREWELL_SECONDS)
    os._exit(status)
  return status


if __name__ == "__main__":
  sys.exit(_run_and_leave(sys.argv))
