"""What a mesh gives is compared with what one device gives, and told."""

import dataclasses
import json
import math
import sys

import jax
import numpy as np
import pytest

from bigrec_jax import config as config_lib, errors
from bigrec_jax.devices import sharding
from bigrec_jax.models import embedding
from bigrec_jax.rankers import counting
from bigrec_jax.selfcheck import child, comparison, meshes, programs, run, world
from bigrec_jax.stages import selfcheck, session
from configs import common

ALL = {check.name: check for check in programs.CHECKS}


@pytest.fixture(scope="module")
def small():
  """A network of one layer, two steps."""
  with pytest.MonkeyPatch.context() as patch:
    arch = dataclasses.replace(world._ARCH, num_hidden_layers=1)
    patch.setattr(world, "_ARCH", arch)
    patch.setattr(world, "STEPS", 2)
    yield


@pytest.fixture(scope="module")
def reference(small):
  """The world, and what every check gives on one device."""
  made = world.World(config(), 8)
  return made, run.on_one(made)


@pytest.fixture
def only(small, monkeypatch):
  """Leaves a few checks."""

  def leave(*names):
    monkeypatch.setattr(programs, "CHECKS", tuple(ALL[n] for n in names))

  return leave


def config(**mesh):
  tree = common.get_config()
  tree.mesh.update(mesh)
  return config_lib.from_config_dict(tree)


def mesh_of(**sizes):
  return {
    "mixed": sharding.make_mesh(config_lib.MeshConfig(**sizes), jax.devices())
  }


def test_meshes_agree(only, reference):
  """On one mesh that splits all there is to split; others: `test_the_mode`."""
  names = ["train int8 + bfloat16", "constrained beams", "embeddings"]
  only(*names)
  made, expected = reference
  places = mesh_of(data=2, fsdp=2, tensor=2)
  rows = list(run.on_meshes(made, places, expected))
  assert [row.check for row in rows] == names
  for row in rows:
    assert row.agrees, row
    assert row.mesh == "mixed 2x2x2" and row.devices == 8


def test_what_is_compared_is_worth_comparing(reference):
  """An adapter that learns, several beams, ranks of every injection."""
  made, found = reference
  assert list(found) == list(ALL)
  losses = found["train float32"]["losses"]
  assert np.isfinite(losses).all() and losses[-1] < losses[0]
  texts = found["beams"]["texts"]
  assert len({tuple(beam) for beam in texts.reshape(-1, texts.shape[2])}) > 20
  titles = found["constrained beams"]["texts"]
  known = {tuple(ids) for ids in _sequences(made)}
  assert {
    tuple(t[t >= 0]) for t in titles.reshape(-1, titles.shape[2])
  } <= known
  assert len(set(found["ranks"]["ranks"])) > 20


def test_a_configuration_of_titles_only_is_checked_like_any():
  """Its mesh and seed count, and not what it decodes and minimises."""
  tree = common.get_config()
  tree.generate.update(constrained=True, prior="sasrec", lookahead=4)
  tree.train.update(
    objective="legal_tokens", train_on_inputs=False, temperature=1.5
  )
  made = world.World(config_lib.from_config_dict(tree), 8).config
  plain = world.World(config(), 8).config
  assert made.train == plain.train
  assert not made.generate.has_prior and made.generate.lookahead == 2


def _sequences(made):
  trie = made.trie()

  def below(node, so_far):
    first, past = trie.first_child[node], trie.first_child[node + 1]
    if first == past:
      yield so_far
    for n in range(first, past):
      yield from below(n, (*so_far, trie.tokens[n]))

  return below(0, ())


def _lose_a_row(monkeypatch):
  """A batch that arrives without its first row where it is split."""
  put = sharding.put_batch

  def broken(mesh, tree):
    if mesh.size > 1:
      tree = {
        name: np.concatenate([0 * x[:1], x[1:]]) if name == "loss_mask" else x
        for name, x in tree.items()
      }
    return put(mesh, tree)

  monkeypatch.setattr(sharding, "put_batch", broken)


