"""Titles for every user of a split: beam search, or sampling."""

import functools
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from bigrec_jax import config as config_lib, errors
from bigrec_jax.cf import scores as cf_scores
from bigrec_jax.data.text import pipeline, source
from bigrec_jax.recommend import decoder
from bigrec_jax.stages import graph, rows_of, train, train_cf
from bigrec_jax.stages.session import Asked, Session, say
from bigrec_jax.workdir import (
  contents,
  digests,
  fingerprints,
  parts as parts_lib,
  processes,
  records,
  storage,
)

if TYPE_CHECKING:
  from bigrec_jax.models import soft_tokens

# Keys that change how decoding runs but not what comes out.
_RUNTIME_KEYS = ("split", "prompt_buckets", "lookahead")
_PRIOR_KEYS = ("prior", "prior_weight")


def run(
  config: config_lib.Config, workdir: pathlib.Path, asked: Asked | None = None
) -> None:
  """Writes `predictions/{valid,test}.json` for `generate.split`."""
  session = Session(config, workdir, asked)
  session.make(*(stage(split) for split in config.generate.splits))


@functools.cache
def stage(split: str) -> graph.Stage:
  """Returns the stage of a split's predictions.

  Its value: rows of BIGRec with `predict` (best first) and `scores`.

  Args:
    split: valid or test.
  """

  def cost(session: Session) -> graph.Cost | None:
    count = session.num_samples(split)
    label = f"generate {split}"
    return None if count is None else graph.Cost(count, "users", label)

  return graph.Stage(
    name=f"predictions_{split}",
    mode="generate",
    where=lambda session: session.paths.predictions(split),
    needs=_needed,
    inputs=lambda session: (
      depends_on(session, train.used(session))
      | {"examples": session.task.samples(split).fingerprints[0]}
    ),
    is_there=lambda session: session.paths.predictions(split).exists(),
    files=lambda session: (f"predictions/{split}.json",),
    sound=lambda session: _sound(session, split),
    load=lambda session: storage.read_json(session.paths.predictions(split)),
    set_aside=lambda session, inputs: _set_aside(session, split, inputs),
    build=lambda session, inputs: _build(session, split, inputs),
    check=train.check_used,
    batches=("generate.batch_size",),
    cost=cost,
  )


def _needed(session: Session) -> Iterator[graph.Stage]:
  if not session.task.decodes:
    raise errors.UserError(
      f"config.task.name: {session.task.name} found, whose answers are not"
      " decoded; a task that writes them expected"
    )
  yield from train.needed(session)
  yield from needs_prior(session)


def needs_prior(session: Session) -> Iterator[graph.Stage]:
  """Yields the CF model that has a say in what is written, if one has."""
  if session.config.generate.has_prior:
    yield train_cf.stage(session.config.generate.prior)


def depends_on(session: Session, adapter: train.Adapter) -> dict[str, Any]:
  """Returns what a prompt's text is made from, but for the prompt itself."""
  options = session.config.to_dict()
  wanted = {
    k: v for k, v in options["generate"].items() if k not in _RUNTIME_KEYS
  }
  if not session.config.generate.length_norm_includes_prompt:
    del wanted["batch_size"]  # Padding is invisible to the result.
  prior = {}
  if session.config.generate.has_prior:
    model = session.config.generate.prior
    prior = {"prior": train_cf.inputs(session, model)}
  else:  # The inputs are those of before there were priors.
    wanted = {k: v for k, v in wanted.items() if k not in _PRIOR_KEYS}
  vectors = {}
  if model := session.task.cf_model:
    vectors = {"item_vectors": train_cf.inputs(session, model)}
  titles = {}
  if session.config.generate.constrained:
    # All of them have a say, not only those that the prompts name.
    titles = {"catalogue": session.catalogue.fingerprint}
  return {
    "base": session.base_fingerprint,
    "adapter": adapter.fingerprint,
    "generate": wanted,
    "prompt": options["prompt"],
    "seed": session.config.seed if session.config.generate.sample else None,
    **prior,
    **titles,
    **vectors,
  }


def _prior_scores(session: Session, split: str) -> decoder.Scores | None:
  """Returns what reads the CF scores of a split's rows; None = no prior."""
  if not session.config.generate.has_prior:
    return None
  path = session.paths.cf_scores(session.config.generate.prior, split)
  found = cf_scores.load_scores(
    path, session.examples(split), session.catalogue
  )
  return lambda rows: found[rows]


