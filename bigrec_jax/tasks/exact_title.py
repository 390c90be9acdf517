"""D3's way to judge: beams are the list, and a title is hit or missed.

Samples, texts and loss are those of next_title, but nothing is grounded: the
beams of a user, best first, are what is recommended, and the target counts
where a beam is exactly its title (SAI990323/DecodingMatters, code/calc.py,
585c842). With constrained decoding every beam is a title of the catalogue.

A workdir of this task is one of next_title, too: `--mode=ground_eval` with
`task.name=next_title` grounds the same predictions.
"""

from typing import Any

import numpy as np

from bigrec_jax.cf import scores as cf_scores
from bigrec_jax.data.text import prompts
from bigrec_jax.results import list_metrics, metrics, rows
from bigrec_jax.tasks import cf_files, next_title, protocol
from bigrec_jax.workdir import fingerprints

SYSTEM = "beams"


class Task(next_title.Task):
  """BIGRec's samples, judged by exact titles."""

  name = "exact_title"
  grounds = False
  recommends = False

  def evaluated_from(self) -> dict[str, Any]:
    """Returns what the rows depend on beside texts, base and adapter."""
    store = self.store
    ground = store.config.ground
    return {
      "cutoffs": ground.cutoffs,
      "bootstrap_samples": ground.bootstrap_samples,
      "popularity": fingerprints.of_value(store.catalogue.popularity.tolist()),
      "cf": cf_files.made_from(store),
      "seed": store.config.seed,
    }

  def evaluate(self, evidence: protocol.Evidence) -> list[rows.TaskRow]:
    """Returns HR and NDCG of the beams, of most_pop and of a CF model."""
    store, found = self.store, []
    ground, generate = store.config.ground, store.config.generate
    system, settings = SYSTEM, {}
    if generate.has_prior:
      system = f"{SYSTEM} + {generate.prior}"
      settings = {"prior_weight": generate.prior_weight}
    files = cf_files.find(store)
    cf_files.tell_missing(store)
    with evidence.progress("judge", len(protocol.SPLITS), "splits") as bar:
      for split in protocol.SPLITS:
        beams = self._beams(evidence.predictions(split))
        titles = {"titles": float((beams[:, : generate.num_beams] >= 0).mean())}
        found.append(self._row(split, system, beams, titles | settings))
        found.append(self._row(split, "most_pop", self._most_popular(split)))
        if split in files:
          examples = store.examples(split)
          scores = cf_scores.load_scores(
            files[split], examples, store.catalogue
          )
          listed = self._by_cf(split, scores)
          found.append(self._row(split, ground.cf_model or "cf", listed))
        bar.update(1)
    return found

  def _beams(self, predictions: Any) -> np.ndarray:
    """Returns the catalogue rows of beams, [N, K]; -1 = no title, or none."""
    config, catalogue = self.store.config, self.store.catalogue
    width = max(*config.ground.cutoffs, config.generate.num_beams)
    beams = np.full((len(predictions), width), -1, np.int64)
    for line, row in zip(beams, predictions, strict=True):
      for place, text in enumerate(row["predict"]):
        item = catalogue.index_of_clean_title(prompts.extract_title(text))
        line[place] = -1 if item is None else item
    return beams

  def _most_popular(self, split: str) -> np.ndarray:
    from bigrec_jax.rankers import baselines

    return self._listed(
      split, baselines.MostPopular(self.store.catalogue.popularity)
    )

  def _by_cf(self, split: str, scores: Any) -> np.ndarray:
    from bigrec_jax.rankers import cf as cf_rankers

    return self._listed(split, cf_rankers.of_scores(scores))

  def _listed(self, split: str, ranker: Any) -> np.ndarray:
    """Returns a ranker's lists [N, K], each title once."""
    from bigrec_jax.rankers import title_lists

    store = self.store
    ground = store.config.ground
    return title_lists.title_lists(
      ranker,
      len(store.examples(split)),
      store.catalogue.groups,
      store.mesh,
      k=max(ground.cutoffs),
      most_users=ground.batch_size,
    )

  def _row(
    self,
    split: str,
    system: str,
    lists: np.ndarray,
    settings: dict[str, float] | None = None,
  ) -> rows.TaskRow:
    """Measures lists [N, K]; what else is known of them stands behind."""
    config, targets = self.store.config, self.store.examples(split).target
    ranks = list_metrics.target_ranks(
      lists, targets, self.store.catalogue.groups
    )
    missed = ranks == lists.shape[1]
    # A list that is shorter than a cutoff doesn't have the target behind it.
    ranks = np.where(missed, len(self.store.catalogue.titles) + 1, ranks)
    values, intervals = {}, {}
    for name in ("hr", "ndcg"):
      for k in config.ground.cutoffs:
        values[f"{name}@{k}"] = metrics.METRICS[name](ranks, k)
        intervals[f"{name}@{k}"] = metrics.ci95(
          ranks, name, k, config.ground.bootstrap_samples, config.seed
        )
    return rows.TaskRow(
      split,
      system,
      values | (settings or {}),
      intervals,
      len(ranks),
      [config.seed],
    )
