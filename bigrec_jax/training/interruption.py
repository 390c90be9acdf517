"""Why a training stops before its end without being interrupted."""

from bigrec_jax import errors


class TrainingStopped(errors.UserError):
  """A loss or a gradient is no number; the message says where.

  A UserError, since it has to end the program the same way: one line, exit
  status 2, everything on disk whole.
  """
