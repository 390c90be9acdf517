"""The plan as text for a terminal."""

from typing import Any

from bigrec_jax.planning import chips
from bigrec_jax.results import table

_NOT_KNOWN = "n/a"
_MUCH = 1.5  # Times as fast: worth another command.


def render(plan: dict[str, Any]) -> str:
  """Returns the tables and lines that `--mode=plan` prints.

  Args:
    plan: what plan.json holds.
  """
  parts = [_heading(plan), _memory(plan), _work(plan), _collectives(plan)]
  lines = _train(plan) + _rates(plan) + _meshes(plan) + _run(plan)
  lines += _titles(plan)
  if plan["compiled_for"] != plan["topology"]:
    lines.append(
      f"memory and collectives are those of the same programs compiled for"
      f" {plan['compiled_for']}, for want of a GPU's compiler: an estimate"
    )
  if plan["chip"] is None:
    lines.append("no published peaks for a CPU: times and bounds are n/a")
  else:
    lines.append("times are floors, at the chip's published peaks")
  return "\n\n".join([*parts, "\n".join(lines)])


def _heading(plan: dict[str, Any]) -> str:
  model, mesh = plan["model"], plan["mesh"]
  axes = " x ".join(f"{name} {size}" for name, size in mesh.items())
  return (
    f"{plan['topology']}: {plan['devices']} devices as {axes};"
    f" {model['parameters'] / 1e9:.3f} B parameters in {model['dtype']}"
    f" ({model['quantization']}), {model['attention']} attention,"
    f" remat {model['remat']}"
  )


def _memory(plan: dict[str, Any]) -> str:
  names = ("arguments", "outputs", "temporaries", "code", "elsewhere", "peak")
  capacity = plan["capacity_bytes"]
  rows = []
  for row in plan["programs"]:
    memory = row["memory"]
    if memory["refused"]:
      sizes = [_NOT_KNOWN] * 4 + [_gib(memory[n]) for n in names[4:]]
    else:
      sizes = [_gib(memory[name]) for name in names]
    fits = {True: "yes", False: "no", None: _NOT_KNOWN}[row["fits"]]
    rows.append([row["name"], *sizes, _gib(capacity), fits])
  return table.format_table(["GiB a device", *names, "capacity", "fits"], rows)


def _gib(size: int | None) -> str:
  return _NOT_KNOWN if size is None else f"{size / chips.GIB:.3f}"


def _work(plan: dict[str, Any]) -> str:
  rows = []
  for row in plan["programs"]:
    done, times = row["work"], row["times"] or {}
    rows.append(
      [
        row["name"],
        f"{done['flops'] / 1e12:.3f}",
        f"{done['executed'] / 1e12:.3f}",
        f"{done['bytes'] / chips.GIB:.2f}",
        *(_ms(times.get(n)) for n in ("compute", "memory", "network")),
        row["bound"] or _NOT_KNOWN,
      ]
    )
  headers = ["all devices", "TFLOP", "executed", "HBM GiB"]
  headers += ["compute ms", "memory ms", "network ms", "bound"]
  return table.format_table(headers, rows)


def _ms(seconds: float | None) -> str:
  return _NOT_KNOWN if seconds is None else f"{1e3 * seconds:.3f}"


def _collectives(plan: dict[str, Any]) -> str:
  rows = []
  for row in plan["programs"]:
    for kind, found in (row["collectives"] or {}).items():
      size = f"{found['bytes'] / 2**20:.2f}"
      rows.append([row["name"], kind, str(found["count"]), size])
  if not rows:
    return "no collectives"
  return table.format_table(
    ["a call", "collective", "times", "MiB a device receives"], rows
  )


