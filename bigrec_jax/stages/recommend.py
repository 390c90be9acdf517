"""Items for anybody's history: ids or titles in, ids, titles and scores out."""

import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import logging

from bigrec_jax import config as config_lib, errors, progress as reports
from bigrec_jax.data.formats import raw_files
from bigrec_jax.data.prepared import histories as histories_lib
from bigrec_jax.data.text import prompts
from bigrec_jax.results import chosen as chosen_lib, table
from bigrec_jax.stages import (
  cf_scorer,
  embed,
  gamma as gamma_lib,
  generate,
  ground_eval,
  list_files,
  prepare,
  session,
  train,
  train_cf,
)
from bigrec_jax.workdir import fingerprints, processes

if TYPE_CHECKING:
  from bigrec_jax.rankers import grounder as recommend

# Users that are decoded, grounded and written at a time: what a kill loses.
_CHUNK = 1024
_DIGITS = 6  # Of scores and distances in the file.


def run(config: config_lib.Config, workdir: pathlib.Path) -> None:
  """Writes `recommendations.jsonl`, a line for each history, in their order.

  Whatever is missing or stale is made first: data, base, adapter, embeddings
  and, where something is injected, the gamma that ground_eval chooses. A kill
  costs the lines of one chunk.

  Raises:
    UserError: no histories are given, or an item of theirs isn't known.
  """
  ensure(session.Session(config, workdir))


def ensure(run: session.Session) -> None:
  """Recommends, unless the file on disk is of these very inputs."""
  gamma_lib.check(run.config)
  path = _output(run)
  rows = _rows(run.config.recommend)
  prepare.ensure(run)
  histories = histories_lib.find(
    rows, run.catalogue, run.config.recommend.unknown
  )
  _warn_of_other_prompts(run)
  adapter = train.find_adapter(run) or train.ensure(run)
  items = embed.ensure(run)
  chosen = gamma_lib.choose(run)
  made_from = _made_from(run, histories, adapter, chosen)
  record = list_files.record_of(run, path)
  if processes.agree(lambda: list_files.is_current(record, made_from, path)):
    session.say(f"recommend: {path} is current")
  else:
    processes.on_first(lambda: list_files.set_aside(path, record))
    kept = list_files.beside(path, made_from)
    if processes.agree(kept.exists):
      session.say(f"recommend: {kept.name} is {path} again")
    else:
      _Writer(run, histories, adapter, items, chosen).write(kept)
    processes.on_first(
      lambda: list_files.give_name(kept, path, record, made_from)
    )
  if run.config.recommend.history:
    _show(path)
  session.say(f"recommend: users: {len(histories)}, lists: {path}")


def _rows(config: config_lib.RecommendConfig) -> list[histories_lib.Row]:
  """Returns the histories as given: of the file, or of the command line."""
  if config.histories and config.history:
    raise errors.UserError(
      f"--history and config.recommend.histories={config.histories}: one of"
      " them expected"
    )
  if config.history:
    return histories_lib.from_flags(config.history)
  if not config.histories:
    raise errors.UserError(
      "--mode=recommend: no histories found; --history=<id or title>, once for"
      " each item, oldest first, or --config.recommend.histories=<JSONL file>"
      " expected"
    )
  return histories_lib.read(
    raw_files.given("recommend.histories", config.histories)
  )


def _output(run: session.Session) -> pathlib.Path:
  """Returns the file to write, after a look at what is there."""
  config = run.config.recommend
  path = pathlib.Path(config.output or run.paths.recommendations)
  if path.is_dir():
    raise errors.UserError(
      f"config.recommend.output: {path}: a folder found, a file expected"
    )
  if config.histories and path.resolve() == (
    pathlib.Path(config.histories).resolve()
  ):
    raise errors.UserError(
      f"config.recommend.output: {path} is config.recommend.histories too,"
      " another file expected"
    )
  return path


def _warn_of_other_prompts(run: session.Session) -> None:
  """Says so where the data's prompts are not those that new histories get."""
  examples = run.examples("valid")
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


def _made_from(
  run: session.Session,
  histories: histories_lib.Histories,
  adapter: train.Adapter,
  chosen: chosen_lib.Chosen,
) -> dict[str, Any]:
  config = run.config.recommend
  return {
    **generate.depends_on(run, adapter),
    "histories": fingerprints.of_value([row.content for row in histories.rows]),
    "one_off": bool(config.history),
    "catalogue": run.catalogue.fingerprint,
    "chosen": {
      "injection": chosen.injection,
      "gamma": chosen.report,
      "cf_model": chosen.cf_model,
    },
    "cf": train_cf.inputs(run, chosen.cf_model) if chosen.cf_model else None,
    "popularity": fingerprints.of_value(
      ground_eval.injected_popularity(run).tolist()
    ),
    "max_history": run.config.data.max_history,
    "k": config.k,
    "exclude_history": config.exclude_history,
    "unknown": config.unknown,
  }


