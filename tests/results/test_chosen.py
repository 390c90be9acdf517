"""What valid likes best, out of a file of ground_eval, and kept in another."""

import dataclasses

import pytest

from bigrec_jax import errors
from bigrec_jax.results import chosen, ground_file, rows
from bigrec_jax.workdir import storage

KS = {"5": 0.0, "20": 0.0}


def _row(split, injection, protocol, gamma, ndcg=0.0):
  by_cutoff = {"5": 1.0, "20": ndcg}
  return rows.MetricRow(split, injection, protocol, gamma, by_cutoff, KS, {})


def _curve(*values):
  series = {"5": (9.0, 9.0), "20": values}
  return ground_file.Curve((0.0, 2.0), series, series)


def _ground(plain, popularity, cf, both, pair):
  """NDCG@20 on valid of each; test's are the other way about."""
  names = ("popularity", "cf", "popularity+cf")
  two = {"popularity": 0.0, "cf": 7.0}
  return ground_file.GroundFile(
    9,
    {"valid": 3, "test": 3},
    {"base": "b"},
    [_row("test", "none", "bigrec", None, 1 - plain)]
    + [_row("test", name, "single_gamma", 2.0) for name in names]
    + [_row("test", "popularity+cf", "two_gammas", two)]
    + [_row("valid", "none", "bigrec", None, plain)],
    [rows.BaselineRow("cf", "test", KS, KS, {})],
    {
      name: _curve(0.0, best)
      for name, best in zip(names, (popularity, cf, both), strict=True)
    },
    {
      "popularity+cf": ground_file.Pairs(
        (0.0, 0.0, 2.0), (2.0, 7.0, 2.0), {"20": (cf, pair, both)}
      )
    },
  )


def _anything(name):
  return True


@pytest.mark.parametrize(
  ("values", "injection", "gamma"),
  [
    ((0.5, 0.1, 0.2, 0.3, 0.4), "none", {}),
    ((0.1, 0.5, 0.2, 0.3, 0.4), "popularity", {"popularity": 2.0}),
    ((0.1, 0.2, 0.5, 0.3, 0.5), "cf", {"cf": 2.0}),  # The plainest of equals.
    (
      (0.1, 0.2, 0.3, 0.5, 0.5),
      "popularity+cf",
      {"popularity": 2.0, "cf": 2.0},
    ),
    (
      (0.1, 0.2, 0.3, 0.4, 0.5),
      "popularity+cf",
      {"popularity": 0.0, "cf": 7.0},
    ),
  ],
)
def test_valid_chooses_and_the_file_keeps_it(
  tmp_path, values, injection, gamma
):
  path = tmp_path / "metrics" / "ground_eval.json"
  storage.write_json(path, _ground(*values).to_json())
  found = ground_file.read(path)
  assert found.chosen_by == "20"
  best = chosen.best(found, "sasrec", _anything)
  assert (best.injection, best.gamma) == (injection, gamma)
  assert best.cf_model == ("sasrec" if "cf" in injection else "")
  chosen.write(tmp_path / "chosen.json", best, "20", {"base": "b"})
  assert chosen.read(tmp_path / "chosen.json") == (best, {"base": "b"})


def test_an_injection_that_is_not_wanted_is_not_chosen():
  found = _ground(0.1, 0.2, 0.3, 0.4, 0.5)
  best = chosen.best(found, "", lambda name: "cf" not in name)
  assert best.injection == "popularity" and best.report == 2.0
  assert chosen.best(found, "", lambda name: False) == chosen.NOTHING
  assert chosen.NOTHING.report is None and chosen.NOTHING.parts == ()


def test_a_file_of_an_earlier_version_is_read():
  content = _ground(0.1, 0.2, 0.3, 0.4, 0.5).to_json()
  del content["schema"], content["gamma_pairs"]
  content["results"] = [
    row for row in content["results"] if row["protocol"] != "two_gammas"
  ]
  found = ground_file.GroundFile.from_json(content, "here:")
  assert [one.ndcg for one in chosen.candidates(found)] == [0.1, 0.2, 0.3, 0.4]
  # Where 20 isn't reported the largest cutoff decides.
  small = dataclasses.replace(found, results=[_row("valid", "cf", "x", None)])
  object.__setattr__(small.results[0], "ndcg", {"3": 0.1, "10": 0.2})
  assert small.chosen_by == "10"