def _turn_items(monkeypatch):
  """Vectors that lie where other items' titles are."""
  put = counting.put_items

  def broken(array, layout, mesh):
    if isinstance(array, np.ndarray) and array.ndim == 2:
      array = np.roll(array, mesh.size - 1, axis=0)
    return put(array, layout, mesh)

  monkeypatch.setattr(counting, "put_items", broken)


def _turn_texts(monkeypatch):
  """Rows that come back in another order."""
  put = embedding._put

  def broken(mesh, array):
    return put(mesh, np.roll(array, mesh.size - 1, axis=0))

  monkeypatch.setattr(embedding, "_put", broken)


def _lose_a_rule(monkeypatch):
  monkeypatch.delitem(sharding.RULES, "mlp")


@pytest.mark.parametrize(
  ("check", "broken", "words"),
  [
    ("train float32", _lose_a_row, "DIFFERS in grad_norms"),
    ("ranks", _turn_items, "DIFFERS in ranks"),
    ("embeddings", _turn_texts, "DIFFERS in vectors"),
    ("embeddings", _lose_a_rule, "FAILED: ValueError: no sharding rule covers"),
  ],
)
def test_a_broken_mesh_is_told(
  only, reference, monkeypatch, check, broken, words
):
  only("collectives", check)
  made, expected = reference
  broken(monkeypatch)
  places = mesh_of(data=2, fsdp=2, tensor=2)
  right, wrong = run.on_meshes(made, places, expected)
  assert right.agrees and not wrong.agrees
  assert words in comparison.render([right, wrong])
  last = comparison.verdict([right, wrong], "8 devices")
  assert last == (
    f"selfcheck: 1 of 2 checks DIFFER (8 devices): {check} on mixed 2x2x2"
  )


@pytest.mark.parametrize(
  ("found", "expected", "difference"),
  [
    ([1.0, -math.inf], [1.0, -math.inf], 0.0),
    ([3.0], [2.0], 0.5),  # Of the value, where it is larger than 1.
    ([0.5], [0.25], 0.25),
    ([math.nan], [1.0], None),
    ([math.nan], [math.nan], None),
    ([math.inf], [1.0], None),
    ([1.0], [-math.inf], None),
    ([1.0, 2.0], [1.0], None),
    ([], [], 0.0),
  ],
)
def test_difference(found, expected, difference):
  found = comparison.difference(np.array(found), np.array(expected))
  assert found == difference


def test_what_is_allowed():
  found = {"a": np.array([1.00002]), "b": np.array([3])}
  expected = {"a": np.array([1.0]), "b": np.array([3])}
  tolerances = {"a": 1e-5, "b": 0.0}

  def agrees(at_least):
    both = comparison.compare(found, expected, tolerances, at_least)
    return comparison.Row("c", "m", 1, *both, 0.0).agrees

  assert not agrees(0.0) and agrees(1e-3)
  found["b"] = np.array([4])
  assert not agrees(1e-3)  # Exact stays exact.


@pytest.mark.parametrize("devices", range(1, 17))
def test_meshes_are_of_all_devices(devices):
  found = meshes.of_count(devices)
  assert bool(found) == (devices > 1)
  for sizes in found.values():
    assert sizes.data * sizes.fsdp * sizes.tensor == devices
  assert ("tensor" in found) == (devices % 2 == 0)


_ROW_KEYS = {field.name for field in dataclasses.fields(comparison.Row)}


