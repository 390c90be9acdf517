"""Whose compiler a plan is."""

import importlib.metadata


def read() -> dict[str, str | None]:
  """Returns the versions of the packages that compile; None = not there."""
  found: dict[str, str | None] = {}
  for name in ("jax", "jaxlib", "libtpu", "flax"):
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      found[name] = None
  return found
