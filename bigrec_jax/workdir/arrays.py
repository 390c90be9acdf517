"""Arrays of .npy and .npz files; a damaged one is a line, whatever is in it.

A header may claim any shape and type. Nothing is believed that the file's size
doesn't bear out, and nothing is unpickled.
"""

import pathlib
import zipfile

import numpy as np

from bigrec_jax import errors

_MAGIC = b"\x93NUMPY"
_MOST_BYTES = 1 << 36  # Of an unpacked array; a bomb claims more.


def read_npy(path: pathlib.Path, *, mapped: bool = False) -> np.ndarray:
  """Reads the one array of a .npy file.

  Args:
    path: of the file.
    mapped: leave it on disk, mapped into memory.

  Raises:
    UserError: it is missing, damaged or no .npy file.
  """
  try:
    with open(path, "rb") as file:
      if file.read(len(_MAGIC)) != _MAGIC:
        raise ValueError("it doesn't begin as one")
      size = file.seek(0, 2)
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    end = array.offset + array.nbytes
  except FileNotFoundError:
    raise errors.UserError(f"{path}: not found") from None
  except OSError as error:
    raise errors.UserError(f"{path}: {error.strerror or error}") from None
  except Exception as error:  # numpy parses a header as it likes.
    raise _damaged(path, error) from None
  if size != end:
    raise errors.UserError(
      f"{path}: no .npy array: {size} bytes found, {end} expected of"
      f" {array.dtype} {list(array.shape)}"
    )
  return array if mapped else np.array(array)


def read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Reads all arrays of a .npz file.

  Raises:
    UserError: it is missing, damaged or no .npz file.
  """
  try:
    with zipfile.ZipFile(path) as packed:
      claimed = sum(entry.file_size for entry in packed.infolist())
      if claimed > _MOST_BYTES:
        raise ValueError(f"{claimed} bytes unpacked")
    with np.load(path, allow_pickle=False) as archive:
      found = {name: archive[name] for name in archive.files}
  except FileNotFoundError:
    raise errors.UserError(f"{path}: not found") from None
  except OSError as error:
    raise errors.UserError(f"{path}: {error.strerror or error}") from None
  except Exception as error:  # zipfile, zlib and numpy, as they like.
    raise _damaged(path, error) from None
  for name, array in found.items():
    if not isinstance(array, np.ndarray):
      raise errors.UserError(f"{path}: {name!r} found, which is no array")
  return found


def _damaged(path: pathlib.Path, error: Exception) -> errors.UserError:
  said = " ".join(str(error).split())[:200] or type(error).__name__
  kind = "no .npz archive" if path.suffix == ".npz" else "no .npy array"
  return errors.UserError(f"{path}: {kind}: {said}")
