import html.parser
import json
import pathlib
import re
import shutil
import xml.etree.ElementTree

import numpy as np
import pytest

from bigrec_jax import config as config_lib, errors
from bigrec_jax.results import metrics, run_data
from bigrec_jax.stages import report
from bigrec_jax.stages.session import Session
from bigrec_jax.workdir import paths as paths_lib, storage
from configs import common

CUTOFFS = (1, 3, 5, 10, 20, 50)
TITLES = [f"Velun Saga {n} <b>&amp;</b> - PC" for n in range(60)]
USERS = 200
VOID = {"meta", "link", "br", "hr", "img", "input"}


@pytest.fixture(scope="module")
def config() -> config_lib.Config:
  return config_lib.from_config_dict(common.get_config())


def _write_lines(path: pathlib.Path, rows: list[dict]) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _ground_eval(ranks: dict[str, np.ndarray], rng) -> dict:
  results = []
  for name, values in ranks.items():
    for protocol in ("bigrec", "single_gamma"):
      row = metrics.summarise(values, CUTOFFS)
      gamma = None
      if name != "none":
        by_k = {str(k): 2.0 for k in CUTOFFS}
        gamma = {"ndcg": by_k, "hr": by_k} if protocol == "bigrec" else 2.0
      ci = {
        m: {k: [v - 0.02, v + 0.02] for k, v in row[m].items()} for m in row
      }
      results.append(
        {"split": "test", "injection": name, "protocol": protocol}
        | row
        | {"gamma": gamma, "ci95": ci}
      )
  both = {"popularity": 1.0, "cf": 0.5}
  results.append(results[-1] | {"protocol": "two_gammas", "gamma": both})
  baselines = []
  for name, best in (
    ("random", 60),
    ("most_pop", 45),
    ("sasrec", 30),
    ("oracle", 12),
  ):
    drawn = rng.integers(0, best, USERS)
    baselines.append(
      {"name": name, "split": "test"} | metrics.summarise(drawn, CUTOFFS)
    )
  grid = [0.0, 0.1, 0.5, 1.0, 2.0, 5.0, 20.0, 99.0]
  curve = {
    metric: {
      str(k): [0.02 * k * np.exp(-((g - 2) ** 2) / 99) for g in grid]
      for k in CUTOFFS
    }
    for metric in ("ndcg", "hr")
  }
  return {
    "num_items": len(TITLES),
    "num_examples": {"valid": USERS, "test": USERS},
    "fingerprints": {"catalogue": "0123456789abcdef", "base": "fedcba98765432"},
    "results": results,
    "baselines": baselines,
    "gamma_curves": {"popularity": {"gamma": grid} | curve},
    "gamma_pairs": {
      "popularity+cf": {
        "popularity": [0.0, 0.0, 1.0, 1.0, 7.0],
        "cf": [0.0, 0.5, 0.0, 0.5, 0.0],
        "ndcg": {"20": [0.1, 0.2, 0.3, 0.4, 0.3]},
      }
    },
  }


