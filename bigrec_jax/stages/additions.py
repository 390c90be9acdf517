"""Items of `data.catalogue_add`: an edition of the catalogue with them."""

from collections.abc import Iterator
from typing import NamedTuple

from bigrec_jax.data.formats import raw_files
from bigrec_jax.data.prepared import editions, new_items
from bigrec_jax.data.text import prompts
from bigrec_jax.recommend import queries, shelf
from bigrec_jax.stages import embed, graph
from bigrec_jax.stages.session import Session, say
from bigrec_jax.workdir import locks


class _Asked(NamedTuple):
  """What a file asks for.

  Attributes:
    new: items that the current edition lacks.
    back: ids of items that it has withdrawn.
  """

  new: list[new_items.NewItem]
  back: list[str]


def needed(session: Session) -> Iterator[graph.Stage]:
  """Yields the stage, where a file of new items is named.

  Whoever only reads adds nothing to embeddings that it may not make.
  """
  if not (session.config.data.catalogue_add and session.lists_editions):
    return
  if session.asked.make or session.walk.look(embed.STAGE).is_current:
    yield STAGE


def _asked(session: Session) -> _Asked:
  path = raw_files.given(
    "data.catalogue_add", session.config.data.catalogue_add
  )
  given = new_items.read(path, session.config.data.columns)
  compared = new_items.compare(given, session.offered)
  withdrawn = set(session.edition.withdrawn)
  return _Asked(compared.new, [i for i in compared.known if i in withdrawn])


def _differs(session: Session) -> list[str]:
  asked = _asked(session)
  parts = (("new", asked.new), ("withdrawn", asked.back))
  return [f"{len(items):,} {word} items" for word, items in parts if items]


def _build(session: Session, made_from: graph.Inputs) -> None:
  """Embeds what is new, and only that; the edition counts at once."""
  del made_from
  with locks.output(session.paths.editions, "embed"):
    store = editions.Store(session.paths, session.catalogue.fingerprint)
    edition = store.current()
    session.offer(edition, edition.offered(session.catalogue))
    asked = _asked(session)
    if asked.new:
      ids = [item.external_id for item in asked.new]
      titles = [item.title for item in asked.new]
      cleaned = [prompts.clean_title(title) for title in titles]
      shown = shelf.Shelf(session, session.load(embed.STAGE), 0)
      with session.stage("embed new items", len(set(cleaned)), "texts") as bar:
        vectors = queries.embed_queries(session, cleaned, shown.vectors, bar)
      edition = store.added(
        edition, ids, titles, vectors, session.encoder_fingerprint
      )
    if asked.back:
      kept = set(edition.withdrawn) - set(asked.back)
      edition = store.with_withdrawn(edition, sorted(kept))
    session.offer(edition, edition.offered(session.catalogue))
  say(
    f"embed: {len(asked.new):,} items added,"
    f" {len(asked.back):,} listed again: version {edition.number} of"
    f" {session.paths.editions}"
  )


STAGE = graph.Stage(
  name="additions",
  mode="embed",
  where=lambda session: session.paths.editions,
  needs=lambda session: (embed.STAGE,),
  differs=_differs,  # What the edition has is its record.
  build=_build,
  batches=("embed.batch_size",),
  is_cache=True,  # Whoever only reads may add what the command names.
)
