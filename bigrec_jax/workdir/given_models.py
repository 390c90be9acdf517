"""Paths of models as users give them: checked, and what was meant is said."""

import pathlib
import re

from bigrec_jax import errors
from bigrec_jax.workdir import given

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
_CONFIG = "config.json"
_OF_BASES = ("config.model.path", "config.task.chat.model")
_TOKENIZERS = (
  "tokenizer.json",
  "tokenizer.model",
  "vocab.json",
  "vocab.txt",
  "spiece.model",
  "sentencepiece.bpe.model",
)


def check_base(path_given: str, key: str = "config.model.path") -> None:
  """Checks the folder of a base or an encoder; or a base's GGUF file.

  Args:
    path_given: as in the configuration.
    key: of the configuration, for messages.

  Raises:
    UserError: there is none; the line says what is there instead.
  """
  is_gguf = path_given.lower().endswith(".gguf") and key in _OF_BASES
  expected = "a GGUF file" if is_gguf else "a Hugging Face directory"
  path = _existing(path_given, key, expected)
  if is_gguf:
    if path.is_dir():
      raise _error(key, path_given, "a folder found, a GGUF file expected")
    return
  _check_folder(path, key)
  if _is_workdir(path):
    raise _error(
      key, path_given, f"a workdir found; its base is {path / 'base'}"
    )
  names = (_CONFIG, "modules.json")
  if any((path / name).is_file() for name in names[: 1 + ("embed" in key)]):
    return
  wanted = f"no {_CONFIG} found, a Hugging Face directory expected"
  if (path / _ADAPTER[0]).is_file():
    wanted = (
      "a PEFT adapter found, the base that it is of expected"
      " (config.model.adapter names adapters)"
    )
  elif files := sorted(path.glob("*.gguf")):
    wanted = f"the folder of a GGUF file found, the file expected: {files[0]}"
  raise _error(key, path_given, wanted)


def check_adapter(path_given: str) -> None:
  """Checks the folder of an adapter; see `check_base`."""
  key = "config.model.adapter"
  path = _existing(path_given, key, "a PEFT directory")
  _check_folder(path, key)
  missing = [name for name in _ADAPTER if not (path / name).is_file()]
  if not missing or missing == [_ADAPTER[1]] and _has_torch_weights(path):
    return
  wanted = f"no {missing[0]} found, a PEFT directory expected"
  if _is_workdir(path):
    wanted = f"a workdir found; its adapter is {path / 'adapter'}"
  elif (path / _CONFIG).is_file():
    wanted = f"{wanted} (a model is there: config.model.path names bases)"
  raise _error(key, path_given, wanted)


def check_tokenizer(path_given: str) -> None:
  """Checks the folder of a tokenizer; see `check_base`."""
  key = "config.model.tokenizer"
  path = _existing(path_given, key, "a directory with a tokenizer")
  _check_folder(path, key)
  if any((path / name).is_file() for name in _TOKENIZERS):
    return
  wanted = f"no tokenizer found, one of {', '.join(_TOKENIZERS)} expected"
  if _is_workdir(path):
    wanted = f"a workdir found; its tokenizer is in {path / 'base'}"
  raise _error(key, path_given, wanted)


def _has_torch_weights(path: pathlib.Path) -> bool:
  """Whether an adapter is in torch's format, which its reader refuses."""
  return (path / "adapter_model.bin").is_file()


def _existing(path_given: str, key: str, expected: str) -> pathlib.Path:
  given.check_tilde(key, path_given)
  if given.state(key, path_given) is not None:
    return pathlib.Path(path_given)
  hint = ""
  if _HUB_NAME.fullmatch(path_given):
    hint = (
      " (if it is a name on the Hugging Face Hub: `hf download"
      f" {path_given} --local-dir DIR`, and give DIR)"
    )
  raise _error(key, path_given, f"not found, {expected} expected{hint}")


def _check_folder(path: pathlib.Path, key: str) -> None:
  if not path.is_dir():
    what = "GGUF file" if path.suffix.lower() == ".gguf" else "file"
    hint = (
      "; only config.model.path may name one"
      if what == "GGUF file"
      else f": {path.parent} may be meant"
    )
    raise _error(key, str(path), f"a {what} found, a folder expected{hint}")
  snapshots = sorted(path.glob("snapshots/*/"))
  if snapshots and not (path / _CONFIG).exists():
    raise _error(
      key,
      str(path),
      f"a folder of the Hugging Face cache found; {snapshots[-1]} may be meant",
    )


def _is_workdir(path: pathlib.Path) -> bool:
  return any(
    (path / name).exists() for name in ("records", "data/manifest.json")
  )


def _error(key: str, path: str, problem: str) -> errors.UserError:
  shown = path if path.isprintable() else repr(path)
  return errors.UserError(f"{key}: {shown}: {problem}")