@pytest.fixture(scope="module")
def whole(tmp_path_factory, config) -> pathlib.Path:
  """A workdir as a whole run leaves it, with made-up figures; reported."""
  paths = paths_lib.Paths(tmp_path_factory.mktemp("whole") / "run")
  rng = np.random.default_rng(3)
  target = rng.integers(0, len(TITLES), USERS)
  base = rng.integers(0, 40, USERS)
  ranks = {
    "none": base,
    "popularity": np.maximum(base - 5, 0),
    "popularity+cf": np.maximum(base - 9, 0),
  }
  paths.ranks.mkdir(parents=True)
  np.savez(paths.ranks / "test.npz", target=target, **ranks)
  storage.write_json(paths.ground_eval, _ground_eval(ranks, rng))
  _write_lines(
    paths.catalogue,
    [
      {"item": n, "external_id": f"X{n}", "title": t, "popularity": n * n % 50}
      for n, t in enumerate(TITLES)
    ],
  )
  _write_lines(
    paths.train_metrics,
    [
      {"step": n, "loss": 3 / n, "learning_rate": 1e-4, "grad_norm": 1.0}
      for n in range(1, 41)
    ]
    + [{"step": n, "eval_loss": 3.2 / n + n / 400} for n in (10, 20, 30, 40)],
  )
  _write_lines(
    paths.pretrain_metrics,
    [{"step": n, "loss": 7 / n**0.3} for n in range(1, 200)],
  )
  storage.write_json(
    paths.predictions("test"),
    [
      {
        "instruction": "i",
        "input": "history",
        "output": f'"{TITLES[t]}"',
        "predict": [f'"{TITLES[t]}"' if n % 4 else '"No such game"'],
        "scores": [-0.1],
      }
      for n, t in enumerate(target)
    ],
  )
  storage.write_json(
    paths.ground_examples,
    [
      {
        "history": TITLES[:4],
        "target": TITLES[5],
        "predict": ["<script>alert(1)</script>", TITLES[5]],
        "grounded": {"none": TITLES[2:7], "popularity": TITLES[3:8]},
        "rank": {"none": 3, "popularity": 2},
      }
    ]
    * 3,
  )
  storage.write_json(
    paths.throughput,
    {
      "train": {
        "count": 40,
        "unit": "steps",
        "seconds": 75.0,
        "per_second": 0.53,
      }
    },
  )
  storage.write_json(
    paths.manifest,
    {
      "fingerprint": "aa11bb22cc33dd44",
      "counts": {"items": 60, "users": 801},
      "splits": {"test": {"num_examples": 202, "num_overrides": 0}},
    },
  )
  storage.write_json(
    paths.doctor,
    {
      "format": "synthetic",
      "rules": [],
      "findings": [{"what": "users", "count": 7, "examples": []}],
      "checks": [],
      "notes": ["nothing <odd>"],
    },
  )
  storage.write_json(
    paths.record("adapter"), {"base": "00112233445566ff", "seed": 0}
  )
  report.run(config, paths.root)
  return paths.root


@pytest.fixture
def workdir(whole, tmp_path) -> pathlib.Path:
  """A copy of it to change, without the report."""
  copy = tmp_path / "run"
  shutil.copytree(whole, copy, ignore=shutil.ignore_patterns("report"))
  return copy


def _text(root: pathlib.Path) -> str:
  return (root / "report" / "index.html").read_text()


class _Balance(html.parser.HTMLParser):
  """Fails where a tag is closed that is not open; collects ids and links."""

  def __init__(self):
    super().__init__()
    self.open, self.ids, self.links, self.tags = [], [], [], set()

  def handle_starttag(self, tag, attrs):
    self.tags.add(tag)
    for name, value in attrs:
      if name == "id":
        self.ids.append(value)
      if name in ("href", "xlink:href", "src"):
        self.links.append(value)
    if tag not in VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.handle_starttag(tag, attrs)
    if tag not in VOID:
      self.open.pop()

  def handle_endtag(self, tag):
    assert self.open.pop() == tag


def _parse(text: str) -> _Balance:
  parser = _Balance()
  parser.feed(text)
  assert parser.open == []
  return parser


def test_page_stands_alone_and_is_well_formed(whole):
  text = _text(whole)
  parsed = _parse(text)
  assert len(parsed.ids) == len(set(parsed.ids))
  for link in parsed.links:
    assert link.startswith("#") and link[1:] in parsed.ids
  assert not parsed.tags & {"script", "link", "img", "iframe", "image"}
  assert not re.search(r"url\((?!#)|@import", text)
  assert text.count("<svg") == 5  # It has no tests and no examples.
  for svg in re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL):
    xml.etree.ElementTree.fromstring(svg)
  for used in re.findall(r"url\(#([^)]*)\)", text):
    assert used in parsed.ids


