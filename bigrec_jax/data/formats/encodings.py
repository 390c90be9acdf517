"""The one place that decodes text files: whatever they are, as text.

`auto` reads UTF-16 where a mark at the beginning says so, else UTF-8, with or
without its mark. A line that isn't UTF-8 is read as Windows-1252: that is
ISO-8859-1 with curly quotes, dashes and the euro sign where ISO-8859-1 has
control characters, which no text has. Five bytes are nothing there either;
a line with one of them is damaged UTF-8, and what can't be read becomes
U+FFFD. Both are counted and told with their lines, so one bad byte in ten
million lines neither stops nor silently changes anything. JSON on one line is
judged a string at a time.

A named encoding is meant: what isn't of it is an error that names the line.
"""

import contextlib
import io
import pathlib
import re
from collections.abc import Iterator

from bigrec_jax import errors
from bigrec_jax.data.formats import opened
from bigrec_jax.data.prepared import doctor as doctor_lib

AUTO = "auto"
_CODECS = {
  "utf-8": "utf-8-sig",
  "utf-16": "utf-16",
  "cp1252": "cp1252",
  "iso-8859-1": "iso-8859-1",
}
NAMES = (AUTO, *_CODECS)
_SHOWN = {
  "utf-8": "UTF-8",
  "utf-16": "UTF-16",
  "cp1252": "Windows-1252",
  "iso-8859-1": "ISO-8859-1",
}
_PLACES = 3  # That are shown.
_LONGEST = 40  # Characters of a line that are shown.
# Where JSON's strings and lines end: ASCII, which no character goes across.
_ENDS = re.compile(r'(?<=[\n"])')


class Text:
  """A text file, and what was noticed while it was read."""

  def __init__(self, path: pathlib.Path, encoding: str = AUTO):
    """Opens nothing yet.

    Args:
      path: the file, plain or .gz.
      encoding: one of `NAMES`.
    """
    self._path, self._encoding = path, encoding
    self._place = opened.Place(path, "line")
    self._name = encoding
    self._beyond_ascii = False
    self._counts = {"cp1252": 0, "damaged": 0}
    self._examples: dict[str, list[str]] = {"cp1252": [], "damaged": []}

  def lines(self, newline: str | None = None) -> Iterator[str]:
    r"""Yields the lines with their ends.

    Args:
      newline: None makes every end of a line \n, "" keeps them.

    Raises:
      UserError: the file is damaged, no text, or not in the encoding.
    """
    with self._opened(self._place, newline=newline) as file:
      for line in file:
        self._place.done += 1
        if not line.isascii():
          line = self._mended(line, f"line {self._place.done}")
        yield line

  @contextlib.contextmanager
  def stream(self, place: opened.Place) -> Iterator["Stream"]:
    """Yields the characters, where a line may be as long as the file.

    Args:
      place: counts what has been read, for messages.
    """
    with self._opened(place, in_lines=False) as file:
      yield Stream(file, self._mended_parts)

  def whole(self) -> str:
    """Returns all of a file that can't be read in parts.

    Raises:
      UserError: as `lines`, and beyond `opened.LONGEST_FILE`.
    """
    raw = opened.content(self._path, self._is_utf16_asked)
    with self._strictly(self._place):
      codec, on_error = self._codec(raw[:4])
      text = raw.decode(codec, on_error)
    return text if text.isascii() else self._mended_parts(text)

  def tell(self, doctor: doctor_lib.Doctor, *, of_utf8: bool = False) -> None:
    """Says how the file was read, where that makes a difference.

    Args:
      doctor: is told.
      of_utf8: also where all of it is UTF-8 beyond ASCII.
    """
    name = self._path.name
    for kind, what in (
      ("cp1252", "read as Windows-1252 (config.data.encoding names another)"),
      ("damaged", "nor Windows-1252: what can't be read is U+FFFD"),
    ):
      if count := self._counts[kind]:
        doctor.found(
          f"lines of {name} that aren't UTF-8, {what}",
          count,
          self._examples[kind],
        )
    plain = self._encoding == AUTO and self._beyond_ascii
    if plain and not any(self._counts.values()):
      if of_utf8 or self._name != "utf-8":
        doctor.note(f"{name} was read as {_SHOWN[self._name]}")

  @property
  def _is_utf16_asked(self) -> bool:
    return self._encoding == "utf-16"

  def _codec(self, head: bytes) -> tuple[str, str]:
    """Returns Python's codec and what becomes of bytes that aren't of it."""
    if self._encoding != AUTO:
      codec = _CODECS[self._encoding]
      if codec == "utf-16" and not opened.is_utf16(head):
        codec = "utf-16-le"  # As Windows writes it; the codec wants a mark.
      return codec, "strict"
    if opened.is_utf16(head):
      self._name = "utf-16"
      return "utf-16", "strict"
    self._name = "utf-8"
    return "utf-8-sig", "surrogateescape"

  @contextlib.contextmanager
  def _opened(
    self,
    place: opened.Place,
    newline: str | None = None,
    in_lines: bool = True,
  ) -> Iterator[io.TextIOBase]:
    with (
      self._strictly(place),
      opened.binary(place, self._is_utf16_asked) as file,
    ):
      codec, on_error = self._codec(file.peek(4)[:4])
      yield io.TextIOWrapper(
        opened.bounded(file) if in_lines else file,
        encoding=codec,
        errors=on_error,
        newline=newline,
      )

  @contextlib.contextmanager
  def _strictly(self, place: opened.Place) -> Iterator[None]:
    """Turns bytes that aren't of the encoding into one line."""
    try:
      yield
    except UnicodeError as error:
      where, what = f"{place.unit} {place.done + 1}", "a text cut short"
      if isinstance(error, UnicodeDecodeError):
        if place.unit == "line":  # The rest is the part that is decoded next.
          ends = error.object[: error.start].count(b"\n")
          where = f"line {place.done + ends + 1}"
        what = f"byte 0x{error.object[error.start]:02x}"
      name = _SHOWN[self._name]
      others = ", ".join(n for n in NAMES if n != self._encoding)
      raise errors.UserError(
        f"{place.path}: {where}: {what} found, {name} expected"
        f" (config.data.encoding may be {others})"
      ) from None

  def _mended_parts(self, text: str) -> str:
    """Mends lines, and strings of JSON on one line, of a part of the file."""
    if _is_text(text):
      self._beyond_ascii |= not text.isascii()
      return text
    return "".join(self._mended(part, "") for part in _ENDS.split(text))

  def _mended(self, text: str, where: str) -> str:
    """Returns a line whose bytes that aren't UTF-8 are read otherwise."""
    self._beyond_ascii = True
    if _is_text(text):
      return text
    raw = text.encode("utf-8", "surrogateescape")
    kind = "cp1252"
    try:
      text = raw.decode("cp1252")
    except UnicodeDecodeError:
      kind, text = "damaged", raw.decode("utf-8", "replace")
    self._counts[kind] += 1
    examples = self._examples[kind]
    if len(examples) < _PLACES:
      examples.append(f"{where} {text.strip()[:_LONGEST]}".strip())
    return text


class Stream:
  """The characters of a file, a part at a time."""

  def __init__(self, file: io.TextIOBase, mended):
    self._file, self._mended = file, mended

  def read(self, size: int) -> str:
    """Returns at most so many characters; "" at the end."""
    text = self._file.read(size)
    return text if text.isascii() else self._mended(text)


def _is_text(text: str) -> bool:
  """Returns whether all of it was UTF-8 (see Python's surrogateescape)."""
  try:
    text.encode("utf-8")
  except UnicodeEncodeError:
    return False
  return True
