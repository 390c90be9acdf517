"""What the published notebooks do, done naively: the oracle of the export.

Plain dictionaries and lists, the CSV file in between and pandas to read it
back, as described in docs/protocol.md (Data) for MovieLens and Amazon.
"""

import csv
import json
import pathlib

SENTENCES = {
  "movie": (
    "Given a list of movies the user has watched before, please recommend a"
    " new movie that the user likes to the user.",
    "The user has watched the following movies before:",
  ),
  "game": (
    "Given a list of video games the user has played before, please recommend"
    " a new video game that the user likes to the user.",
    "The user has played the following video games before:",
  ),
}


def movie_windows(raw: pathlib.Path) -> list[tuple]:
  """Rows (user, history titles, target title, time), sorted by time."""
  titles = {}
  for line in open(raw / "movies.dat", encoding="ISO-8859-1"):
    parts = line.split("::")
    titles[parts[0]] = parts[1]
  log = {}
  for line in open(raw / "ratings.dat"):
    user, movie, _, time = line.split("::")
    log.setdefault(user, []).append((int(time), movie))
  rows = []
  for user, events in log.items():
    events = sorted(events, key=lambda event: event[0])
    for i in range(10, len(events)):
      history = [titles[movie] for _, movie in events[i - 10 : i]]
      rows.append((user, history, titles[events[i][1]], events[i][0]))
  return sorted(rows, key=lambda row: row[-1])


def game_windows(reviews: pathlib.Path, meta: pathlib.Path) -> list[tuple]:
  """Rows (user, history titles, target title, time), sorted by time."""
  titles = {}
  for line in open(meta):
    item = json.loads(line)
    if len(item["title"]) > 1:
      titles[item["asin"]] = item["title"]
  log = {}
  for line in open(reviews):
    review = json.loads(line)
    if review["asin"] not in titles:
      continue
    if "overall" not in review or "unixReviewTime" not in review:
      continue
    log.setdefault(review["reviewerID"], []).append(
      (review["unixReviewTime"], titles[review["asin"]])
    )
  rows = []
  for user, events in log.items():
    events = sorted(events, key=lambda event: int(event[0]))
    for i in range(min(10, len(events) - 1), len(events)):
      history = [title for _, title in events[max(i - 10, 0) : i]]
      rows.append((user, history, events[i][1], int(events[i][0])))
  return sorted(rows, key=lambda row: row[-1])


def parts(rows: list[tuple]) -> dict[str, list[tuple]]:
  """Cuts sorted rows 8:1:1."""
  first, second = int(len(rows) * 0.8), int(len(rows) * 0.9)
  return {
    "train": rows[:first],
    "valid": rows[first:second],
    "test": rows[second:],
  }


def write_json(
  rows: list[tuple],
  kind: str,
  path: pathlib.Path,
  sample: int,
  through_pandas: bool,
) -> None:
  """Writes a split; `sample` rows of it unless 0 or more than there are."""
  import pandas

  middle = path.with_suffix(".csv")
  with open(middle, "w") as file:
    writer = csv.writer(file)
    writer.writerow(["user", "history", "target", "time"])
    writer.writerows(rows)
  frame = pandas.read_csv(middle)
  frame["number"] = range(len(frame))
  if 0 < sample <= len(frame):
    frame = frame.sample(n=sample, random_state=42).reset_index(drop=True)
  instruction, lead = SENTENCES[kind]
  result = []
  for _, row in frame.iterrows():
    _, history, target, _ = rows[row["number"]]
    # The target of Game is what pandas read, that of Movie is looked up.
    shown = str(row["target"]) if through_pandas else target
    quoted = ", ".join('"' + title + '"' for title in history)
    result.append(
      {
        "instruction": instruction,
        "input": lead + quoted + "\n ",
        "output": '"' + shown + '"',
      }
    )
  with open(path, "w") as file:
    json.dump(result, file, indent=4)
