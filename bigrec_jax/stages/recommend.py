"""Items for anybody's history: ids or titles in, ids, titles and scores out."""

import functools
import itertools
import json
import pathlib
import weakref
from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np
from absl import logging

from bigrec_jax import config as config_lib, errors, progress as reports
from bigrec_jax.data.formats import raw_files
from bigrec_jax.data.prepared import (
  histories as histories_lib,
  history_files,
)
from bigrec_jax.recommend import (
  cf_scorer,
  choice,
  filters,
  recommender as recommender_lib,
)
from bigrec_jax.results import chosen as chosen_lib, confidence
from bigrec_jax.stages import (
  additions,
  answers,
  embed,
  generate,
  graph,
  injected,
  list_files,
  train,
  train_cf,
  whom,
)
from bigrec_jax.stages.session import Asked, Session, say
from bigrec_jax.workdir import fingerprints, given, locks, processes

# Users that are decoded, grounded and written at a time: what a kill loses.
_CHUNK = 1024
# Items that are listed at a time, where lists are long.
_MOST_LISTED = 1 << 20

T = TypeVar("T", bound=recommender_lib.Recommender)

# Histories are read anew for each pass, as there may be a million of them.
_SURVEYS: weakref.WeakKeyDictionary[Session, histories_lib.Survey] = (
  weakref.WeakKeyDictionary()
)


def run(
  config: config_lib.Config, workdir: pathlib.Path, asked: Asked | None = None
) -> None:
  """Writes `recommendations.jsonl`, a line for each history, in their order.

  It uses what the workdir has: adapter, embeddings and, where CF is injected,
  its model; --make makes what is missing. Nothing is evaluated: what is
  injected was chosen before (recommend/choice.py). A kill costs the lines of
  one chunk.

  Raises:
    UserError: no histories are given, or an item of theirs isn't known.
  """
  session = Session(config, workdir, asked)
  session.lists_editions = True
  session.make(STAGE, reads=True)
  if not session.asked.dry_run:
    finish(session)


def needed(session: Session) -> Iterator[graph.Stage]:
  """Yields adapter, embeddings and the CF models that lists are made with."""
  needs = [*train.needed(session), embed.STAGE]
  yield from needs
  yield from generate.needs_prior(session)
  yield from additions.needed(session)
  # What was chosen is of some adapter, base and catalogue.
  if all(session.walk.look(need).is_current for need in needs):
    for model in chosen_for(session).chosen.models_in_use:
      yield train_cf.stage(model)


def chosen_for(session: Session) -> choice.Choice:
  """Returns what lists are made with, and why."""
  return choice.choose(session, train.used(session).fingerprint)


def _check(session: Session) -> None:
  choice.check(session)
  given.check_file_to_write("config.recommend.output", _output(session))
  _id_files(session)
  if session not in _SURVEYS:  # The catalogue isn't there yet.
    _count(session)
  train.check_used(session)


def _survey(session: Session) -> histories_lib.Survey:
  """Returns how many histories there are, and their name."""
  if session not in _SURVEYS:
    config = session.config.recommend
    _SURVEYS[session] = histories_lib.survey(
      whom.rows(session), session.offered, config.unknown
    )
  return _SURVEYS[session]


def _count(session: Session) -> int:
  if session in _SURVEYS:
    return _SURVEYS[session].users
  return whom.count(session)


def _differs(session: Session) -> list[str]:
  choice.check(session)
  path = _output(session)
  made_from = _inputs(session)
  record = list_files.record_of(session, path)
  return list_files.differences(record, made_from, path)


def _build(session: Session, made_from: graph.Inputs) -> None:
  path = _output(session)
  _warn_of_other_prompts(session)
  record = list_files.record_of(session, path)
  with locks.output(path, "recommend"):
    processes.on_first(lambda: list_files.set_aside(path, record))
    kept = list_files.beside(path, made_from)
    if processes.agree(kept.exists):
      say(f"recommend: {kept.name} is {path} again")
    else:
      own = recommender(session, recommender_lib.Recommender)
      _Writer(session, own).write(kept)
    processes.on_first(
      lambda: list_files.give_name(kept, path, record, made_from)
    )


