"""The one error type that users see without a traceback."""

_LONGEST = 1500  # Characters of a message.


class UserError(Exception):
  """A mistake in what the user gave: a file, a row, a key, a value.

  The message is one line that names the file, row or key, says what was found
  and what was expected. `main.py` prints it and exits with status 2.

  Whatever a file, a path or a library put into it: line breaks, control and
  bidirectional characters are escaped, and a very long one is shortened.
  """

  def __init__(self, message: str):
    super().__init__(printable(str(message)))


def printable(text: str) -> str:
  """Returns a text as one line that any terminal and UTF-8 file takes."""
  if len(text) > _LONGEST:
    half = _LONGEST // 2
    text = f"{text[:half]} ... {text[-half:]}"
  if text.isprintable():
    return text
  return "".join(
    c if c.isprintable() else c.encode("unicode_escape").decode("ascii")
    for c in text
  )
