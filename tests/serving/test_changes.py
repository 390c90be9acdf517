"""What a server that changed lists, against one that is loaded afterwards.

Without an engine: texts are given, so that nothing need be decoded.
"""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from bigrec_jax import config as config_lib
from bigrec_jax.data.prepared import editions, histories as histories_lib
from bigrec_jax.rankers import bm25
from bigrec_jax.rankers.combine import fusion
from bigrec_jax.recommend import (
  conversation,
  explaining,
  filters,
  finished,
  loaded as loaded_lib,
  recommender as recommender_lib,
  remembered,
)
from bigrec_jax.results import chosen as chosen_lib
from bigrec_jax.serving import served
from bigrec_jax.workdir import paths as paths_lib

pytestmark = pytest.mark.slow

K = 8
_COLUMNS = ("text: log place", "bm25: 1 / place", "log popularity")
_GATE = "bm25: probability of its first"
# How much words and popularity count hangs on a sum over all items: a spare
# row in it would change it.
FUSED = fusion.Fusion(
  fusion.CALIBRATED,
  "first",
  ("text", "bm25", "popularity"),
  "text",
  fusion.Standard(_COLUMNS, (0.0,) * 3, (1.0,) * 3),
  fusion.Standard((_GATE,), (0.0,), (0.01,)),
  ((-0.5, 4.0, 0.1), (0.01, 0.3, -0.3)),
  words=bm25.Settings(1.2, 0.75),
)
WAYS = {
  "a fusion": chosen_lib.Chosen(
    "none", {}, "", fusion.CALIBRATED, dataclasses.asdict(FUSED)
  ),
  "popularity": chosen_lib.Chosen("popularity", {"popularity": 0.8}, ""),
}


class World:
  """A workdir and what lists it, made with one choice."""

  def __init__(self, root, chosen):
    self.paths, self._chosen = paths_lib.Paths(root), chosen
    mesh = config_lib.MeshConfig(1, 1, 1)
    own = remembered.config(self.paths, "none", None, mesh)
    # Counts of a file, so that an added item may have one, too.
    ids = [json.loads(x)["external_id"] for x in open(self.paths.catalogue)]
    counts = {own_id: n % 7 for n, own_id in enumerate(ids)} | {"new1": 50}
    path = root / "counts.json"
    path.write_text(json.dumps(counts))
    ground = dataclasses.replace(own.ground, popularity=str(path))
    self.config = dataclasses.replace(own, ground=ground)

  def load(self, kind, spare=0):
    """Returns a recommender of the workdir as it is now."""
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(jax, "devices", lambda *_: jax.local_devices()[:1])
      loaded = loaded_lib.Loaded(self.config, self.paths.root)
      adapter = finished.find_adapter(loaded)
      items = finished.load_embeddings(loaded)
      return kind(loaded, adapter, items, self._chosen, spare)


@pytest.fixture(params=list(WAYS))
def world(request, evaluated_demo, tmp_path):
  root = tmp_path / "demo"
  shutil.copytree(evaluated_demo, root)
  return World(root, WAYS[request.param])


def lists(own, histories, texts):
  """Returns lists, with explanations, of texts as if they had been written."""
  found = histories_lib.find(
    histories_lib.from_lists(histories), own.loaded.offered, "error", "unknown"
  )
  written = [{"predict": [text], "scores": [-1.0]} for text in texts]
  return own._lists(
    found,
    written,
    K,
    exclude_history=True,
    shown=filters.EVERYTHING,
    explain=True,
  )


def assert_same(found, expected):
  for own, other in zip(found, expected, strict=True):
    assert [i.external_id for i in own] == [i.external_id for i in other]
    for item, same in zip(own, other, strict=True):
      assert item.score == pytest.approx(same.score, abs=1e-6)
      assert item.popularity == same.popularity
      assert item.why == same.why
    assert own.provenance == other.provenance


def test_lists_are_those_of_whoever_is_loaded_afterwards(world):
  """Text, words, popularity, exact titles and reasons: each knows new items."""
  own = world.load(served.Served, 40)
  catalogue = own.prepared
  store = editions.Store(world.paths, catalogue.fingerprint)
  # Two words of their own; of the text they are as far as anything.
  titles = [f"Zyxomma Quibblenaut {n}" for n in range(4)]
  titles.append(catalogue.titles[3])
  ids = [f"new{n}" for n in range(5)]
  rng = np.random.default_rng(7)
  vectors = rng.normal(size=(5, own._shelf.vectors.shape[1]))
  vectors[4] = own._shelf.vectors[3]
  fused = own.provenance.system is not None

  def show(edition):
    offered = edition.offered(catalogue)
    own.show(own.next(edition, offered, None))

  before = [[catalogue.external_ids[5]], [], [catalogue.titles[9]]]
  texts = ["Some Nonsense", titles[2], ""]
  at_first = lists(own, before, texts[:1] * 3)
  assert_same(
    at_first,
    lists(world.load(recommender_lib.Recommender), before, texts[:1] * 3),
  )
  added = store.added(
    store.current(), ids, titles, vectors, own.loaded.encoder_fingerprint
  )
  show(added)
  asked = [["new0"], ["new0", catalogue.external_ids[5]], []]
  found = lists(own, asked, texts)
  assert_same(
    found, lists(world.load(recommender_lib.Recommender), asked, texts)
  )
  listed = [[item.external_id for item in one] for one in found]
  assert listed[1][0] == "new2"  # Its very title was written.
  why = found[1][0].why
  assert why["words"].startswith("this is what was written; place 1 by text")
  # The file counts it: popularity has it first.
  popular = next(item for item in found[2] if item.external_id == "new1")
  assert popular.popularity == 50 and popular.why["places"]["popularity"] == 1
  if fused:
    # Nothing but the words of the history says anything of these two. It has
    # new0 itself first.
    assert {"new2", "new3"} <= set(listed[0][:4])
    by_words = {i.external_id: i.why["places"]["words"] for i in found[0]}
    assert by_words["new2"] == by_words["new3"] == 2
  # Withdrawn is hidden, and still known of a history.
  store.with_withdrawn(added, ["new1"])
  show(store.current())
  found = lists(own, asked, texts)
  assert_same(
    found, lists(world.load(recommender_lib.Recommender), asked, texts)
  )
  assert not any(i.external_id == "new1" for one in found for i in one)
  # And all of it back.
  store.rolled_back(store.current())
  store.rolled_back(store.current())
  show(store.current())
  assert_same(lists(own, before, texts[:1] * 3), at_first)


def test_a_chat_knows_what_is_offered(world):
  own = world.load(recommender_lib.Recommender)
  store = editions.Store(world.paths, own.loaded.catalogue.fingerprint)
  vectors = np.ones((1, own._shelf.vectors.shape[1]), np.float32)
  encoder = own.loaded.encoder_fingerprint
  store.added(store.current(), ["n"], ["Zyxomma"], vectors, encoder)
  loaded = loaded_lib.Loaded(world.config, world.paths.root)
  talk = conversation.begin(loaded, own, ["n"], {}, object())
  assert talk.dialogue.history == ["n"]
  assert talk._orchestrator._had(talk.dialogue, 'I had "Zyxomma"') == []


def test_reasons_need_no_words():
  assert explaining._place(np.array([0.0, 2.0, 1.0, 2.0]), 2) == 3
  assert explaining._place(np.array([0.0, 2.0, 1.0, 2.0]), 0) is None