def recommender(session: Session, kind: type[T], spare: int = 0) -> T:
  """Returns what makes the lists, of `needed` stages that are current.

  Args:
    session: of the workdir.
    kind: `Recommender`, or a subclass.
    spare: see `Recommender`.
  """
  chosen = chosen_for(session).chosen
  models = list(chosen.models_in_use)
  if session.config.generate.has_prior:
    models.append(session.config.generate.prior)
  for model in dict.fromkeys(models):
    if session.asked.make and not cf_scorer.has_weights(session, model):
      session.walk.make_again(train_cf.stage(model), "a missing checkpoint")
  return kind(
    session,
    train.used(session).directory,
    session.load(embed.STAGE),
    chosen,
    spare,
  )


def _cost(session: Session) -> graph.Cost:
  return graph.Cost(_count(session), "users", "recommend")


def finish(session: Session) -> None:
  """Says where the lists are; prints a list that was asked for by hand."""
  path = _output(session)
  if note := chosen_for(session).note:
    say(f"recommend: {note}")
  if session.config.recommend.history:
    answers.show(path)
  say(f"recommend: users: {_count(session)}, lists: {path}")


def _id_files(session: Session) -> dict[str, pathlib.Path]:
  """Returns the files of ids that are named: allow, deny."""
  config = session.config.recommend
  named = {"allow": config.allow, "deny": config.deny}
  return {
    key: raw_files.given(f"recommend.{key}", name)
    for key, name in named.items()
    if name
  }


def _shown(session: Session) -> filters.Filter:
  """Returns what may be listed: of the files of ids, if any are named.

  Raises:
    UserError: nothing is left.
  """
  ids = {
    key: history_files.read_ids(path, "item").ids
    for key, path in _id_files(session).items()
  }
  return filters.of_ids(session.offered, ids.get("allow"), ids.get("deny"))


def _output(session: Session) -> pathlib.Path:
  """Returns the file to write, after a look at what is there."""
  output = session.config.recommend.output
  path = pathlib.Path(output or session.paths.recommendations)
  if output:
    list_files.check_output(session, path)
  return path


def _warn_of_other_prompts(session: Session) -> None:
  """Says so where the data's prompts are not those that new histories get."""
  examples = session.examples("valid")
  if 2 * len(examples.overrides) <= len(examples):
    return
  instruction, text = next(iter(examples.overrides.values()))
  logging.warning(
    "recommend: %d of %d valid rows have texts that config.prompt.instruction"
    " and config.prompt.history don't make, such as %r %r; new histories get"
    " theirs, which the adapter may not know",
    len(examples.overrides),
    len(examples),
    instruction,
    text[:80],
  )


def _inputs(session: Session) -> graph.Inputs:
  config = session.config.recommend
  return {
    **depends_on(session),
    "histories": _survey(session).fingerprint,
    "one_off": bool(config.history),
    "k": config.k,
    "shown": _named(_shown(session)),
    "explain": config.explain,
    "exclude_history": config.exclude_history,
    "unknown": config.unknown,
  }


def depends_on(session: Session) -> graph.Inputs:
  """Returns what a list depends on, beside its history and its length."""
  chosen = chosen_for(session).chosen
  return {
    **generate.depends_on(session, train.used(session)),
    **session.encoder_inputs,
    "catalogue": session.edition.fingerprint,
    "chosen": {
      "injection": chosen.injection,
      "gamma": chosen.report,
      "cf_model": ",".join(chosen.models_in_use),
      **_system(chosen),
    },
    "confidence": fingerprints.of_value(
      {name: chosen.confidence.get(name) for name in _judged_by(chosen)}
    ),
    "fallback": session.config.recommend.fallback,
    "cf": _cf_inputs(session, chosen.models_in_use),
    "popularity": fingerprints.of_value(injected.popularity(session).tolist()),
    "max_history": session.config.data.max_history,
  }


