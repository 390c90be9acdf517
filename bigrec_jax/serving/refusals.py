"""Why a request is refused: a status, the field, and one line."""

import dataclasses


@dataclasses.dataclass
class RefusedError(Exception):
  """A request that isn't answered.

  Attributes:
    status: of HTTP.
    message: what was found where, and what was expected.
    field: of the body that it is about, e.g. "histories[0][2]"; "" = none.
    retry_after: seconds after which another try may do; None = it won't.
  """

  status: int
  message: str
  field: str = ""
  retry_after: int | None = None

  def __str__(self) -> str:
    return self.message


def bad(field: str, message: str) -> RefusedError:
  """Returns the refusal of a field whose value is wrong."""
  return RefusedError(400, message, field)


def too_large(field: str, message: str) -> RefusedError:
  """Returns the refusal of what is beyond a limit."""
  return RefusedError(413, message, field)


def expired() -> RefusedError:
  """Returns the refusal of what nobody waits for any more."""
  return RefusedError(504, "deadline_ms: passed before the answer was ready")


def closing() -> RefusedError:
  """Returns the refusal of a server that is being stopped."""
  return RefusedError(503, "the server is being stopped", retry_after=1)
