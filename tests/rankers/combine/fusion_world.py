"""Made-up users whose text, CF and popularity each know a little."""

import dataclasses

import jax
import numpy as np

from bigrec_jax.config import MeshConfig
from bigrec_jax.devices import sharding
from bigrec_jax.rankers.combine import (
  candidates,
  features,
  fused_ranks,
  fusion_fit,
)
from bigrec_jax.rankers.distance import streamed

BLOCK_ITEMS = 1 << 12


def mesh(devices=1):
  return sharding.make_mesh(MeshConfig(devices, 1, 1), jax.devices()[:devices])


@dataclasses.dataclass
class World:
  """A catalogue and users with targets.

  Attributes:
    vectors: [I, D].
    groups: [I].
    counts: [I].
    users: queries [N, B, D], CF scores.
    targets: [N].
    scores: by model [N, I].
  """

  vectors: np.ndarray
  groups: np.ndarray
  counts: np.ndarray
  users: candidates.Users
  targets: np.ndarray
  scores: dict[str, np.ndarray]

  @property
  def items(self):
    return features.Items(self.counts, tuple(self.scores))

  def gatherer(self, devices=1):
    table = streamed.streamed(self.vectors, self.groups, mesh(devices))
    return candidates.Gatherer(table, self.counts, block_items=BLOCK_ITEMS)

  def plain(self):
    """Returns the places [N] by the first text, in float64, ties by index."""
    return np.array(
      [
        place(
          -np.linalg.norm(
            self.vectors.astype(np.float64) - query[0].astype(np.float64),
            axis=1,
          ),
          np.flatnonzero(self.groups == self.groups[target]),
        )
        for query, target in zip(self.users.queries, self.targets, strict=True)
      ]
    )

  def valid(self, devices=1, **kinds):
    """Returns what `fusion_fit.fit` learns from, and the candidates."""
    found = self.gatherer(devices)(self.users)
    known = features.of(found, self.users, self.items, **kinds)
    judged = fused_ranks.judge(
      found,
      self.users,
      self.items,
      self.vectors,
      self.targets,
      self.groups,
      self.plain(),
    )
    owners = np.arange(len(self.targets))
    return fusion_fit.Valid(
      found, known, self.items, judged, self.targets, owners
    )


def place(scores, rows):
  """Returns the place of the best of rows in a stable descending sort."""
  order = np.argsort(-scores, kind="stable").tolist()
  return min(order.index(row) for row in rows)


def make(
  seed=0,
  users=60,
  items=300,
  texts=2,
  text_noise=0.6,
  cf_noise=1.0,
  repeats=0,
  width=8,
):
  """Returns a world; more noise makes a part know less.

  A user wants an item; the text is near it, or near another of the same taste,
  and CF scores are those of its taste and of popularity.

  Args:
    seed: of all numbers.
    users: N.
    items: I.
    texts: B.
    text_noise: deviation of texts around the target; infinite = at random.
    cf_noise: deviation of CF scores; infinite = at random.
    repeats: rows that repeat the title of another.
    width: D.
  """
  rng = np.random.default_rng(seed)
  vectors = rng.normal(size=(items, width)).astype(np.float32)
  groups = np.arange(items, dtype=np.int32)
  for row in range(items - repeats, items):
    groups[row] = rng.integers(0, items - repeats)
    vectors[row] = vectors[groups[row]]
  counts = rng.zipf(1.6, items).clip(0, 500) - 1
  chance = (counts + 0.5) / (counts + 0.5).sum()
  targets = rng.choice(items, users, p=chance).astype(np.int32)
  wide = (users, texts, width)
  noise = rng.normal(size=wide) * (1.0 if np.isinf(text_noise) else text_noise)
  near = 0.0 if np.isinf(text_noise) else vectors[targets][:, None]
  queries = (near + noise).astype(np.float32)
  exact = rng.random(users) < (0.0 if np.isinf(text_noise) else 0.2)
  queries[exact, 0] = vectors[targets[exact]]
  scores = rng.normal(size=(users, items))
  if not np.isinf(cf_noise):
    scores = scores * cf_noise + np.log(counts + 1.0) * 0.3
    scores[np.arange(users), targets] += 2.0
  scores = scores.astype(np.float32)
  logs = np.sort(rng.normal(-4, 1, (users, texts)))[:, ::-1]
  history = rng.integers(0, items, (users, 6)).astype(np.int32)
  history[rng.random((users, 6)) < 0.3] = -1
  history = -np.sort(-history, axis=1)
  history = np.where(history == targets[:, None], -1, history)
  about = candidates.Users(
    queries,
    logs.astype(np.float32) if texts > 1 else None,
    {"cf": scores.__getitem__},
    history,
    "valid",
  )
  return World(vectors, groups, counts, about, targets, {"cf": scores})