def _sound(session: Session, split: str) -> None:
  """Raises UserError where the rows aren't those of the split, in order."""
  path, samples = session.paths.predictions(split), session.task.samples(split)
  rows_of.check(path, storage.read_json(path), samples, split)


def _kept(
  session: Session, split: str, made_from: graph.Inputs
) -> pathlib.Path:
  """Returns where predictions are while another adapter's have their name."""
  path = session.paths.predictions(split)
  name = fingerprints.of_value(made_from)
  return path.parent / "of_other_adapters" / f"{split}.{name}.json"


def _digest_of(kept: pathlib.Path) -> pathlib.Path:
  """Returns the file that says what predictions held when they were kept."""
  return kept.with_suffix(".digest.json")


def _is_whole(kept: pathlib.Path) -> bool:
  """Returns whether predictions of former days are there, as they were."""
  known = storage.read_json_if_whole(_digest_of(kept))
  if not kept.is_file():
    return False
  return known is None or known == digests.of_file(kept)


def _set_aside(session: Session, split: str, inputs: graph.Inputs) -> None:
  """Keeps the predictions of another adapter: they took hours, too."""
  path = session.paths.predictions(split)
  record = session.paths.record(stage(split).name)

  def work() -> None:
    old, content = records.read(record), contents.read(record)
    if old is None or not path.exists():
      return
    if old.get("adapter") == inputs["adapter"]:
      return
    if contents.altered(session.paths, [record.stem]):
      return  # Nobody's any more.
    kept = _kept(session, split, old)
    kept.parent.mkdir(exist_ok=True)
    if content is not None:
      (stamp,) = content.files.values()
      storage.write_json(_digest_of(kept), stamp.digest)
    record.unlink()
    path.replace(kept)
    say(f"generate: the predictions of another adapter are kept as {kept}")

  processes.on_first(work)


def _questions(
  session: Session, samples: source.TextSource
) -> "tuple[list[list[int]], soft_tokens.Prompts | None]":
  """Returns the tokens of a split's prompts, and their soft ones if any."""
  vectors = session.task.item_vectors()
  if vectors is None:
    return pipeline.question_tokens(samples, session.tokenizer), None
  from bigrec_jax.models import soft_tokens

  asked = pipeline.soft_questions(samples, session.tokenizer)
  places, items = [one.places for one in asked], [one.items for one in asked]
  tokens = [one.tokens.tolist() for one in asked]
  return tokens, soft_tokens.Prompts(places, items, vectors)


def _build(
  session: Session, split: str, inputs: graph.Inputs
) -> list[dict[str, Any]] | None:
  """Writes BIGRec rows with `predict` (best first) and `scores`.

  A kill costs what was finished in the last seconds (workdir/parts.py), and
  the users that were being decoded.
  """
  path, former = session.paths.predictions(split), _kept(session, split, inputs)
  if processes.agree(lambda: _is_whole(former)):
    processes.on_first(lambda: former.replace(path))
    say(f"generate: {former} is {path} again")
    return None
  samples = session.task.samples(split)
  tokens, soft = _questions(session, samples)
  write = decoder.Decoder(session, train.used(session).directory)
  with (
    session.parts(stage(split).name, inputs) as parts,
    session.stage(f"generate {split}", len(tokens), "users") as progress,
  ):
    asked = [tokens, [own.tolist() for own in soft.items]] if soft else tokens
    kept = parts_lib.Rows(parts, fingerprints.of_value(asked))
    progress.skip(len(kept.known))
    try:
      written = write(
        tokens,
        session.config.seed,
        progress,
        kept=kept,
        cf=_prior_scores(session, split),
        soft=soft,
      )
    except errors.NonFiniteError as error:
      of = f"adapter {train.used(session).directory}, base {session.base_dir}"
      name = f"{samples.name(error.row)} ({of})"
      raise error.of(error.row, name) from None
    processes.on_first(parts.flush)  # Before anything that may fail.
  rows = [samples.content(n) | own for n, own in enumerate(written)]
  processes.on_first(lambda: storage.write_json(path, rows, indent=1))
  return rows