def _train(plan: dict[str, Any]) -> list[str]:
  """Returns the lines about training."""
  train = plan.get("train")
  if train is None:
    return []
  check, lines = train["xla_check"], []
  lines.append(
    f"train: XLA counts {check['xla_unrolled_flops'] / 1e12:.3f} TFLOP a"
    " micro-batch with plain attention (1 and 2 unrolled layers,"
    f" extrapolated), {check['ratio']:.3f} times the formula"
  )
  if train["own_step"]:
    lines.append(
      "train: programs and tokens are those of the task's own first step, not"
      " of plan.text_tokens"
    )
  if train["header_tokens"]:
    said = "" if train["own_step"] else " (plan.prefix_tokens)"
    lines.append(
      f"train: {train['header_tokens']} tokens that all texts begin with are"
      f" computed once a step{said}; XLA counts"
      f" {check['header_ratio']:.3f} times the formula"
    )
  if train["seconds_per_step"] is not None:
    lines.append(
      f"train: {train['micro_batches_per_step']} micro-batches a step, at best"
      f" {train['seconds_per_step']:.3f} s,"
      f" {train['tokens_per_second']:,.0f} tokens/s, MFU"
      f" {100 * train['mfu']:.0f} %"
    )
  if train["chip_hours"] is not None:
    lines.append(
      f"train: {train['steps']:,} steps ({train['examples']:,} examples):"
      f" at least {train['chip_hours']:.2f} chip-hours"
    )
  elif train["steps"] is None:
    lines.append(
      "train: no chip-hours: neither data.num_train nor a prepared"
      " data/manifest.json says how many examples"
    )
  lines += _largest(train["largest_micro_batch"], "train: micro_batch_size")
  return lines


def _meshes(plan: dict[str, Any]) -> list[str]:
  """Returns the line about the mesh that decodes fastest."""
  found = plan.get("generate", {}).get("meshes")
  if not found or plan["devices"] == 1:
    return []
  best, size = found[0], plan["mesh"]
  axes = ("data", "fsdp", "tensor")
  own = next((m for m in found if all(m[a] == size[a] for a in axes)), None)
  named = ", ".join(f"mesh.{axis} {best[axis]}" for axis in axes)
  rate = f"{best['users_per_second']:,.1f} users/s"
  if not best["fits"]:
    return ["generate: by formula no mesh holds weights and caches"]
  if own is None or own == best:
    return [f"generate: the best mesh by formula: {named}, {rate}"]
  times = best["users_per_second"] / own["users_per_second"]
  text = f"{named} is {times:.1f} times as fast by formula ({rate})"
  if times < _MUCH and own["fits"]:
    return [f"generate: {text}"]
  return [
    f"generate: this mesh is bad for decoding: {text}; train on the one,"
    " then run evaluation on the other"
  ]


def _run(plan: dict[str, Any]) -> list[str]:
  """Returns the line about all of a run's hours and money."""
  run = plan["run"]
  if run is None:
    return []
  text = (
    f"a run: at least {run['train_hours']:.2f} h of training and"
    f" {run['generate_hours']:.2f} h to write for {run['users']:,} users"
  )
  if run["cost"] is not None:
    text += f": {run['cost']:.2f} at {run['price_per_hour']:g} an hour"
  return [text]


def _titles(plan: dict[str, Any]) -> list[str]:
  """Returns the line about tables of titles, where there are any."""
  found = [
    f"{name} {size / 2**20:.2f} MiB"
    for name, size in plan["table_bytes"].items()
    if size
  ]
  return [f"tables of titles a device: {', '.join(found)}"] if found else []


def _largest(search: dict[str, Any] | None, name: str) -> list[str]:
  """Returns the line about the largest batch, if it was searched."""
  if search is None:
    return []
  tried = ", ".join(str(rows) for rows in sorted(search["probes"]))
  if not search["rows"]:
    return [f"{name}: none fits (compiled: {tried})"]
  more = ", the most there is" if search["rows"] == search["limit"] else ""
  return [
    f"{name}: at most {search['rows']} fits{more}"
    f" ({_gib(search['peak'])} GiB a device; compiled: {tried})"
  ]


def _rates(plan: dict[str, Any]) -> list[str]:
  found = plan.get("generate", {}).get("largest_batch")
  return _largest(found, "generate: batch_size") + [
    f"{name}: at most {plan[name]['users_per_second']:,.1f} users/s"
    for name in ("generate", "ground")
    if name in plan and plan[name]["users_per_second"] is not None
  ]
