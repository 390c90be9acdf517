"""The one error type that users see without a traceback."""


class UserError(Exception):
  """A mistake in what the user gave: a file, a row, a key, a value.

  The message is one line that names the file, row or key, says what was found
  and what was expected. `main.py` prints it and exits with status 2.
  """


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
