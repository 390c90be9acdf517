"""Raw files full of what real ones have: ties, duplicates, odd titles."""

import json
import pathlib

import numpy as np

ODD_TITLES = (
  "Pokémon &amp; Friends",
  " Leading blank",
  "Trailing blank ",
  'A "quoted" one',
  "Comma, and 'apostrophe'",
  'Has the separator", "inside',
  "None",
  "NA",
  "1.0",
  "True",
  "Same title",
  "Same title",
  "<span>markup</span>",
  "back\\slash",
  "日本語のゲーム",
  "emoji 🎮",
  "tab\there",
)


def titles(number: int) -> list[str]:
  """Returns `number` titles, the odd ones first."""
  plain = [f"Title {n} ({1950 + n % 60})" for n in range(number)]
  return [*ODD_TITLES, *plain][:number]


def movielens(
  folder: pathlib.Path, *, encoding: str = "utf-8", seed: int = 0
) -> pathlib.Path:
  """Writes ratings.dat and movies.dat with ties and users of 1..40 ratings."""
  rng = np.random.default_rng(seed)
  folder.mkdir(parents=True, exist_ok=True)
  names = [t for t in titles(60) if "::" not in t]
  if encoding != "utf-8":
    names = [t.encode("latin-1", "replace").decode("latin-1") for t in names]
  lines = [f"{3 * n + 1}::{t}::Drama|Comedy\n" for n, t in enumerate(names)]
  (folder / "movies.dat").write_text("".join(lines), encoding=encoding)
  ratings = []
  for user in rng.permutation(60) + 1:
    for _ in range(rng.integers(1, 41)):
      movie = 3 * rng.integers(len(names)) + 1
      # Few different times, so that ties abound within and between users.
      time = 900_000_000 + int(rng.integers(0, 50))
      ratings.append(f"{user}::{movie}::{rng.integers(1, 11) / 2}::{time}\n")
  # The rows of a user are not all together.
  middle = len(ratings) // 3
  ratings = ratings[middle:] + ratings[:middle]
  (folder / "ratings.dat").write_text("".join(ratings))
  return folder


def amazon(folder: pathlib.Path, *, seed: int = 0) -> pathlib.Path:
  """Writes Video_Games_5.json and meta_Video_Games.json."""
  rng = np.random.default_rng(seed)
  folder.mkdir(parents=True, exist_ok=True)
  names = [*titles(50), "", "x", "", "y"]
  items = [f"B{n:05d}" for n in range(len(names))]
  meta = [{"asin": i, "title": t} for i, t in zip(items, names, strict=True)]
  meta.append({"asin": "UNREVIEWED", "title": "Nobody has it"})
  meta.append({"asin": items[20], "title": "A second title counts"})
  meta.append({"asin": items[21], "title": ""})
  _lines(folder / "meta_Video_Games.json", meta)
  reviews = []
  for user in range(70):
    for _ in range(rng.integers(1, 22)):
      reviews.append(
        {
          "overall": float(rng.integers(1, 6)),
          "reviewerID": f"A{user}",
          "asin": items[rng.integers(len(items))],
          "reviewText": "fine 👍",
          "unixReviewTime": 1_400_000_000 + 86_400 * int(rng.integers(0, 30)),
        }
      )
  for number in rng.permutation(len(reviews))[:9]:
    del reviews[number][("overall", "unixReviewTime")[number % 2]]
  reviews = [reviews[n] for n in rng.permutation(len(reviews))]
  _lines(folder / "Video_Games_5.json", reviews)
  return folder


def _lines(path: pathlib.Path, values: list[dict]) -> None:
  path.write_text("".join(json.dumps(value) + "\n" for value in values))
