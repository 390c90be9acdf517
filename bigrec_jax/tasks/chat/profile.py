"""What is known of a user beside the history: a JSON object of texts."""

from collections.abc import Mapping

from bigrec_jax.data.formats import raw_files
from bigrec_jax.workdir import fields, storage


def read(given: str) -> Mapping[str, str]:
  """Returns {name: fact} of `task.chat.profile`; "" is nothing known.

  Raises:
    UserError: there is no such file, or it is something else.
  """
  if not given:
    return {}
  path = raw_files.given("task.chat.profile", given)
  found = fields.mapping(_fact)(storage.read_json(path), f"{path}:")
  return {name: own for name, own in found.items() if own}


def _fact(value: object, where: str) -> str:
  """Returns a text, or a number as one."""
  if isinstance(value, (int, float)) and not isinstance(value, bool):
    return str(fields.number(value, where))
  return fields.text(value, where).strip()
