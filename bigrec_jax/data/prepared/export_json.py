"""BIGRec's JSON files, byte for byte as the published notebooks write them.

`train.json`, `valid.json`, `test.json`, and `valid_5000.json` and
`test_5000.json` with the rows of pandas' `sample(n=5000, random_state=42)`,
each what `json.dump(rows, file, indent=4)` writes. Rows are streamed: the
train file of MovieLens-10M has 8 GB.

Two oddities of the notebooks are reproduced here, and only here, since the
published scripts that read these files count on them:

- Game's targets went through a CSV file that pandas read, so a title such as
  "None" or "NA" became "nan" (quirk 35);
- Movie's titles were read as ISO-8859-1, so the accents of a UTF-8 movies.dat
  became two wrong characters each (quirk 15). `data.encoding=utf-8` keeps
  them right.
"""

import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from bigrec_jax import progress
from bigrec_jax.data.prepared import doctor as doctor_lib, splits
from bigrec_jax.data.text import prompts

_SAMPLE = 5000
_SAMPLE_SEED = 42
_BLOCK = 8192


def write(
  directory: pathlib.Path,
  windows: Mapping[str, splits.Windows],
  titles: Sequence[str],
  targets: Sequence[str],
  overrides: Mapping[str, Mapping[int, tuple[str, str]]],
  prompt: prompts.Prompt,
  doctor: doctor_lib.Doctor,
) -> list[str]:
  """Writes the five files and returns their names.

  Args:
    directory: where to.
    windows: the rows by split.
    titles: titles in histories, by catalogue row.
    targets: titles in outputs, by catalogue row.
    overrides: (instruction, input) by split and row.
    prompt: makes the text of all other rows.
    doctor: told where there are fewer rows than a sample wants.
  """
  outputs = [prompt.output_text(title) for title in targets]
  total = sum(len(part) for part in windows.values())
  names = []
  with progress.Progress(total, "rows", "export_json") as bar:
    for split, part in windows.items():
      rows = np.arange(len(part))
      samples = {f"{split}.json": rows}
      if split != "train":
        name = f"{split}_{_SAMPLE}.json"
        samples[name] = splits.evaluation_rows(len(part), _SAMPLE, _SAMPLE_SEED)
        if len(part) < _SAMPLE:
          doctor.note(
            f"{name} has all {len(part):,} rows: fewer than {_SAMPLE:,}"
          )
      for name, chosen in samples.items():
        text = _texts(
          part, chosen, titles, outputs, overrides.get(split, {}), prompt
        )
        _dump(directory / name, text)
        names.append(name)
      bar.update(len(part))
  return names


def published_targets(titles: Sequence[str]) -> list[str]:
  """Returns titles as they are after CSV and pandas.read_csv (quirk 35)."""
  return ["nan" if title in doctor_lib.MISSING else title for title in titles]


def published_movie_titles(titles: Sequence[str]) -> list[str]:
  """Returns UTF-8 titles as they read when taken for ISO-8859-1."""
  return [title.encode("utf-8").decode("iso-8859-1") for title in titles]


def _texts(
  windows: splits.Windows,
  rows: np.ndarray,
  titles: Sequence[str],
  outputs: Sequence[str],
  overrides: Mapping[int, tuple[str, str]],
  prompt: prompts.Prompt,
) -> Iterator[dict[str, str]]:
  for start in range(0, len(rows), _BLOCK):
    chosen = rows[start : start + _BLOCK]
    block = windows.columns(chosen)
    histories = block["history"].tolist()
    targets = block["target"].tolist()
    for row, history, target in zip(
      chosen.tolist(), histories, targets, strict=True
    ):
      if row in overrides:
        instruction, text = overrides[row]
      else:
        instruction = prompt.instruction
        text = prompt.input_text([titles[n] for n in history if n >= 0])
      yield {
        "instruction": instruction,
        "input": text,
        "output": outputs[target],
      }


def _dump(path: pathlib.Path, rows: Iterable[Mapping[str, str]]) -> None:
  """Writes what json.dump(list(rows), file, indent=4) would."""
  with open(path, "w", encoding="ascii") as file:
    before = "["
    for row in rows:
      fields = ",\n".join(
        f"        {json.dumps(key)}: {json.dumps(value)}"
        for key, value in row.items()
      )
      file.write(f"{before}\n    {{\n{fields}\n    }}")
      before = ","
    file.write("\n]" if before == "," else "[]")
    file.flush()
    os.fsync(file.fileno())
