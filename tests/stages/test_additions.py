"""Items of `data.catalogue_add`: embedded once, listed by whoever comes."""

import dataclasses
import json
import shutil

import pytest

from bigrec_jax import errors
from bigrec_jax.data.prepared import editions
from bigrec_jax.stages import embed, recommend, session
from bigrec_jax.workdir import paths as paths_lib
from tests import demo_workdir

pytestmark = pytest.mark.slow


def config(path, **keys):
  own = demo_workdir.config(injection="popularity", gamma="0.5", **keys)
  data = dataclasses.replace(own.data, catalogue_add=str(path))
  return dataclasses.replace(own, data=data)


def current(root):
  own = session.Session(demo_workdir.config(), root)
  return editions.Store(
    paths_lib.Paths(root), own.catalogue.fingerprint
  ).current()


def test_new_items_are_embedded_and_listed(evaluated_demo, tmp_path, capsys):
  root = tmp_path / "demo"
  shutil.copytree(evaluated_demo, root)
  before = demo_workdir.snapshot(root / "embeddings")
  new = tmp_path / "new.csv"
  new.write_text("item,title\nnew1,Moon Harbour IX\nnew2,Velvet Quest\n")
  embed.run(config(new), root)
  assert "2 items added" in capsys.readouterr().out
  assert current(root).titles == ("Moon Harbour IX", "Velvet Quest")
  embed.run(config(new), root)  # Nothing is left to do.
  assert current(root).number == 1
  assert demo_workdir.snapshot(root / "embeddings") == before

  # A mode that reads adds what its command names, and lists it at once.
  new.write_text("item,title\nnew3,Silver Dawn\nnew2,Velvet Quest\n")
  ids = tmp_path / "ids.txt"
  ids.write_text("new1\nnew2\nnew3\n")
  output = tmp_path / "lists.jsonl"
  keys = {"history": ("new3",), "allow": str(ids), "output": str(output)}
  recommend.run(config(new, **keys), root)
  (row,) = map(json.loads, output.read_text().splitlines())
  listed = [item["external_id"] for item in row["recommendations"]]
  assert sorted(listed) == ["new1", "new2"]  # new3 is of the history.
  assert all(item["popularity"] == 0 for item in row["recommendations"])
  assert row["provenance"]["catalogue"] == current(root).fingerprint
  assert current(root).number == 2

  new.write_text("item,title\nnew1,Another Title\n")
  with pytest.raises(errors.UserError, match="line 2.title: 'Another Title'"):
    embed.run(config(new), root)
