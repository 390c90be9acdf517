"""Raw files to the prepared dataset, catalogue, manifest and doctor's notes."""

import dataclasses
import pathlib
from typing import TYPE_CHECKING

from bigrec_jax import config as config_lib, errors
from bigrec_jax.data.formats import registry
from bigrec_jax.data.prepared import prepare
from bigrec_jax.recommend import loaded as loaded_lib
from bigrec_jax.stages import graph
from bigrec_jax.stages.session import Asked, Session, say
from bigrec_jax.workdir import processes, storage

_SHOWN = 3  # Prompts.

if TYPE_CHECKING:
  from bigrec_jax.data.text import tokenization


def run(
  config: config_lib.Config, workdir: pathlib.Path, asked: Asked | None = None
) -> None:
  """Prepares the data of `workdir`, unless it is current already.

  Writes the TFDS dataset, `data/catalogue.jsonl`, `data/manifest.json`,
  `data/doctor.json` and, with `data.export_json`, the BIGRec JSON files.

  Raises:
    UserError: a raw file is missing or malformed.
  """
  Session(config, workdir, asked).make(STAGE)


def check_train_rows(session: Session) -> None:
  """Raises UserError where there are no train rows to learn from."""
  data = session.config.data
  if data.format == "bigrec" and not data.train:
    raise errors.UserError(
      "config.data.train: empty, the path of a file expected: without train"
      " rows only given predictions (config.ground.predictions.valid and .test)"
      " of a given base (config.model.path) can be evaluated"
    )


def _differs(session: Session) -> list[str]:
  data, prompt = session.config.data, session.config.prompt
  found = prepare.differences(data, prompt, session.paths)
  if not found and _lacks_ratings(session):
    task = session.config.task.name
    return [f"ratings, which task {task} needs; nothing else is made again"]
  return found


def _files(session: Session) -> list[str]:
  """Returns patterns of the prepared data, exported files among them."""
  exported: object = None
  if session.config.data.export_json:
    manifest = storage.read_json_if_whole(session.paths.manifest)
    if isinstance(manifest, dict) and isinstance(manifest.get("export"), dict):
      exported = manifest["export"].get("files")
  return ["data/*", *(exported if isinstance(exported, list) else [])]


def _sound(session: Session) -> None:
  """Raises UserError where the catalogue isn't that of the manifest."""
  found, expected = session.catalogue.fingerprint, session.manifest.catalogue
  if found != expected:
    raise errors.UserError(
      f"{session.paths.catalogue}: {found} found, {expected} as in"
      f" {session.paths.manifest} expected"
    )


def _check(session: Session) -> None:
  registry.files(session.config.data)


def _build(session: Session, _: graph.Inputs) -> None:
  data, prompt = session.config.data, session.config.prompt

  def work() -> None:
    tokenizer = _tokenizer(session)
    for line in prepare.prepare(data, prompt, session.paths, tokenizer):
      say(f"prepare: {line}")
    _show_prompts(session)

  processes.on_first(work)
  if _lacks_ratings(session):
    raise errors.UserError(
      f"config.data.format: {data.format} found, whose files have no ratings;"
      f" task {session.task.name} needs them"
    )


def _show_prompts(session: Session) -> None:
  """Prints what the model will read of the first few train rows."""
  if session.config.data.format == "bigrec" and not session.config.data.train:
    return
  data = dataclasses.replace(session.config.data, num_train=_SHOWN)
  config = dataclasses.replace(session.config, data=data)
  try:
    samples = loaded_lib.Loaded(config, session.paths.root).task.samples(
      "train"
    )
    texts = [samples.text(n).training for n in range(min(_SHOWN, len(samples)))]
  except errors.UserError:
    return  # A chat template without its model, say; training names it.
  for number, text in enumerate(texts, 1):
    say(f"prepare: train prompt {number}, with its answer:")
    for line in text.splitlines():
      say(f"  | {errors.one_line(line)}")


def _tokenizer(session: Session) -> "tokenization.Tokenizer | None":
  """Returns the given model's tokenizer, where it is at hand."""
  from bigrec_jax.data.text import tokenization

  model = session.config.model
  if not (model.tokenizer or (model.path and not model.is_gguf)):
    return None
  directory = pathlib.Path(model.tokenizer or model.path)
  names = (tokenization.FAST_FILE, tokenization.SENTENCEPIECE_FILE)
  if not any((directory / name).is_file() for name in names):
    return None
  try:
    return tokenization.load_tokenizer(directory)
  except errors.UserError:
    return None  # The first mode that needs it says why.


def _lacks_ratings(session: Session) -> bool:
  """Returns whether the task needs ratings that the prepared data lack."""
  if not session.task.needs_ratings:
    return False
  manifest = storage.read_json_if_whole(session.paths.manifest) or {}
  return not manifest.get("ratings", False)


STAGE = graph.Stage(
  name="data",
  mode="prepare",
  where=lambda session: session.paths.data,
  differs=_differs,  # The manifest is its record.
  files=_files,
  sound=_sound,
  check=_check,
  build=_build,
)
