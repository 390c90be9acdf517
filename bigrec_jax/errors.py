"""The error types that users see without a traceback."""

import re
import signal

# Control characters, halves of surrogate pairs, the ends of lines beyond
# ASCII and what turns the direction of writing: a terminal would obey them.
_UNSEEN = re.compile(
  "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
  "\ud800-\udfff]"
)
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


class UserError(Exception):
  """A mistake in what the user gave: a file, a row, a key, a value.

  The message is one line that names the file, row or key, says what was found
  and what was expected. `main.py` prints it and exits with `status`.

  Attributes:
    status: of the process.
  """

  status = 2

  def __init__(self, message: str):
    super().__init__(one_line(message))


class Interrupted(UserError):
  """Ctrl-C or SIGTERM, after what can be resumed was saved.

  Attributes:
    status: 128 and the signal's number, as a shell says it.
  """

  def __init__(self, number: int, done: str):
    """Puts the line together.

    Args:
      number: of the signal.
      done: where the work stopped, and what the user does next.
    """
    super().__init__(f"interrupted by {signal.Signals(number).name}: {done}")
    self.status = 128 + number


class NonFiniteError(UserError):
  """A network gave NaN or infinity for one row of many.

  Attributes:
    row: its number among those that the callee was given.
    problem: what was found, without the row.
  """

  def __init__(self, row: int, problem: str, name: str = ""):
    super().__init__(f"{name or f'row {row}'}: {problem}")
    self.row, self.problem = row, problem

  def of(self, row: int, name: str) -> "NonFiniteError":
    """Returns the same of a row as the caller counts and calls it."""
    return NonFiniteError(row, self.problem, name)


def one_line(text: str) -> str:
  """Returns a text as it may be shown: what can't be seen is escaped.

  Titles, paths and rows of files hold line breaks, escape sequences and
  overrides of direction. They stay as they are in data, and pass through here
  on their way to a terminal or a page. The escapes are JSON's.
  """
  return _UNSEEN.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
  character = match[0]
  return _SHORT.get(character) or f"\\u{ord(character):04x}"
