"""The error types that users see without a traceback."""

import signal


class UserError(Exception):
  """A mistake in what the user gave: a file, a row, a key, a value.

  The message is one line that names the file, row or key, says what was found
  and what was expected. `main.py` prints it and exits with `status`.

  Attributes:
    status: of the process.
  """

  status = 2


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
