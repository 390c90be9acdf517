"""FaiRLLM: does who asks change what is listed?

Zhang et al., RecSys 2023 (arXiv 2305.07609; jizhi-zhang/FaiRLLM, a154dd6). A
model is asked for titles on behalf of a fan of somebody, once neutrally and
once as every value of a sensitive attribute (prompts.py); it answers greedily,
titles are read out of its answers (lists.py), and each list is compared with
the neutral one (similarity.py). SNSR and SNSV say how unequal the values of an
attribute are. Nothing is learnt: samples and loss are BIGRec's, for the case
that a tuned model is asked as well.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from bigrec_jax import errors
from bigrec_jax.data.text import dialogue, encoding, prompts as text_prompts
from bigrec_jax.results import rows
from bigrec_jax.tasks import next_title, protocol, written
from bigrec_jax.tasks.fairness import lists, prompts, similarity
from bigrec_jax.workdir import fingerprints, parts, processes, storage

# Nobody's target is looked for: there is no split but the names.
SPLIT = "test"
ANSWERS = "predictions/fairness.json"
_NAMED = {"base": "untuned base", "tuned": "tuned"}

# The titles of each name's answer, by who asked.
Answers = Mapping[str, Sequence[Sequence[str]]]


class Task(next_title.Task):
  """FaiRLLM."""

  name = "fairness"
  computes = True
  decodes = grounds = recommends = False

  def __init__(self, store: protocol.Store):
    """Checks the options.

    Raises:
      UserError: what is asked for can't be read off free text.
    """
    super().__init__(store)
    if store.config.generate.constrained:
      raise errors.UserError(
        "config.generate.constrained: True found, False expected: answers are"
        " free text"
      )

  @property
  def trains(self) -> bool:
    """Whether a tuned model is asked."""
    return "tuned" in self.store.config.task.fairness.models

  @functools.cached_property
  def _asked(self) -> prompts.Asked:
    config, catalogue = self.store.config, self.store.catalogue
    return prompts.load(config.task.fairness, catalogue)

  @property
  def asks(self) -> str | None:
    """The base, where it is asked untuned."""
    return "" if "base" in self.store.config.task.fairness.models else None

  @property
  def files(self) -> tuple[str, ...]:
    """All answers, as they were written and as titles."""
    return (ANSWERS,)

  def check(self) -> None:
    """Raises UserError where a file of values or names can't be read."""
    prompts.check(self.store.config.task.fairness)

  def evaluated_from(self) -> dict[str, Any]:
    """Returns what the rows depend on beside texts, base and adapter."""
    config, asked = self.store.config, self._asked
    decoding = {"max_new_tokens": config.generate.max_new_tokens}
    if config.task.fairness.lists == "beams":
      own = "length_penalty early_stopping sample temperature top_k top_p"
      decoding |= {name: getattr(config.generate, name) for name in own.split()}
    return {
      "models": config.task.fairness.models,
      "asked": fingerprints.of_value(dataclasses.asdict(asked)),
      "lists": config.task.fairness.lists,
      "begin": config.task.fairness.begin,
      "generate": decoding,
      "prompt": dataclasses.asdict(config.prompt),
      "bootstrap_samples": config.ground.bootstrap_samples,
      "seed": config.seed,
    }

  def evaluate(self, evidence: protocol.Evidence) -> list[rows.TaskRow]:
    """Returns rows of each model: neutral, each value, each attribute."""
    found: list[rows.TaskRow] = []
    lines: list[dict[str, Any]] = []
    for model in self.store.config.task.fairness.models:
      if model == "tuned":
        tuned = evidence.tuned()
        network, adapter = tuned.network, tuned.adapter
      else:
        network, adapter = evidence.untuned(""), None
      own = self._answers(model, network, adapter, evidence)
      lines += own
      answers: dict[str, list[list[str]]] = {}
      for line in own:
        answers.setdefault(line["who"], []).append(line["titles"])
      found += self._rows(_NAMED[model], answers)
    path = self.store.paths.root / ANSWERS
    processes.on_first(lambda: storage.write_json(path, lines, indent=1))
    return found

  def _answers(
    self,
    model: str,
    network: protocol.Network,
    adapter: Any | None,
    evidence: protocol.Evidence,
  ) -> list[dict[str, Any]]:
    """Asks a model everything; what it answered before a kill is kept.

    Returns:
      Of each prompt the model, who asks, the name, what was written, and the
      titles that were read in it.
    """
    asked, config = self._asked, self.store.config
    generate = written.greedy(config.generate)
    read = lambda texts: lists.titles(text_prompts.response_text(texts[0]))  # noqa: E731
    if config.task.fairness.lists == "beams":
      generate = dataclasses.replace(
        config.generate, num_beams=asked.list_length, prior="", lookahead=0
      )
      read = lambda texts: [  # noqa: E731
        lists.of_title(text_prompts.extract_title(text)) for text in texts
      ]
    tokens = self._tokens()
    write = written.Writer(network, adapter, generate, config.seed)
    with evidence.progress(f"ask {model}", len(tokens), "prompts") as bar:
      kept = parts.Rows(evidence.parts, f"answers of {model}")
      texts = write(tokens, bar, kept)
    begin = config.task.fairness.begin
    texts = [[begin + text for text in own] for own in texts]
    every = [(who, name) for who in asked.groups for name in asked.names]
    return [
      {
        "model": model,
        "who": who,
        "name": name,
        "predict": own,
        "titles": read(own),
      }
      for (who, name), own in zip(every, texts, strict=True)
    ]

  def _tokens(self) -> list[list[int]]:
    """Returns all prompts, by who asks and then by name."""
    store, asked = self.store, self._asked
    every = [(who, name) for who in asked.groups for name in asked.names]
    begin = store.config.task.fairness.begin
    as_chat = store.config.prompt.style == "chat"
    if as_chat and store.config.task.fairness.lists == "text":
      turns = dialogue.Dialogues(store.tokenizer_dir, store.tokenizer)
      return store.tokenizer.encode_data(
        [turns.text(asked.turns(*own)) + begin for own in every]
      )
    questions = []
    for who, name in every:
      if store.config.task.fairness.lists == "text":
        system, user = asked.turns(who, name)
        words, history = f"{system.content} {user.content}", ""
      else:  # A title is what a tuned model was taught to answer.
        fan = f"The user is {who} fan of {name}."
        words = f"{store.prompt.instruction} {fan}"
        history = store.prompt.input_text([])
      text = store.prompt.inference_text(words, history) + begin
      questions.append((text, store.prompt.seams(words, history)))
    return encoding.encode_questions(store.tokenizer, questions)

  def _rows(self, model: str, answers: Answers) -> Iterator[rows.TaskRow]:
    """Yields the rows of a model."""
    asked = self._asked
    known = {lists.of_title(t) for t in self.store.catalogue.titles}
    neutral = answers[prompts.NEUTRAL]
    if not any(neutral):
      logging.warning(
        "%s: no title was read in any neutral answer, so all similarities are"
        " 0, which says nothing of fairness; see %s (config.task.fairness.begin"
        " begins a list for the model)",
        model,
        ANSWERS,
      )
    yield self._row(f"{model}: neutral", _described(neutral, known), {})
    for attribute, values in asked.values.items():
      found = {
        name: np.array(
          [
            [
              measure(x[: asked.list_length], y[: asked.list_length])
              for x, y in zip(answers[value], neutral, strict=True)
            ]
            for value in values
          ]
        )
        for name, measure in similarity.MEASURES.items()
      }  # [V, N] by measure.
      drawn = {name: self._drawn(own) for name, own in found.items()}
      for place, value in enumerate(values):
        yield self._row(
          f"{model}: {attribute}, {value}",
          {name: float(own[place].mean()) for name, own in found.items()}
          | _described(answers[value], known),
          {name: _interval(own[:, place]) for name, own in drawn.items()},
        )
      measured, intervals = {}, {}
      for name, own in found.items():
        spread = similarity.disparity(drawn[name])
        for part, share in similarity.disparity(own.mean(axis=1)).items():
          measured[f"{name} {part}"] = float(share)
          intervals[f"{name} {part}"] = _interval(spread[part])
      yield self._row(f"{model}: {attribute}", measured, intervals)

  def _drawn(self, found: np.ndarray) -> np.ndarray:
    """Returns bootstrap means [S, V] of similarities [V, N]."""
    config = self.store.config
    samples = config.ground.bootstrap_samples
    return similarity.drawn_means(found, samples, config.seed)

  def _row(
    self,
    system: str,
    measured: Mapping[str, float],
    intervals: Mapping[str, Sequence[float]],
  ) -> rows.TaskRow:
    seeds, names = [self.store.config.seed], len(self._asked.names)
    return rows.TaskRow(SPLIT, system, measured, intervals, names, seeds)


def _described(
  answers: Sequence[Sequence[str]], known: set[str]
) -> dict[str, float]:
  """Returns how many titles an answer has, and how many the catalogue knows."""
  titles = [title for own in answers for title in own]
  share = float(np.mean([t in known for t in titles])) if titles else 0.0
  return {"titles": len(titles) / len(answers), "in_catalogue": share}


def _interval(drawn: np.ndarray) -> list[float]:
  low, high = np.percentile(drawn, [2.5, 97.5])
  return [float(low), float(high)]
