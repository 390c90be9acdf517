"""Chat-REC's evaluation: is the chat model's order better than the given one?

Gao et al., 2023 (arXiv 2303.14524); no public code, so prompts and decoding
are a reconstruction (docs/systems.md). The recommender is BIGRec with what
valid chose (samples and loss are next_title's); each user of a split asks once
(`task.chat.request`), and the first `task.chat.listed` of the chat model's
order are compared with the recommender's own.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bigrec_jax.data.prepared.examples import Examples
from bigrec_jax.data.text.dialogue import USER, Turn
from bigrec_jax.results import clusters, list_metrics, metrics, rows
from bigrec_jax.tasks import next_title, protocol
from bigrec_jax.tasks.chat import given, orchestration, profile, words
from bigrec_jax.workdir import parts

RECOMMENDER, CHAT = "recommender", "chat"


class Task(next_title.Task):
  """Chat-REC."""

  name = "chat"
  computes = True
  grounds = False

  @property
  def asks(self) -> str:
    """The chat model; "" = the base."""
    return self.store.config.task.chat.model

  def check(self) -> None:
    """Raises UserError where profile or chat model can't be read."""
    given.check(self.store.config.task.chat)

  def evaluated_from(self) -> dict[str, Any]:
    """Returns what the rows depend on beside texts, base and adapter."""
    config = self.store.config
    chat = dataclasses.asdict(config.task.chat)
    for key in ("model", "max_new_tokens", "most_turns", "decide", "profile"):
      del chat[key]  # Named by its weights, or read in chats alone.
    return {
      "chat": chat,
      "profile": profile.read(config.task.chat.profile),
      "exclude_history": config.recommend.exclude_history,
      "max_history": config.data.max_history,
      "bootstrap_samples": config.ground.bootstrap_samples,
      "seed": config.seed,
    }

  def evaluate(self, evidence: protocol.Evidence) -> list[rows.TaskRow]:
    """Returns HR and NDCG of both orders, and their difference, by split."""
    from bigrec_jax.tasks.chat import model as model_lib

    config = self.store.config
    network = evidence.untuned(config.task.chat.model)
    model = model_lib.DecodedChat(network, config)
    recommend = functools.cache(evidence.recommender)
    found: list[rows.TaskRow] = []
    for split in protocol.SPLITS:
      users = self._users(split)
      with evidence.progress(f"chat {split}", len(users), "users") as bar:
        proposed = self._proposed(split, users, recommend, evidence.parts)
        known = [self._known(own) for own in users.history]
        titles = [
          orchestration.answers_of(
            [self.store.catalogue.titles[item] for item in own[own >= 0]]
          )
          for own in proposed
        ]
        about = f"log p of {split}", *proposed.shape
        scores = orchestration.rank(
          model,
          known,
          config.task.chat.noun,
          titles,
          parts.Vectors(evidence.parts, *about),
        )
        called, _ = orchestration.calls(model, known, config.task.chat.noun)
        bar.update(len(users))
      own = clusters.of_owners(users.owners)
      found += self._rows(split, users.target, proposed, scores, called, own)
    return found

  def _users(self, split: str) -> Examples:
    examples = self.store.examples(split)
    count = self.store.config.task.chat.num_users or len(examples)
    return examples.take(np.arange(min(count, len(examples))))

  def _known(self, history: np.ndarray) -> words.Known:
    chat, catalogue = self.store.config.task.chat, self.store.catalogue
    titles = [catalogue.titles[item] for item in history if item >= 0]
    turns = [Turn(USER, chat.request)]
    return words.Known(titles, profile.read(chat.profile), turns)

  def _proposed(
    self,
    split: str,
    users: Examples,
    recommender: Any,
    kept: parts.Parts,
  ) -> np.ndarray:
    """Returns the recommender's lists [N, M] int32 rows, padded with -1."""
    config, catalogue = self.store.config, self.store.catalogue
    ids = catalogue.external_ids

    def make() -> dict[str, np.ndarray]:
      found = recommender()(
        [[ids[item] for item in own if item >= 0] for own in users.history],
        config.task.chat.candidates,
        exclude_history=config.recommend.exclude_history,
        unknown="error",
      )
      lists = np.full((len(found), config.task.chat.candidates), -1, np.int32)
      for row, own in zip(lists, found, strict=True):
        for place, item in enumerate(own):
          found_row = catalogue.index_of_external_id(item.external_id)
          row[place] = -1 if found_row is None else found_row
      return {"lists": lists}

    return kept.once(f"candidates of {split}", make)["lists"]

  def _rows(
    self,
    split: str,
    targets: np.ndarray,
    proposed: np.ndarray,
    scores: np.ndarray,
    called: np.ndarray,
    users: clusters.Clusters | None,
  ) -> list[rows.TaskRow]:
    """Measures both orders of the proposals [N, M]."""
    order = np.argsort(-scores, axis=1, kind="stable")
    orders = {
      RECOMMENDER: proposed,
      CHAT: np.take_along_axis(proposed, order, axis=1),
    }
    groups, k = self.store.catalogue.groups, self.store.config.task.chat.listed
    gains: dict[str, dict[str, np.ndarray]] = {}
    each: dict[str, dict[str, np.ndarray]] = {}
    for system, lists in orders.items():
      ranks = list_metrics.target_ranks(lists, targets, groups)
      ranks = np.where(ranks == lists.shape[1], len(groups), ranks)
      gains[system] = _gains(ranks, sorted({1, k}))
      each[system] = {"rank": ranks}
    both = zip(gains[CHAT].items(), gains[RECOMMENDER].values(), strict=True)
    gains[f"{CHAT} - {RECOMMENDER}"] = {
      name: ours - theirs for (name, ours), theirs in both
    }
    share = list_metrics.target_ranks(proposed, targets, groups)
    extra: dict[str, dict[str, float]] = {
      RECOMMENDER: {
        "among_candidates": float((share < proposed.shape[1]).mean())
      },
      CHAT: {"called": float(called.mean())},
    }
    return [
      self._row(
        split,
        system,
        own,
        extra.get(system, {}),
        each.get(system, {}),
        users,
      )
      for system, own in gains.items()
    ]

  def _row(
    self,
    split: str,
    system: str,
    gains: Mapping[str, np.ndarray],
    extra: Mapping[str, float],
    each: Mapping[str, np.ndarray],
    users: clusters.Clusters | None,
  ) -> rows.TaskRow:
    config = self.store.config
    samples, seed = config.ground.bootstrap_samples, config.seed
    values = {name: float(own.mean()) for name, own in gains.items()}
    intervals: dict[str, Sequence[float]] = {}
    for name, own in gains.items():
      mean = functools.partial(_mean, own)
      intervals[name] = metrics.bootstrap_ci95(
        mean, len(own), samples, seed, users
      )
      count = len(own)
    values |= extra
    about = intervals, count, [seed], clusters.count(users), each
    return rows.TaskRow(split, system, values, *about)


def _gains(ranks: np.ndarray, cutoffs: Sequence[int]) -> dict[str, np.ndarray]:
  """Returns what each user [N] adds to HR and NDCG."""
  found = {}
  for k in cutoffs:
    hit = ranks < k
    found[f"hr@{k}"] = hit.astype(np.float64)
    if k > 1:  # NDCG@1 is HR@1.
      found[f"ndcg@{k}"] = np.where(hit, 1.0 / np.log2(ranks + 2.0), 0.0)
  return found


def _mean(values: np.ndarray, drawn: np.ndarray) -> float:
  return float(values[drawn].mean())
