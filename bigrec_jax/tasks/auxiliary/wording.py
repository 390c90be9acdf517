"""How items, histories and questions read.

An item has a name, its title or its id, which is what answers say; behind the
name stands, in parentheses, what else is told of it: its title where the name
is the id, its attributes, a rating. No text names a user (the paper leaves user
ids out).
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

from bigrec_jax import errors
from bigrec_jax.config import AuxiliaryConfig
from bigrec_jax.data.prepared.catalogue import Catalogue
from bigrec_jax.data.text import prompts
from bigrec_jax.workdir import fingerprints

# Ours: the paper's prompts could not be had. Retrieval's is the configuration's
# prompt.instruction, which names the kind of item.
INSTRUCTIONS = {
  "ranking": (
    "Given the items that a user has chosen, oldest first, and a list of"
    " candidates, write the candidate that the user chooses next."
  ),
  "rating": (
    "Given the items that a user has chosen and rated, oldest first, write the"
    " rating that the user gives to another item."
  ),
  "mim": (
    "Some of the items that a user has chosen, oldest first, are hidden. Write"
    " the hidden items."
  ),
  "mlm": (
    "Some words of the items that a user has chosen, oldest first, are hidden."
    " Write the hidden words."
  ),
  "bpr": (
    "Given the items that a user has chosen, oldest first, and two others,"
    " write the one that the user prefers."
  ),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Wording:
  """Items as text.

  Attributes:
    catalogue: of all items.
    prompt: the layout; retrieval's instruction, the lead of a history.
    attributes: of items, by external id; may lack any.
    config: of the section, `item`, `ids` and `blank`.
    mark: says of a blank that it is meant where it is a special token, as in
      T5 (`special_text.Special.mark`); called when a text is made.
  """

  catalogue: Catalogue
  prompt: prompts.Prompt
  attributes: dict[str, str]
  config: AuxiliaryConfig
  mark: Callable[[str], str]

  @functools.cached_property
  def fingerprint(self) -> str:
    """Names all that an item's text is made from."""
    config = self.config
    return fingerprints.of_value(
      [
        self.catalogue.fingerprint,
        [config.item, config.ids, config.blank],
        self.attributes,
      ]
    )

  @property
  def has_titles(self) -> bool:
    """Whether titles are in the texts."""
    return self.config.item != "id"

  def name(self, item: int) -> str:
    """Returns what answers call an item, without quotes."""
    if self.config.item == "title":
      return self.catalogue.titles[item]
    if self.config.ids == "external":
      return self.catalogue.external_ids[item]
    return str(item)

  def item(self, item: int, title: str | None = None, note: str = "") -> str:
    """Returns how an item reads.

    Args:
      item: catalogue row.
      title: in place of its own, where words of it are hidden.
      note: what is told of it last.
    """
    title = self.catalogue.titles[item] if title is None else title
    behind = []
    if self.config.item == "title":
      text = f'"{title}"'
    else:
      text = f'"{self.name(item)}"'
    if self.config.item == "both":
      behind.append(title)
    own = self.attributes.get(self.catalogue.external_ids[item])
    behind += [part for part in (own, note) if part]
    return f"{text} ({'; '.join(behind)})" if behind else text

  def blank(self, number: int) -> str:
    """Returns what stands for a hidden item, or hidden words."""
    return self.mark(self.config.blank.replace("{}", str(number)))

  def history(self, items: Sequence[str]) -> str:
    """Returns the line of items that already read as they should."""
    return f"{self.prompt.history_lead.rstrip()} {', '.join(items)}"

  def answer(self, *items: int) -> str:
    """Returns what the model writes for items."""
    return self.prompt.output_text('", "'.join(map(self.name, items)))

  @functools.cached_property
  def answers(self) -> dict[str, int]:
    """The answer of every item, of equal ones once, and its place."""
    answers = dict.fromkeys(map(self.answer, range(len(self.catalogue))))
    return {answer: place for place, answer in enumerate(answers)}

  @functools.cached_property
  def _rows(self) -> dict[str, int]:
    """The first item of each name, cleaned as predictions are."""
    rows: dict[str, int] = {}
    for item in range(len(self.catalogue)):
      name = prompts.clean_title(self.name(item))
      if rows.setdefault(name, item) != item and self.config.item != "title":
        raise errors.UserError(
          f"config.task.auxiliary.ids: items {rows[name]} and {item} are both"
          f" {name!r} without quotes and blanks, ids that differ expected"
        )
    return rows

  def item_of(self, written: str) -> int | None:
    """Returns the item that a written text names, None where it names none."""
    return self._rows.get(prompts.extract_title(written))
