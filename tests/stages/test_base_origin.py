"""Results on a dequantised copy of a model say so, wherever they are shown."""

import dataclasses
import shutil
import types

import pytest

from bigrec_jax import errors
from bigrec_jax.results import ground_file, quality_sections, run_data
from bigrec_jax.stages import ground_eval
from bigrec_jax.workdir import origins, paths as paths_lib, storage
from tests import demo_workdir

ORIGIN = {
  "file": "tiny.gguf",
  "general": {"name": "Tiny", "license": "mit"},
  "quantisation": {"Q4_1": 11},
  "dequantised_to": "float32",
}
LINE = origins.describe(ORIGIN)


def test_table_file_and_report_name_the_copy(evaluated_demo, tmp_path, capsys):
  root = tmp_path / "workdir"
  shutil.copytree(evaluated_demo, root)
  base = tmp_path / "base"
  shutil.copytree(root / "base", base)
  storage.write_json(base / origins.FILE, ORIGIN)
  before = storage.read_json(paths_lib.Paths(root).ground_eval)
  assert "base_origin" not in before
  paths_lib.Paths(root).ground_eval.unlink()
  config = demo_workdir.config()
  model = dataclasses.replace(config.model, path=str(base))
  ground_eval.run(dataclasses.replace(config, model=model), root)
  assert f"a dequantised copy of {LINE}" in capsys.readouterr().out
  after = storage.read_json(paths_lib.Paths(root).ground_eval)
  assert after.pop("base_origin") == ORIGIN
  # A confidence reads distances to the last bit; the rows read their order.
  assert set(after.pop("confidence")) == set(before.pop("confidence"))
  assert after == before  # The rows are what they were.
  html = str(quality_sections.results(run_data.load(root)))
  assert f"a dequantised copy of {LINE}." in html


def test_a_damaged_origin_is_named(evaluated_demo):
  file = paths_lib.Paths(evaluated_demo).ground_eval
  value = storage.read_json(file) | {"base_origin": {"file": "x"}}
  with pytest.raises(errors.UserError, match="f.json: base_origin"):
    ground_file.GroundFile.from_json(value, "f.json:")


@pytest.mark.parametrize(
  ("own_encoder", "given", "likelihood", "reads"),
  [
    (True, "x.json", 0, False),
    (True, "x.json", 20, True),  # It scores the titles.
    (True, "", 0, True),
    (False, "x.json", 0, True),
  ],
)
def test_what_reads_the_base(own_encoder, given, likelihood, reads):
  config = demo_workdir.config(likelihood=likelihood)
  paths = dataclasses.replace(
    config.ground.predictions, valid=given, test=given
  )
  ground = dataclasses.replace(config.ground, predictions=paths)
  session = types.SimpleNamespace(
    config=dataclasses.replace(config, ground=ground),
    has_own_encoder=own_encoder,
  )
  assert ground_eval._reads_base(session) is reads
