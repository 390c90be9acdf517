"""Damage for fuzz tests: what happens to files, drawn by hypothesis.

A test takes a valid file, damages it and reads it: that succeeds or ends in a
UserError of one line that names the file (`outcome`).
"""

import copy
import json
import pathlib
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from bigrec_jax import errors

_DEEP = 100_000
# Texts of JSON values, or nearly: what numbers, names and lists turn into.
WILD_JSON = (
  *("null", "true", "false", "0", "-1", "1.5", '""', "[]", "{}", "[[1]]"),
  *("NaN", "Infinity", "-Infinity", "1e999", "1e300", "-1e300", "-0.0"),
  *("9" * 5000, "-" + "9" * 25, "9223372036854775808", "2147483648"),
  *('"1"', '"false"', '"nan"', '"a\\nb"', '"\\u202e\\u2066"', '"\\u0000"'),
  *('"\\ud83d"', '"\\ufeff"', '"' + "x" * 5000 + '"', '"../x"', '{"a": null}'),
  *("[" * _DEEP + "]" * _DEEP, "[" * _DEEP, '{"a":' * _DEEP + "1"),
  *("[" * 500 + "]" * 500, "[1, 2", '{"a" 1}', "'a'", "[1,]", "None", ""),
)
# Bytes that mean something to one reader or another.
_WILD_BYTES = (
  *(b'"', b"'", b"\n", b"\r", b"\r\n", b"\t", b",", b";", b"|", b"::", b" "),
  *(b"\x00", b"\xff", b"\xc3", b"\xef\xbb\xbf", b"\xff\xfe", b"\x1f\x8b"),
  *("\u2028\u202e\x85\x1b[31m".encode(), b"\n\n\n", b"[", b"]", b"{", b"}"),
  *(b"nan", b"inf", b"1e300", b"-1", b"9" * 5000, b"[]", b"[" * 2000),
  *(b"</s>", b"x" * 5000, b'"\n' * 50),
)


def mutate(content: bytes, data: Any) -> bytes:
  """Returns a file's bytes damaged one to three times.

  Args:
    content: of a valid file.
    data: what `hypothesis.strategies.data()` gives a test.
  """
  for _ in range(data.draw(st.integers(1, 3), label="times")):
    start = data.draw(st.integers(0, len(content)), label="start")
    stop = data.draw(st.integers(start, min(start + 300, len(content))))
    kind = data.draw(st.sampled_from(_KINDS), label="kind")
    if kind == "truncate":
      content = content[:start]
    elif kind == "delete":
      content = content[:start] + content[stop:]
    elif kind == "duplicate":
      content = content[:stop] + content[start:]
    elif kind == "flip":
      bit = 1 << data.draw(st.integers(0, 7))
      flipped = bytes(byte ^ bit for byte in content[start : start + 1])
      content = content[:start] + flipped + content[start + 1 :]
    elif kind == "twice":
      content = content + content
    elif kind == "utf-16":
      content = content.decode("utf-8", "replace").encode("utf-16")
    else:
      piece = data.draw(st.sampled_from(_WILD_BYTES), label="piece")
      content = content[:start] + piece + content[start:]
  return content


_KINDS = ("truncate", "delete", "duplicate", "flip", "twice", "utf-16") + (
  ("insert",) * 4
)


def mutate_json(value: Any, data: Any) -> bytes:
  """Returns JSON of a value with one of its parts swapped, lost or renamed.

  Args:
    value: a valid file's.
    data: what `hypothesis.strategies.data()` gives a test.
  """
  value = copy.deepcopy([value])  # So that the whole is a part as well.
  places = _places(value)
  # Half of the draws near the top, where there are few parts.
  few = st.integers(0, min(8, len(places) - 1))
  container, key = places[
    data.draw(few | st.integers(0, len(places) - 1), label="place")
  ]
  kind = data.draw(st.sampled_from(("swap", "swap", "lose", "rename")))
  mark = '"\ue000damage\ue000"'
  raw = data.draw(st.sampled_from(WILD_JSON), label="raw")
  if kind == "lose" and container is not value:
    del container[key]
  elif kind == "rename" and isinstance(container, dict):
    container[f"{key}x"] = container.pop(key)
  else:
    container[key] = json.loads(mark)
  text = json.dumps(value[0], ensure_ascii=False)
  return text.replace(mark, raw).encode("utf-8", "surrogatepass")


def _places(value: Any) -> list[tuple[Any, Any]]:
  """Returns every (container, key) of a JSON value, level by level."""
  found, level = [], [value]
  while level:
    following = []
    for part in level:
      keys = part if isinstance(part, dict) else range(len(part))
      for key in keys:
        found.append((part, key))
        if isinstance(part[key], (dict, list)):
          following.append(part[key])
    level = following
  return found


def outcome(read: Callable[[], Any], *paths: pathlib.Path) -> Any:
  """Returns what a reader makes of a damaged file, None where it refuses it.

  Args:
    read: the reader.
    *paths: of which a refusal names one.

  Raises:
    AssertionError: it refuses with more than a line, or names no file.
  """
  try:
    return read()
  except errors.UserError as error:
    message = str(error)
    assert errors.one_line(message) == message, message
    assert any(path.name in message for path in paths), message
    assert len(message) < 2000, len(message)
    return None
