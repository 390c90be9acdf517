"""D3's way to judge: beams are the list, and a title is hit or missed.

Samples, texts and loss are those of next_title, but nothing is grounded: the
beams of a user, best first, are what is recommended, and the target counts
where a beam is exactly its title (SAI990323/DecodingMatters, code/calc.py,
585c842). With constrained decoding every beam is a title of the catalogue.

A workdir of this task is one of next_title, too: `--mode=ground_eval` with
`task.name=next_title` grounds the same predictions.
"""

from typing import Any

from bigrec_jax.data.text import prompts
from bigrec_jax.results import rows
from bigrec_jax.tasks import cf_files, item_lists, next_title, protocol
from bigrec_jax.workdir import fingerprints

SYSTEM = "beams"


class Task(next_title.Task):
  """BIGRec's samples, judged by exact titles."""

  name = "exact_title"
  grounds = recommends = False

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
    cf_files.tell_missing(store)
    width = max(*ground.cutoffs, generate.num_beams)
    with evidence.progress("judge", len(protocol.SPLITS), "splits") as bar:
      for split in protocol.SPLITS:
        written = evidence.predictions(split)
        beams = item_lists.of_beams(written, self._item_of, width)
        titles = {"titles": float((beams[:, : generate.num_beams] >= 0).mean())}
        found.append(
          item_lists.row(store, split, system, beams, titles | settings)
        )
        for other, lists in item_lists.of_others(store, split):
          found.append(item_lists.row(store, split, other, lists))
        bar.update(1)
    return found

  def _item_of(self, text: str) -> int | None:
    """Returns the item whose title a beam is, None where it is none."""
    title = prompts.extract_title(text)
    return self.store.catalogue.index_of_clean_title(title)