@pytest.mark.parametrize("agree", [True, False])
def test_the_mode(only, monkeypatch, tmp_path, capsys, agree):
  only("collectives", "ranks")
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
  if not agree:
    right = programs.lists

    def wrong(made, mesh):
      found = right(made, mesh)
      return found | {"scores": found["scores"] + (mesh.shape["fsdp"] == 8)}

    lists = dataclasses.replace(ALL["lists"], run=wrong)
    monkeypatch.setattr(programs, "CHECKS", (ALL["collectives"], lists))
  own = config(data=4, fsdp=2)
  status = selfcheck.run(own, tmp_path / "run")
  assert status == (0 if agree else 1)
  written = json.loads((tmp_path / "run" / "selfcheck.json").read_text())
  assert set(written) == {
    "schema",
    "agree",
    "versions",
    "devices",
    "forced_cpu_devices",
    "seconds",
    "rows",
  }
  assert written["schema"] == selfcheck.SCHEMA and written["agree"] is agree
  assert {"python", "jax", "jaxlib", "flax"} <= set(written["versions"])
  assert written["devices"] == {
    "platform": "cpu",
    "kind": jax.devices()[0].device_kind,
    "count": 8,
    "processes": 1,
    "memory": [{}] * 8,
  }
  assert all(set(row) == _ROW_KEYS | {"agrees"} for row in written["rows"])
  wrong = [row for row in written["rows"] if not row["agrees"]]
  assert [row["mesh"] for row in wrong] == ([] if agree else ["fsdp 1x8x1"])
  printed = capsys.readouterr().out
  assert "config 4x2x1" in printed and "writes to the workdir" in printed
  last = printed.strip().splitlines()[-1]
  assert last.startswith("selfcheck: all " if agree else "selfcheck: 1 of ")
  assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
    "selfcheck.json"
  ]


def test_a_folder_that_cannot_be_written_to_is_a_row(
  only, monkeypatch, tmp_path, capsys
):
  only("collectives")
  (tmp_path / "file").touch()
  cache = tmp_path / "file" / "cache"
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(cache))
  assert selfcheck.run(config(), tmp_path / "run") == 1
  printed = capsys.readouterr().out
  assert f"FAILED: {cache}" in printed or "FAILED: " in printed
  assert "writes to the compilation cache" in printed.splitlines()[-1]
  assert selfcheck.run(config(), tmp_path / "file") == 1
  assert (tmp_path / "file").read_bytes() == b""


def test_a_mesh_that_does_not_fit_and_a_dry_run(only, tmp_path, capsys):
  only("collectives")
  with pytest.raises(errors.UserError, match="config.mesh: .* devices 8"):
    selfcheck.run(config(data=3), tmp_path / "run")
  asked = session.Asked(dry_run=True)
  assert selfcheck.run(config(), tmp_path / "dry", asked) == 0
  assert not (tmp_path / "dry").exists()
  assert "selfcheck.json" in capsys.readouterr().out


def test_one_device_is_compared_in_another_process(
  only, monkeypatch, tmp_path, capsys
):
  """The other process's part here; then what this one makes of its rows."""
  only("collectives", "lists")
  made = world.World(config(), child.DEVICES)
  found = run.on_one(made)
  path = tmp_path / "found.npz"
  arrays = {f"{c}|{k}": v for c, a in found.items() for k, v in a.items()}
  np.savez(path, **arrays)
  settings = {"config": config().to_dict(), "found": str(path), "name": "TPU"}
  child.main(json.dumps(settings))
  printed = capsys.readouterr().out
  rows = json.loads(printed)
  assert {row["mesh"] for row in rows} == {
    "data 8x1x1",
    "fsdp 1x8x1",
    "tensor 1x1x8",
    "mixed 2x2x2",
    "TPU",
  }
  assert all(row["agrees"] for row in rows)
  stub = tmp_path / "python"
  (tmp_path / "rows.json").write_text(printed)
  stub.write_text(
    f"#!/bin/sh\nhead -n 1 > {tmp_path}/in\ncat {tmp_path}/rows.json\n"
  )
  stub.chmod(0o755)
  monkeypatch.setattr(sys, "executable", str(stub))
  kept = child.run(config().to_dict(), found, "TPU")
  assert [row.to_json() for row in kept] == rows
  assert json.loads((tmp_path / "in").read_text())["name"] == "TPU"
  stub.write_text("#!/bin/sh\nexit 3\n")
  (failed,) = child.run(config().to_dict(), None, "cpu")
  assert not failed.agrees and "status 3" in failed.problem