def test_titles_are_escaped(whole):
  text = _text(whole)
  assert "<script>" not in text and "<b>&amp;" not in text
  assert "Velun Saga 5 &lt;b&gt;&amp;amp;&lt;/b&gt; - PC" in text
  assert "&lt;script&gt;alert(1)" in text
  assert "nothing &lt;odd&gt;" in text


def test_figures_are_those_of_the_files(whole):
  text = _text(whole)
  ground = storage.read_json(whole / "metrics" / "ground_eval.json")
  for row in ground["results"] + ground["baselines"]:
    for metric in ("hr", "ndcg"):
      assert f"{row[metric]['10']:.4f}" in text
  # Every fourth of 200 first hypotheses is not a title.
  assert "75.0%" in text
  assert "SASRec" in text and "Oracle" in text and "Most popular" in text
  assert "BIGRec + popularity + CF, two gammas" in text
  assert "best of the 5 pairs that were tried" in text
  # The evaluation with the lowest loss, 3.2 / 40 + 40 / 400.
  assert "step 40, with 0.1800 on valid" in text
  for fact in (
    "1 min 15 s",
    "0123456789abcdef",
    "00112233445566ff",
    "aa11bb22cc33dd44",
    "801",
    "202",
  ):
    assert fact in text
  assert "This whole is not complete" not in text


def test_popularity_groups_split_the_users(whole):
  data = run_data.load(whole)
  popularity = run_data.target_popularity(data)
  target = np.load(whole / "ranks" / "test.npz")["target"]
  np.testing.assert_array_equal(popularity, [n * n % 50 for n in target])
  # The same from the titles alone, which are all different here.
  del data.ranks["target"]
  np.testing.assert_array_equal(run_data.target_popularity(data), popularity)
  text = _text(whole)
  rows = re.findall(
    r'<th scope="row">([^<]*)</th><td>(\d+)</td><td>([\d.]+)</td>', text
  )
  names = [row[0] for row in rows]
  assert names[0] == "never in train" and names[-1] == "most popular quarter"
  assert sum(int(row[1]) for row in rows) == USERS
  hits = sum(int(users) * float(rate) for _, users, rate in rows)
  ranks = np.load(whole / "ranks" / "test.npz")["none"]
  assert hits == pytest.approx((ranks < 10).sum(), abs=0.05)


@pytest.mark.parametrize(
  ("gone", "said"),
  [
    ("metrics/ground_eval.json", "test results of BIGRec"),
    ("metrics/train.jsonl", "metrics/train.jsonl"),
    ("predictions/test.json", "predictions/test.json"),
    ("ranks", "ranks of the test users"),
    ("data", "data/manifest.json"),
    ("metrics/throughput.json", "metrics/throughput.json"),
  ],
)
def test_missing_parts_are_said(config, workdir, gone, said):
  path = workdir / gone
  shutil.rmtree(path) if path.is_dir() else path.unlink()
  report.run(config, workdir)
  text = _text(workdir)
  _parse(text)
  assert "This workdir is not complete" in text and said in text


def test_each_part_alone_makes_a_page(config, workdir, tmp_path):
  for path in sorted(workdir.rglob("*")):
    if (
      path.is_file() and "records" not in path.parts and path.suffix != ".lock"
    ):
      alone = tmp_path / "alone" / path.name
      copy = alone / path.relative_to(workdir)
      copy.parent.mkdir(parents=True)
      shutil.copy(path, copy)
      report.run(config, alone)
      _parse(_text(alone))


