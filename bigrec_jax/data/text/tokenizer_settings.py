"""What the JSON files beside a tokenizer say of its special tokens."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from bigrec_jax.data.text import special_text
from bigrec_jax.workdir import fields, storage

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Settings:
  """The more specific file goes first; "" and None = nothing is said.

  Attributes:
    names: of `bos`, `eos` and `pad`.
    model_eos: ids of config.json: none, one or several.
    added: ids by text, of added_tokens.json.
    decoder: texts by id, and whether each is special (None = not said), of
      tokenizer_config.json.
    special: tokens that are called special.
    add_bos: whether a BOS goes before a text.
  """

  names: Mapping[str, str]
  model_eos: tuple[int, ...]
  added: Mapping[str, int]
  decoder: Mapping[int, tuple[str, bool | None]]
  special: frozenset[str]
  add_bos: bool | None


def read(directory: pathlib.Path) -> Settings:
  """Reads config.json and the tokenizer's own files, where they are.

  Raises:
    UserError: one of them is damaged or has a value of another type.
  """

  def object_of(name: str) -> tuple[str, Mapping[str, Any]]:
    path = directory / name
    value = storage.read_json(path) if path.is_file() else {}
    return f"{path}:", fields.of_object(value, str(path))

  names = dict.fromkeys(("bos", "eos", "pad"), "")
  declared: dict[str, Any] = {}
  for name in ("special_tokens_map.json", "tokenizer_config.json"):
    where, values = object_of(name)
    declared |= values
    for key in names:
      if f"{key}_token" in values:
        place = f"{where} {key}_token"
        names[key] = _content(values[f"{key}_token"], place)
  where, config = object_of("config.json")
  model_eos = config.get("eos_token_id")
  model_eos = model_eos if isinstance(model_eos, list) else [model_eos]
  added_where, added = object_of("added_tokens.json")
  where, settings = object_of("tokenizer_config.json")

  def optional(key: str, read: Callable[[Any, str], T], absent: T) -> T:
    value = settings.get(key)
    return absent if value is None else read(value, f"{where} {key}")

  return Settings(
    names=names,
    model_eos=tuple(
      fields.whole(one, f"{directory / 'config.json'}: eos_token_id")
      for one in model_eos
      if one is not None
    ),
    added=fields.mapping(_id)(added, added_where),
    decoder=optional("added_tokens_decoder", _decoder, {}),
    special=frozenset(special_text.declared(declared)),
    add_bos=optional("add_bos_token", _flag, None),
  )


def _content(token: Any, where: str) -> str:
  """Returns the text of a token, which may be wrapped in an object."""
  if isinstance(token, dict):
    token, where = token.get("content"), f"{where}.content"
  name = "" if token is None else fields.text(token, where)
  try:
    name.encode()
  except UnicodeEncodeError:  # Half of a pair, which no tokenizer can have.
    raise fields.refuse(where, token, "a text of whole characters") from None
  return name


def _id(value: Any, where: str) -> int:
  if not 0 <= fields.whole(value, where) < 1 << 31:
    raise fields.refuse(where, value, "the id of a token")
  return value


def _flag(value: Any, where: str) -> bool | None:
  if not isinstance(value, bool):
    raise fields.refuse(where, value, "true or false")
  return value


def _decoder(value: Any, where: str) -> dict[int, tuple[str, bool | None]]:
  found = {}
  for key, token in fields.of_object(value, where).items():
    place = f"{where}.{key[:20]}"
    if not (key.isascii() and key.isdigit() and len(key) < 11):
      raise fields.refuse(place, key, "the id of a token")
    special = token.get("special") if isinstance(token, dict) else None
    if special is not None:
      _flag(special, f"{place}.special")
    if name := _content(token, place):
      found[int(key)] = name, special
  return found
