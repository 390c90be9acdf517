"""The one error type that users see without a traceback."""


class UserError(Exception):
  """A mistake in what the user gave: a file, a row, a key, a value.

  The message is one line that names the file, row or key, says what was found
  and what was expected. `main.py` prints it and exits with status 2.
  """
