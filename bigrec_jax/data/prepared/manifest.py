"""data/manifest.json as its readers need it: what was prepared, and of what."""

import dataclasses
import pathlib
from collections.abc import Mapping

from bigrec_jax.data.prepared import splits
from bigrec_jax.workdir import fields, storage


@dataclasses.dataclass(frozen=True)
class Manifest:
  """What is read of the manifest.

  Attributes:
    fingerprint: names the raw files and the options of the data.
    catalogue: fingerprint of ids and titles.
    dataset: folder of the dataset within data/.
    items: of the catalogue.
    num_examples: by split.
    ratings: whether the examples have them.
  """

  fingerprint: str
  catalogue: str
  dataset: str
  items: int
  num_examples: Mapping[str, int]
  ratings: bool


def read(path: pathlib.Path) -> Manifest:
  """Reads data/manifest.json.

  Raises:
    UserError: it is missing or damaged, or a field is of another kind.
  """
  file = fields.Fields(storage.read_json(path), f"{path}:")
  counts = fields.Fields(
    file.get("counts", fields.of_object), f"{path}: counts"
  )
  parts = fields.Fields(file.get("splits", fields.of_object), f"{path}: splits")
  found = {
    split: fields.Fields(
      parts.get(split, fields.of_object), f"{path}: splits.{split}"
    )
    for split in splits.SPLITS
    if split in parts
  }
  dataset = file.get("dataset", fields.text)
  if (
    not dataset
    or pathlib.PurePath(dataset).is_absolute()
    or (".." in pathlib.PurePath(dataset).parts)
  ):
    raise fields.refuse(f"{path}: dataset", dataset, "a folder within data/")
  return Manifest(
    file.get("fingerprint", fields.text),
    file.get("catalogue", fields.text),
    dataset,
    counts.get("items", fields.count),
    {
      split: part.get("num_examples", fields.count)
      for split, part in found.items()
    },
    file.optional("ratings", fields.flag, False),
  )