@pytest.mark.parametrize(
  ("change", "said"),
  [
    (
      {"gamma": {"popularity": 1.0}},
      "gamma: .* found, one for each part of cf",
    ),
    ({"gamma": 2.0}, "gamma: 2.0 found, an object expected"),
    ({"schema": 2}, "schema 2 found, 1 expected"),
    ({"cf_model": None}, "cf_model: None found, a text expected"),
  ],
)
def test_a_choice_that_is_none_is_refused(tmp_path, change, said):
  path = tmp_path / "chosen.json"
  chosen.write(path, chosen.Chosen("cf", {"cf": 1.0}, "sasrec"), "20", {})
  storage.write_json(path, storage.read_json(path) | change)
  with pytest.raises(errors.UserError, match=f"chosen.json: {said}"):
    chosen.read(path)


def _with_systems(**ndcg):
  """A file whose systems have these NDCG@20 on valid, by name."""
  names = {name.replace("_", " "): value for name, value in ndcg.items()}
  systems = [
    rows.BaselineRow(name, split, {"5": 1.0, "20": own}, KS, {})
    for name, value in names.items()
    for split, own in (("test", 1 - value), ("valid", value))
  ]
  fitted = {
    "all beams": {"rest": 0.1},
    "calibrated fusion": {"parameters": {"parts": ["text", "sasrec"]}},
    "somebody's": {},
  }
  found = _ground(0.1, 0.2, 0.3, 0.4, 0.5)
  return dataclasses.replace(found, systems=systems, fitted=fitted)


@pytest.mark.parametrize(
  ("ndcg", "system", "fitted", "model"),
  [
    ({"all_beams": 0.5}, "", {}, "sasrec"),  # The plainest of equals.
    ({"all_beams": 0.6}, "all beams", {"rest": 0.1}, ""),
    (
      {"all_beams": 0.6, "calibrated_fusion": 0.7},
      "calibrated fusion",
      {"parts": ["text", "sasrec"]},
      "sasrec",
    ),
    # What nobody makes lists with is never chosen.
    ({"somebody's": 0.9, "all_beams": 0.6}, "all beams", {"rest": 0.1}, ""),
  ],
)
def test_a_system_that_valid_likes_better_is_chosen_and_kept(
  tmp_path, ndcg, system, fitted, model
):
  found = _with_systems(**ndcg)
  best = chosen.best(found, "sasrec", _anything)
  assert (best.system, best.fitted) == (system, fitted)
  assert best.models_in_use == ((model,) if model else ())
  # The injection stays, for whoever reads no systems.
  assert best.plain == chosen.best(
    _ground(0.1, 0.2, 0.3, 0.4, 0.5), "sasrec", _anything
  )
  path = tmp_path / "chosen.json"
  chosen.write(path, best, "20", {"base": "b"})
  assert chosen.read(path) == (best, {"base": "b"})
  assert ("system" in storage.read_json(path)) == bool(system)
  without = chosen.best(found, "sasrec", lambda name: name != system)
  assert without.system != system or not system


def test_a_fusion_of_several_models_keeps_their_names(tmp_path):
  fitted = {"parameters": {"parts": ["text", "item_knn", "caser", "bm25"]}}
  found = dataclasses.replace(
    _with_systems(calibrated_fusion=0.9), fitted={"calibrated fusion": fitted}
  )
  best = chosen.best(found, "sasrec", _anything)
  # The injection that is second best is of a model of its own.
  assert best.models == ("sasrec", "item_knn", "caser")
  assert best.models_in_use == ("item_knn", "caser")
  assert best.plain.models_in_use == best.plain.models == ("sasrec",)
  chosen.write(tmp_path / "chosen.json", best, "20", {})
  assert chosen.read(tmp_path / "chosen.json")[0] == best


def test_a_choice_knows_what_it_hangs_on():
  by_text = chosen.Chosen("none", {}, "", "likelihood", {"parts": ["text"]})
  assert by_text.asks_the_model and not by_text.counts_popularity
  parts = {"parts": ["text", "popularity"], "likelihood": 0}
  fused = chosen.Chosen("cf", {"cf": 1.0}, "sasrec", "calibrated fusion", parts)
  assert fused.counts_popularity and not fused.asks_the_model
  assert not fused.models_in_use and not fused.plain.counts_popularity


def test_a_system_of_a_later_version_is_refused(tmp_path):
  path = tmp_path / "chosen.json"
  chosen.write(path, chosen.NOTHING, "20", {})
  storage.write_json(path, storage.read_json(path) | {"system": "oracle"})
  with pytest.raises(errors.UserError, match="system: 'oracle' found, one of"):
    chosen.read(path)
