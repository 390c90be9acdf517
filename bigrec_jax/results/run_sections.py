"""Sections of the report on how a run went: data, loss, time, settings."""

import importlib.metadata
import pathlib
import platform
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bigrec_jax.results import page, plots, run_data
from bigrec_jax.workdir import origins

_SHOWN_FINDINGS = 12
_PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def data_summary(data: run_data.RunData, doctor: Sequence[str]) -> page.Html:
  """Returns counts of the prepared data and what the doctor found.

  Args:
    data: the workdir.
    doctor: the findings as lines of text.
  """
  parts: list[object] = []
  counts = _counts(data.manifest)
  if counts:
    caption = "Counts in data/manifest.json."
    parts.append(page.table(["", "number"], counts, caption))
  if data.catalogue:
    parts.append(page.paragraph(_catalogue_line(data)))
  if not data.manifest:
    parts.append(page.missing("data/manifest.json", "--mode=prepare makes it."))
  if doctor:
    listed = page.listing(line.strip() for line in doctor)
    # The first lines are what a reader has to know; a long list is folded.
    heading = "What was found in the raw data"
    if len(doctor) > _SHOWN_FINDINGS:
      parts.append(page.details(f"{heading}, {len(doctor)} lines", listed))
    else:
      parts += [page.element("h3", heading), listed]
  else:
    parts.append(page.missing("data/doctor.json", "--mode=prepare makes it."))
  return page.join(parts)


def _counts(manifest: Mapping[str, Any]) -> list[tuple[str, int]]:
  """Returns what was counted, and the examples of each split."""
  found = [
    (k.replace("_", " "), v)
    for k, v in _leaves(manifest.get("counts", {}))
    if k
  ]
  for split, facts in manifest.get("splits", {}).items():
    found.append((f"examples in {split}", facts.get("num_examples")))
  return found


def _catalogue_line(data: run_data.RunData) -> str:
  titles = [row["title"] for row in data.catalogue]
  unseen = sum(not row.get("popularity", 0) for row in data.catalogue)
  return (
    f"The catalogue has {len(titles):,} items with {len(set(titles)):,}"
    f" different titles; {unseen:,} items are in no interaction of train."
  )


def losses(data: run_data.RunData) -> page.Html:
  """Returns the loss curves of pre-training and fine-tuning."""
  panels = []
  for title, lines in (
    ("Pre-training of the base", data.pretrain),
    ("LoRA fine-tuning", data.train),
  ):
    drawn = [
      plots.Line(*look, *_series(lines, key))
      for key, look in (
        ("loss", ("none", "loss of a step")),
        ("eval_loss", ("popularity", "loss on valid")),
      )
      if _series(lines, key)[0]
    ]
    if drawn:
      panels.append(plots.Panel(title, "step", drawn, y_from_zero=False))
  if not panels:
    return page.missing("loss curves", "--mode=train makes them.")
  svg = plots.curves("losses", "Loss against optimizer steps", panels)
  parts: list[object] = [
    page.figure(svg, "Cross-entropy per token, in nats, against steps.")
  ]
  steps, values = _series(data.train, "eval_loss")
  if values:
    best = min(range(len(values)), key=values.__getitem__)
    parts.append(
      page.paragraph(
        f"The adapter kept is that of step {steps[best]:,}, with"
        f" {values[best]:.4f} on valid; {len(values)} evaluations."
      )
    )
  return page.join(parts)


def _series(
  lines: Sequence[Mapping[str, Any]], key: str
) -> tuple[list[int], list[float]]:
  kept = [line for line in lines if isinstance(line.get(key), (int, float))]
  return [line["step"] for line in kept], [line[key] for line in kept]


def settings(data: run_data.RunData, config: Mapping[str, Any]) -> page.Html:
  """Returns fingerprints, versions and the whole configuration."""
  prints = [
    (source, key, page.element("code", value))
    for source, value in (
      ("data/manifest.json", _named(data.manifest)),
      ("metrics/ground_eval.json", _named(_ground_prints(data))),
      *(
        (f"records/{name}", _named(record))
        for name, record in data.records.items()
      ),
    )
    for key, value in _leaves(value)
  ]
  parts: list[object] = []
  if prints:
    caption = "What each artefact is, and was made from."
    table = page.table(["file", "of", "fingerprint"], prints, caption)
    parts.append(page.element("div", table, "wide"))
  else:
    parts.append(
      page.missing("fingerprints", "prepare and ground_eval write them.")
    )
  if str(config.get("model", {}).get("path", "")).lower().endswith(".gguf"):
    for origin in data.origins:
      line = origins.describe(origin)
      parts.append(page.paragraph(f"The base is a dequantised copy of {line}."))
  parts.append(page.paragraph(_versions()))
  rows = [
    (key, page.element("code", run_data.stable_json(value)))
    for key, value in _leaves(config)
  ]
  caption = "The configuration that this report was made with."
  table = page.table(["key", "value"], rows, caption)
  parts.append(
    page.details(
      f"All {len(rows)} keys of the configuration",
      page.element("div", table, "wide"),
    )
  )
  return page.join(parts)


def _ground_prints(data: run_data.RunData) -> Mapping[str, Any]:
  """Returns what the ranks were made from."""
  if data.ground is None:
    return {}
  return {"fingerprints": data.ground.fingerprints}


def _named(value: Mapping[str, Any]) -> dict[str, str]:
  """Returns the leaves that are fingerprints."""
  return {
    key: leaf
    for key, leaf in _leaves(value)
    if isinstance(leaf, str) and _is_fingerprint(leaf)
  }


def _is_fingerprint(value: str) -> bool:
  return len(value) == 16 and all(c in "0123456789abcdef" for c in value)


def _versions() -> str:
  found = [f"Python {platform.python_version()}"]
  for package in _PACKAGES:
    try:
      found.append(f"{package} {importlib.metadata.version(package)}")
    except importlib.metadata.PackageNotFoundError:
      continue
  return f"Report made with {', '.join(found)} on {platform.machine()}."


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
  """Yields (dotted key, leaf) of nested objects."""
  if not isinstance(value, Mapping):
    yield prefix.rstrip("."), value
    return
  for key, inner in value.items():
    yield from _leaves(inner, f"{prefix}{key}.")


def missing_parts(data: run_data.RunData) -> page.Html:
  """Returns what the workdir lacks, or nothing if all is there."""
  parts: list[object] = []
  if absent := data.missing():
    listed = page.listing(
      page.join([page.element("code", name), f": made by {mode}"])
      for name, mode in absent
    )
    # Folded, so that the answer is what a reader sees first.
    summary = f"This workdir is not complete: it lacks {len(absent)} files"
    parts.append(page.details(summary, listed))
  if data.damaged:
    parts.append(page.paragraph("These files are damaged and left out:"))
    parts.append(page.listing(why for _, why in data.damaged))
  if not parts:
    return page.Html("")
  return page.element("div", page.join(parts), "missing")


def lead(root: pathlib.Path, data: run_data.RunData, made: str) -> page.Html:
  """Returns the lines below the title."""
  facts = [f"Workdir {root}", f"report made {made}"]
  if data.ground is not None and "test" in data.ground.num_examples:
    tested = data.ground.who("test")
    facts.insert(1, f"{tested}, {data.ground.num_items:,} items")
  return page.join([page.paragraph(" · ".join(facts)), missing_parts(data)])