class _Writer:
  """Makes the lines, a chunk of users at a time."""

  def __init__(
    self,
    run: session.Session,
    histories: histories_lib.Histories,
    adapter: train.Adapter,
    items: np.ndarray,
    chosen: chosen_lib.Chosen,
  ):
    from bigrec_jax.rankers import grounder as recommend

    self._run, self._histories, self._items = run, histories, items
    self._popularity = ground_eval.injected_popularity(run)
    self._decoder = generate.Decoder(run, adapter)
    self._probes = _prompt_tokens(run, [["0"], ["A"]])
    self._scorer = None
    if "cf" in chosen.parts:
      self._scorer = cf_scorer.load(run, chosen.cf_model)
    self._ground = recommend.Grounder(
      items,
      run.catalogue.groups,
      self._popularity if "popularity" in chosen.parts else None,
      chosen.gamma,
      run.config.ground,
      run.mesh,
      k=run.config.recommend.k,
      most_users=min(_CHUNK, len(histories)),
    )
    self._provenance = {
      "injection": chosen.injection,
      "gamma": chosen.report,
      "cf_model": chosen.cf_model or None,
      "base": run.base_fingerprint,
      "adapter": adapter.fingerprint,
      "catalogue": run.catalogue.fingerprint,
    }

  def write(self, path: pathlib.Path) -> None:
    """Writes the file; goes on where it was cut short.

    Args:
      path: named after all that the lists are made from, so that what lies
        beside it under the name `.partial` is of the very same.
    """
    partial = path.with_name(f"{path.stem}.partial{path.suffix}")
    total = len(self._histories)
    done = processes.ask(lambda: list_files.whole_chunks(partial, _CHUNK))
    with self._run.stage("recommend", total, "users") as progress:
      if done:
        progress.update(done)
      for start in range(done, total, _CHUNK):
        part = slice(start, min(start + _CHUNK, total))
        lines = "".join(self._lines(part, progress))
        processes.on_first(
          lambda lines=lines: list_files.append(partial, lines)
        )
    processes.on_first(lambda: list_files.finish(partial, path, total))

  def _lines(self, part: slice, progress: reports.Reports) -> Iterator[str]:
    """Yields the lines of a chunk of users."""
    from bigrec_jax.decoding import generate as decoding

    run, histories = self._run, self._histories
    tokens = _prompt_tokens(run, histories.titles[part])
    # The header alone is read apart: what a single user's prompt has in common
    # with itself would be a program of its own.
    prefix = decoding.shared_beginning([*self._probes, *tokens])
    answers = self._decoder(
      tokens, run.config.seed + part.start, progress, prefix
    )
    texts = [prompts.extract_title(a["predict"][0]) for a in answers]
    queries = embed.embed_queries(run, texts, self._items, "")
    items = histories.padded(part)
    hidden = items if run.config.recommend.exclude_history else items[:, :0]
    found = self._ground(queries, hidden, self._reader(items))
    for n, answer in enumerate(answers):
      row = {
        **histories.rows[part.start + n].content,
        **answer,
        "recommendations": self._listed(found, n),
        "provenance": self._provenance
        | {"unknown": histories.unknown[part.start + n]},
      }
      line = json.dumps(row, ensure_ascii=False, allow_nan=False)
      yield raw_files.repaired(line) + "\n"

  def _reader(self, items: np.ndarray) -> "recommend.ReadScores | None":
    """Returns what reads the CF scores of a chunk's histories [n, H]."""
    if self._scorer is None:
      return None
    return lambda part: self._scorer(items[part])

  def _listed(
    self, found: "recommend.Recommended", n: int
  ) -> list[dict[str, Any]]:
    """Returns the items of user n, best first."""
    catalogue = self._run.catalogue
    listed = []
    for place, item in enumerate(found.items[n].tolist()):
      if item < 0:
        break
      entry = {
        "external_id": catalogue.external_ids[item],
        "title": catalogue.titles[item],
        "score": round(float(found.scores[n, place]), _DIGITS),
        "distance": round(float(found.distances[n, place]), _DIGITS),
        "popularity": self._popularity[item].item(),
      }
      if found.cf_ranks is not None:
        entry["cf_rank"] = int(found.cf_ranks[n, place])
      listed.append(entry)
    return listed


def _prompt_tokens(
  run: session.Session, titles: Sequence[Sequence[str]]
) -> list[list[int]]:
  """Returns the prompts of histories; only the newest titles are named."""
  newest = run.config.data.max_history
  texts = [
    run.prompt.inference_text(
      run.prompt.instruction, run.prompt.input_text(own[-newest:])
    )
    for own in titles
  ]
  return run.tokenizer.encode_batch(texts)


def _show(path: pathlib.Path) -> None:
  """Prints the first history's list."""
  with open(path, encoding="utf-8") as file:
    row = json.loads(file.readline())
  session.say(f"written: {row['predict'][0].strip()}")
  headers = ["title", "id", "score", "distance", "popularity"]
  keys = ["title", "external_id", "score", "distance", "popularity"]
  if row["provenance"]["cf_model"]:
    headers, keys = [*headers, "CF rank"], [*keys, "cf_rank"]
  session.say(
    table.format_table(
      headers, [[e[key] for key in keys] for e in row["recommendations"]]
    )
  )