def test_cf_results_are_found_in_their_own_file(workdir):
  row = {"hr": {"10": 0.25}, "ndcg": {"10": 0.125}}
  for version in ({}, {"schema": 1}):  # Before there was one, and now.
    content = version | {"gru4rec": {"seed": 0, "valid": row, "test": row}}
    storage.write_json(workdir / "metrics" / "cf.json", content)
    found = run_data.systems(run_data.load(workdir), "test")
    (system,) = [s for s in found if s.key == "gru4rec"]
    assert system.label == "GRU4Rec" and system.get("hr", 10) == 0.25
    # The copy of SASRec that ground_eval knows is not doubled.
    assert sum(s.key == "sasrec" for s in found) == 1
  ground = storage.read_json(workdir / "metrics" / "ground_eval.json")
  ground["baselines"].append({"name": "cf", "split": "test"} | row)
  storage.write_json(workdir / "metrics" / "ground_eval.json", ground)
  found = run_data.systems(run_data.load(workdir), "test")
  assert "cf_alone" not in [s.key for s in found]  # It is gru4rec.
  (same,) = [s for s in found if s.key == "gru4rec"]
  assert same.label == "GRU4Rec: CF scores alone" and same.row == "cf"
  storage.write_json(
    workdir / "metrics" / "cf.json", {"most_pop": {"test": row}}
  )
  found = run_data.systems(run_data.load(workdir), "test")
  assert sum(s.label == "Most popular" for s in found) == 1
  assert found[0].key == "random" and found[-1].key == "oracle"


def test_same_files_make_the_same_plots(config, whole, workdir):
  report.run(config, workdir)
  first, second = (
    re.findall(r"<svg.*?</svg>", _text(root), flags=re.DOTALL)
    for root in (whole, workdir)
  )
  assert first == second


def test_a_report_is_made_again_only_when_what_it_shows_changed(
  config, workdir, capsys
):
  page = paths_lib.Paths(workdir).report

  def made_again() -> bool:
    before = page.stat().st_mtime_ns
    Session(config, workdir).make(report.STAGE)
    return page.stat().st_mtime_ns != before

  Session(config, workdir).make(report.STAGE)
  assert not made_again()
  assert f"report: {page} is current" in capsys.readouterr().out
  path = paths_lib.Paths(workdir).predictions("test")
  rows = json.loads(path.read_text())
  path.write_text(json.dumps(rows[:-1]))
  assert made_again() and not made_again()
  page.write_text("another page")
  assert made_again() and not made_again()
  page.unlink()
  Session(config, workdir).make(report.STAGE)
  assert page.exists()


def test_empty_workdir_is_a_user_error(config, tmp_path):
  with pytest.raises(errors.UserError, match="pipeline"):
    report.run(config, tmp_path)
  assert not (tmp_path / "report").exists()


def test_a_whole_workdir_leaves_nothing_out(evaluated_demo):
  assert not run_data.load(evaluated_demo).damaged


@pytest.mark.parametrize(
  "name",
  [
    *("data/manifest.json", "data/doctor.json", "data/catalogue.jsonl"),
    *("metrics/ground_eval.json", "metrics/train.jsonl", "metrics/cf.json"),
    *("metrics/throughput.json", "predictions/test.json", "ranks/test.npz"),
    "ranks/test_examples.json",
  ],
)
def test_a_damaged_file_is_left_out_and_named(config, workdir, capsys, name):
  path = workdir / name
  path.parent.mkdir(exist_ok=True)
  path.write_text('{"results": [\n')
  report.run(config, workdir)
  assert f"left out, because damaged: {path}" in capsys.readouterr().out
  text = _text(workdir)
  _parse(text)
  assert "damaged and left out" in text and path.name in text


@pytest.mark.parametrize(
  ("change", "said"),
  [
    ({"num_items": "60"}, "num_items: '60' found, a whole number expected"),
    ({"schema": 9}, "schema 9 found, 1 expected"),
    ({"results": [{"split": "test"}]}, r"results\[0\]: split found, injection"),
    (
      {"gamma_curves": {"cf": {"gamma": [1], "ndcg": {"5": []}, "hr": {}}}},
      r"gamma_curves.cf.ndcg.5: 0 values found, 1, one for each",
    ),
  ],
)
def test_a_wrong_row_is_named(config, workdir, change, said, capsys):
  path = workdir / "metrics" / "ground_eval.json"
  storage.write_json(path, storage.read_json(path) | change)
  report.run(config, workdir)
  assert re.search(f"ground_eval.json: {said}", capsys.readouterr().out)
