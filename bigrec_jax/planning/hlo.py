"""Collectives of a compiled program, read from its text.

XLA lists an instruction inside a loop once; here it counts as often as the
loop turns. The number of turns is `known_trip_count` where the compiler says
it (CPU); else it is read from the loop's counter, its limit and its step. How
often a loop turns that ends on what it finds, the caller says, by the end of
its `op_name`.

On TPU a collective that overlaps with computation appears in several
`async_collective_fusion`s, all with one channel: it counts once. One that
starts before a loop and ends behind it has fusions inside, which do not repeat
it: there it counts as often as where it starts.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Mapping

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_NAME = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = ")
_SHAPE = re.compile(r"\b([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,]*)\]")
_CALLS = re.compile(
  r"(?:calls|to_apply|body|condition|true_computation|false_computation)"
  r"=%?([\w.\-]+)"
)
_BRANCHES = re.compile(
  r"(?:branch_computations|called_computations)=\{([^}]*)\}"
)
_CONDITION = re.compile(r"\bcondition=%?([\w.\-]+)")
_CONSTANT = re.compile(r"\s*constant\((\d+)\)")
_INDEX = re.compile(r"get-tuple-element\(.*index=(\d+)")
_BODY = re.compile(r"\bbody=%?([\w.\-]+)")
_TRIPS = re.compile(r"known_trip_count[\"':={ ]+n[\"': ]+(\d+)")
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_CHANNEL = re.compile(r"channel_id=(\d+)")
KINDS = (
  "all-gather",
  "all-reduce",
  "reduce-scatter",
  "all-to-all",
  "collective-permute",
)
_PIECE = "async_collective_fusion"
_BITS = {"pred": 8, "token": 0, "opaque": 0}

_Path = tuple[str, ...]  # Bodies of the loops around an instruction.


@dataclasses.dataclass(frozen=True)
class Collective:
  """One collective of a program, on one device.

  Attributes:
    kind: one of KINDS.
    bytes: that the device receives each time: of n devices in a ring,
      (n - 1) / n of an all-gather's result or a reduce-scatter's operand, and
      twice that of an all-reduce's.
    group: n.
    times: how often it runs in one call of the program.
    op_name: which line of the program it comes from.
  """

  kind: str
  bytes: float
  group: int
  times: int
  op_name: str


@dataclasses.dataclass
class _Instruction:
  name: str
  opcode: str
  shape: str
  rest: str
  root: bool


def _bytes(shape: str) -> list[int]:
  """Returns the bytes of each array in a printed type."""
  sizes = []
  for dtype, dims in _SHAPE.findall(shape):
    digits = re.search(r"\d+", dtype)
    bits = _BITS.get(dtype, int(digits.group()) if digits else 0)
    count = math.prod(int(d) for d in dims.split(",") if d)
    sizes.append(count * bits // 8)
  return sizes


def _split(line: str) -> _Instruction | None:
  match = _NAME.match(line)
  if match is None:
    return None
  text = line[match.end() :]
  end = _type_end(text)
  opcode = re.match(r"\s*([a-z][\w\-]*)\(", text[end:])
  if opcode is None:
    return None
  root = line.lstrip().startswith("ROOT ")
  return _Instruction(
    match.group(1), opcode.group(1), text[:end], text[end:], root
  )


def _type_end(text: str) -> int:
  """Returns where the type at the start of an instruction ends."""
  depth = 0
  for place, letter in enumerate(text):
    depth += letter in "([{"
    depth -= letter in ")]}"
    if depth == 0 and letter == " ":
      return place
  return len(text)


def _computations(text: str) -> tuple[dict[str, list[_Instruction]], str]:
  found: dict[str, list[_Instruction]] = {}
  entry, current = "", None
  for line in text.splitlines():
    header = _HEADER.match(line)
    if header:
      current = found.setdefault(header.group(2), [])
      entry = header.group(2) if header.group(1) else entry
    elif current is not None and (one := _split(line)) is not None:
      current.append(one)
  return found, entry


def _group_size(text: str, devices: int) -> int:
  """Returns how many devices take part, from any form of replica_groups."""
  if match := re.search(r"replica_groups=\[(\d+),(\d+)\]", text):
    return int(match.group(2))
  if match := re.search(r"replica_groups=\{\{([\d,]*)\}", text):
    return len(match.group(1).split(","))
  match = re.search(r"replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}", text)
  if match:
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", match.group(1)))
    names = re.findall(r"'(\w+)'", match.group(2))
    return math.prod(int(sizes[name]) for name in names)
  return devices


def _collective(
  one: _Instruction, inside: str, times: int, devices: int
) -> Collective | None:
  kind = one.opcode.removesuffix("-start")
  if kind not in KINDS:
    return None
  sizes = _bytes(one.shape)
  started = one.opcode.endswith("-start")
  # A started one's type also holds its operand, and for some a context.
  size = max(sizes) if started and kind != "all-reduce" else sum(sizes)
  group = _group_size(one.rest, devices)
  if kind == "all-reduce" and "reduce-scatter" in inside:
    kind = "reduce-scatter"  # Fused with the slice that follows.
  elif kind == "reduce-scatter" and not started:
    size *= group
  factor = {"all-reduce": 2, "collective-permute": group / max(group - 1, 1)}
  received = size * factor.get(kind, 1) * (group - 1) / max(group, 1)
  if kind == "collective-permute":
    received = float(size)
  name = _OP_NAME.search(one.rest)
  return Collective(kind, received, group, times, name.group(1) if name else "")


def _turns(
  one: _Instruction,
  loops: Mapping[str, int],
  computations: Mapping[str, list[_Instruction]],
) -> int | None:
  """Returns the turns of a `while`, or None where nothing says."""
  if match := _TRIPS.search(one.rest):
    return int(match.group(1))
  condition, body = _CONDITION.search(one.rest), _BODY.search(one.rest)
  if condition and body:
    turns = _counted(
      computations.get(condition.group(1), []),
      computations.get(body.group(1), []),
    )
    if turns is not None:
      return turns
  name = _OP_NAME.search(one.rest)
  for ending, turns in loops.items():
    if name and name.group(1).endswith(ending):
      return turns
  return None


def _counted(
  condition: list[_Instruction], body: list[_Instruction]
) -> int | None:
  """Returns the turns of `for (i = 0; i < limit; i += step)`."""
  inside = {other.name: other for other in condition}
  test = next((other for other in condition if other.root), None)
  if test is None or "direction=LT" not in test.rest:
    return None
  sides = [inside[name] for name in _operands(test) if name in inside]
  if len(sides) != 2 or len(_operands(test)) != 2:
    return None
  place, limit = _INDEX.search(sides[0].rest), _constant(sides[1])
  result = next((other for other in body if other.root), None)
  if place is None or limit is None or result is None:
    return None
  names = _operands(result)
  steps = {other.name: other for other in body}
  if int(place.group(1)) >= len(names):
    return None
  added = steps.get(names[int(place.group(1))])
  if added is None or added.opcode != "add":
    return None
  step = [
    value
    for name in _operands(added)
    if name in steps and (value := _constant(steps[name])) is not None
  ]
  return -(-limit // step[0]) if len(step) == 1 and step[0] > 0 else None


def _operands(one: _Instruction) -> list[str]:
  inside = one.rest[one.rest.index("(") :]
  return re.findall(r"%([\w.\-]+)", inside[: inside.index(")")])


def _constant(one: _Instruction) -> int | None:
  match = _CONSTANT.match(one.rest)
  return int(match.group(1)) if match else None


def collectives(
  text: str, loops: Mapping[str, int], devices: int
) -> tuple[list[Collective], list[str]]:
  """Returns the collectives that one call of a program runs.

  Args:
    text: `compiled.as_text()`.
    loops: turns of the loops whose `op_name` ends so, where the text itself
      does not say; the first match counts.
    devices: of the program; the group of a collective that names none.

  Returns:
    The collectives, and the loops (`op_name` or name) that hold some and
    whose turns nobody knows: they count once.
  """
  computations, entry = _computations(text)
  found: dict[tuple[_Path, str, str], Collective] = {}
  pieces: dict[tuple[_Path, str, str], bool] = {}
  unknown: collections.Counter[str] = collections.Counter()

  def walk(name: str, times: int, loop: _Path, doubts: tuple[str, ...]) -> None:
    for one in computations.get(name, ()):
      item = _collective(one, name, times, devices)
      if item is not None:
        channel = _CHANNEL.search(one.rest)
        key = (loop, item.kind, channel.group(1) if channel else one.name)
        found.setdefault(key, item)
        pieces[key] = pieces.get(key, True) and name.startswith(_PIECE)
        unknown.update(doubts)
      body = _BODY.search(one.rest) if one.opcode == "while" else None
      called = _CALLS.findall(one.rest)
      for names in _BRANCHES.findall(one.rest):
        called += re.findall(r"[\w.\-]+", names)
      for other in called:
        if body is None or other != body.group(1):
          walk(other, times, loop, doubts)
          continue
        turns = _turns(one, loops, computations)
        label = _OP_NAME.search(one.rest)
        more = (label.group(1) if label else one.name,) if turns is None else ()
        walk(other, times * (turns or 1), (*loop, other), doubts + more)

  walk(entry, 1, (), ())
  kept = [
    item
    for (loop, kind, name), item in found.items()
    if not pieces[loop, kind, name]
    or not any((loop[:n], kind, name) in found for n in range(len(loop)))
  ]
  return kept, list(unknown)
