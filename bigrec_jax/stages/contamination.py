"""Asks the base, without adapter and history, to complete titles.

What it shows and what it doesn't: docs/results.md, Contamination.
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from bigrec_jax import config as config_lib, errors, progress
from bigrec_jax.data.text import prompts
from bigrec_jax.results import comparisons, contamination, significance, table
from bigrec_jax.stages import graph, pretrain
from bigrec_jax.stages.session import Asked, Session, say
from bigrec_jax.workdir import parts as parts_lib, processes

_KEY = "config.report.contamination"
_LEAST_TOKENS = 4  # Of a title, so that both halves are two at least.
_SHOWN = 20  # Recited titles that the file keeps.


def run(
  config: config_lib.Config, workdir: pathlib.Path, asked: Asked | None = None
) -> None:
  """Writes metrics/contamination.json; prints what it says."""
  session = Session(config, workdir, asked)
  session.make(STAGE)
  if not session.asked.dry_run:
    finish(session)


def is_asked_for(session: Session) -> bool:
  """Returns whether the configuration wants the probe."""
  return session.config.report.contamination > 0


def _check(session: Session) -> None:
  wanted = session.config.report.contamination
  if wanted < 2:  # A pair.
    raise errors.UserError(
      f"{_KEY}: {wanted} found, how many titles to complete expected, at least"
      " 2"
    )


def _inputs(session: Session) -> graph.Inputs:
  config = session.config
  return {
    "base": session.base_fingerprint,
    "catalogue": session.catalogue.fingerprint,
    "titles": config.report.contamination,
    "bootstrap_samples": config.ground.bootstrap_samples,
    "permutations": config.ground.permutations,
    "seed": config.seed,
  }


class _Cut(NamedTuple):
  """Titles in two halves of tokens, pairs side by side."""

  titles: list[str]
  first: list[list[int]]
  second: list[list[int]]
  eligible: int


def _cut(session: Session) -> _Cut:
  """Returns the sample of titles, each once, cut in the middle."""
  cleaned = (prompts.clean_title(t) for t in session.catalogue.titles)
  titles = list(dict.fromkeys(cleaned))
  tokenizer = session.tokenizer
  tokens = tokenizer.encode_data(titles)
  begun = int(tokenizer.add_bos and tokenizer.bos_id is not None)
  long = [
    n for n, ids in enumerate(tokens) if len(ids) - begun >= _LEAST_TOKENS
  ]
  # The first half has the middle token of an odd number.
  cuts = {n: begun + (len(tokens[n]) - begun + 1) // 2 for n in long}
  lengths = np.array([len(tokens[n]) - cuts[n] for n in long], np.int64)
  config = session.config
  places = contamination.pairs(
    lengths, config.report.contamination, config.seed
  )
  if not len(places):
    raise errors.UserError(
      f"{_KEY}: {config.report.contamination} titles wanted and {len(long)} of"
      f" {len(titles)} found with {_LEAST_TOKENS} tokens or more, 2 at least"
      " expected"
    )
  chosen = [long[place] for place in places.tolist()]
  return _Cut(
    [titles[n] for n in chosen],
    [tokens[n][: cuts[n]] for n in chosen],
    [tokens[n][cuts[n] :] for n in chosen],
    len(long),
  )


def _build(session: Session, inputs: graph.Inputs) -> contamination.Probe:
  cut = _cut(session)
  try:
    with session.parts(STAGE.name, inputs) as parts:
      written = _written(session, cut, parts)
      own, exchanged = _scores(session, cut, parts)
  except errors.NonFiniteError as error:
    name = f"title {cut.titles[error.row % len(cut.titles)]!r}"
    raise error.of(error.row, f"{name} (base {session.base_dir})") from None
  ground = session.config.ground
  effort = significance.Effort(
    ground.bootstrap_samples, ground.permutations, session.config.seed
  )
  others = contamination.other_of_pair(len(cut.titles)).tolist()
  swapped = [cut.second[n] for n in others]
  share = contamination.agreement(written, cut.second)
  control = contamination.agreement(written, swapped)
  is_exact = (share == 1.0).astype(np.float64)

  def measure(a: np.ndarray, b: np.ndarray) -> contamination.Measure:
    return contamination.Measure.of(a, b, effort)

  found = contamination.Probe(
    num_titles=len(cut.titles),
    eligible=cut.eligible,
    exact=measure(is_exact, (control == 1.0).astype(np.float64)),
    agreement=measure(share, control),
    log_probability=measure(own, exchanged),
    recited=[cut.titles[n] for n in np.flatnonzero(is_exact)[:_SHOWN]],
    fingerprints={key: inputs[key] for key in ("base", "catalogue")},
  )
  processes.on_first(lambda: found.write(session.paths.contamination))
  return found


def _written(
  session: Session, cut: _Cut, parts: parts_lib.Parts
) -> list[list[int]]:
  """Returns what greedy decoding writes behind each first half."""
  # Not at the top: a result that is current needs no JAX.
  from bigrec_jax.decoding import generate

  most = max(map(len, cut.second))
  config = dataclasses.replace(
    session.config.generate,
    num_beams=1,
    sample=False,
    constrained=False,
    lookahead=0,
    prior="",
    max_new_tokens=most,
    length_norm_includes_prompt=False,
  )

  def write() -> parts_lib.Arrays:
    base, count = session.base, len(cut.titles)
    with session.stage("contamination", count, "titles") as bar:
      found = generate.generate(
        base.model,
        base.params,
        None,
        cut.first,
        config,
        session.tokenizer.eos_ids,
        session.mesh,
        seed=session.config.seed,
        norm_lengths=None,
        trie=None,
        progress=bar,
      )
    block = np.full((count, most), -1, np.int32)
    for row, hypotheses in enumerate(found.tokens):
      block[row, : len(hypotheses[0])] = hypotheses[0]
    return {"written": block}

  return parts.once("written", write)["written"].tolist()


def _scores(
  session: Session, cut: _Cut, parts: parts_lib.Parts
) -> tuple[np.ndarray, np.ndarray]:
  """Returns log-probabilities a token: behind its own first half, the other's.

  Both [N] are of the same second halves, so how probable a half is in itself
  cancels in their difference.
  """
  from bigrec_jax.decoding import likelihood

  base, count = session.base, len(cut.titles)
  others = contamination.other_of_pair(count)
  candidates = np.stack([np.arange(count), others], axis=1).astype(np.int32)
  found = likelihood.score(
    base.model,
    base.params,
    None,
    cut.first,
    cut.second,
    candidates,
    session.mesh,
    batch_size=session.config.generate.batch_size,
    buckets=session.config.generate.prompt_buckets,
    progress=progress.NullProgress(),
    kept=parts_lib.Vectors(parts, "scores", *candidates.shape),
  ).astype(np.float64)  # [N, 2], behind each first half.
  lengths = np.array([len(half) for half in cut.second], np.float64)
  return found[:, 0] / lengths, found[others, 1] / lengths


def finish(session: Session) -> None:
  """Prints what the current probe found."""
  say(_table(session.load(STAGE)))


def _table(found: contamination.Probe) -> str:
  lines: list[Sequence[object]] = []
  for name, measure in (
    ("second halves written exactly", found.exact),
    ("their tokens in place", found.agreement),
    ("nats a token", found.log_probability),
  ):
    low, high = measure.ci95
    lines.append(
      [
        name,
        measure.own,
        measure.exchanged,
        f"{measure.difference:+.4f}",
        f"{low:+.4f} {high:+.4f}",
        comparisons.in_words(measure.p),
      ]
    )
  headers = [f"base, {found.num_titles} titles", "own half", "exchanged"]
  return table.format_table([*headers, "difference", "95 %", "p"], lines)


def _needed(session: Session) -> Iterator[graph.Stage]:
  yield from pretrain.needed(session)


STAGE = graph.Stage(
  name="contamination",
  mode="contamination",
  where=lambda session: session.paths.contamination,
  needs=_needed,
  inputs=_inputs,
  is_there=lambda session: session.paths.contamination.exists(),
  files=lambda session: ("metrics/contamination.json",),
  build=_build,
  load=lambda session: contamination.read(session.paths.contamination),
  check=_check,
  batches=("generate.batch_size",),
  cost=lambda session: graph.Cost(
    session.config.report.contamination, "titles", "contamination", at_most=True
  ),
)