def _cf_inputs(session: Session, models: Sequence[str]) -> graph.Inputs | None:
  """Returns what CF models are made from; several by their names."""
  found = {model: train_cf.inputs(session, model) for model in models}
  return next(iter(found.values()), None) if len(found) < 2 else found


def _named(shown: filters.Filter) -> str:
  """Returns the name of what may be listed."""
  if shown.allowed is None:
    return ""
  return fingerprints.of_value(np.flatnonzero(shown.allowed).tolist())


def _judged_by(chosen: chosen_lib.Chosen) -> list[str]:
  """Returns the names of the confidences that lists read."""
  return [chosen.ranks, *confidence.ALONE.values()]


def _system(chosen: chosen_lib.Chosen) -> graph.Inputs:
  """Returns what lists depend on where no injection orders them."""
  if not chosen.system:
    return {}
  fitted = fingerprints.of_value(chosen.fitted)
  return {"system": chosen.system, "fitted": fitted}


class _Writer:
  """Writes the lines, a chunk of users at a time."""

  def __init__(
    self, session: Session, recommender: recommender_lib.Recommender
  ):
    self._session, self._recommender = session, recommender
    listed = min(session.config.recommend.k, len(session.offered))
    self._size = max(1, min(_CHUNK, _MOST_LISTED // listed))
    self._shown = _shown(session)
    self._tally = answers.Tally()

  def write(self, path: pathlib.Path) -> None:
    """Writes the file; goes on where it was cut short.

    Args:
      path: named after all that the lists are made from, so that what lies
        beside it under the name `.parts` is of the very same.
    """
    parts = list_files.parts_of(path)
    survey, names = _survey(self._session), fingerprints.OfList()
    total = survey.users
    done = list_files.count(parts)
    answers.tell_unknown(self._shown)
    with self._session.stage("recommend", total, "users") as progress:
      progress.skip(done)
      for start, rows in self._chunks():
        for row in rows:
          names.add(row.content)
        if start < done:
          continue
        lines = list(self._lines(start, rows, progress))
        processes.on_first(functools.partial(list_files.append, parts, lines))
    self._tally.tell(progress.seconds)
    if names.name() != survey.fingerprint:
      file = self._session.config.recommend.histories
      raise errors.UserError(
        f"config.recommend.histories: {file} was changed while it was read; the"
        " same command again expected"
      )
    processes.on_first(lambda: list_files.finish(parts, path, total))

  def _chunks(self) -> Iterator[tuple[int, list[histories_lib.Row]]]:
    """Yields the number of the first of a few users, and them."""
    rows, start = iter(whom.rows(self._session)), 0
    while some := list(itertools.islice(rows, self._size)):
      yield start, some
      start += len(some)

  def _lines(
    self,
    start: int,
    rows: list[histories_lib.Row],
    progress: reports.Reports,
  ) -> Iterator[str]:
    """Yields the lines of a chunk of users, the first of whom is `start`."""
    config = self._session.config
    unknown = config.recommend.unknown
    try:
      found = self._recommender.recommend(
        histories_lib.find(rows, self._session.offered, unknown),
        config.recommend.k,
        exclude_history=config.recommend.exclude_history,
        shown=self._shown,
        explain=config.recommend.explain,
        seed=config.seed + start,
        progress=progress,
      )
    except errors.NonFiniteError as error:
      number = start + error.row
      raise error.of(number, f"history {number}") from None
    self._tally.add(found)
    for row, own in zip(rows, found, strict=True):
      line = json.dumps(
        row.content | answers.answer(own), ensure_ascii=False, allow_nan=False
      )
      yield raw_files.repaired(line) + "\n"


STAGE = graph.Stage(
  name="recommend",
  mode="recommend",
  where=_output,
  needs=needed,
  inputs=_inputs,
  differs=_differs,  # The record of a file of lists names its content, too.
  build=_build,
  check=_check,
  quiet=True,
  batches=("generate.batch_size",),
  cost=_cost,
)
