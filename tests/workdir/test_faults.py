"""What the file system refuses, whoever notices: an OSError with the file."""

import errno
import os
import pathlib
import resource
import shutil

import numpy as np
import pytest
import safetensors.numpy
import tokenizers

from bigrec_jax import errors
from bigrec_jax.models import tensor_files
from bigrec_jax.results import writer
from bigrec_jax.workdir import checkpoints, faults, parts, storage

FULL = os.strerror(errno.ENOSPC)


@pytest.fixture
def no_room():
  """No file of this process may have more than 2,000 bytes."""
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
  yield
  resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _json(path):
  storage.write_json(path, ["x" * 5000])


def _numpy(path):
  with storage.atomic_path(path) as temporary, open(temporary, "wb") as file:
    np.save(file, np.ones(5000))


def _tokenizer(path):
  words = {str(n): n for n in range(2000)}
  model = tokenizers.models.WordLevel(words, unk_token="0")
  with storage.atomic_path(path) as temporary:
    tokenizers.Tokenizer(model).save(str(temporary))


def _safetensors(path):
  with storage.atomic_path(path) as temporary:
    safetensors.numpy.save_file({"a": np.ones(5000)}, temporary)


def _own_tensors(path):
  header = [("a", np.dtype(np.float32), (5000,))]
  tensor_files.write_file(path, header, lambda _: np.ones(5000, np.float32))


def _folder(path):
  with tensor_files.atomic_directory(path) as temporary:
    storage.write_json(temporary / "x.json", ["x" * 5000])


def _curve(path):
  with writer.MetricsWriter(path, None, None) as curve:
    for step in range(1000):
      curve.write(step, {"loss": 0.5})


def _orbax(path):
  with checkpoints.Checkpoints(path, keep=1) as saved:
    state = {"a": np.random.default_rng(0).normal(size=5000)}
    saved.save(1, state, {}, {})


WRITERS = {
  "JSON": _json,
  "numpy": _numpy,
  "tokenizers": _tokenizer,
  "safetensors": _safetensors,
  "own tensors": _own_tensors,
  "folder": _folder,
  "curve": _curve,
  "Orbax": _orbax,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_writer_without_room_names_its_file(tmp_path, no_room, name):
  path = tmp_path / "made.json"
  with pytest.raises(OSError) as caught:
    WRITERS[name](path)
  line = faults.line(caught.value)
  if name == "numpy":  # It doesn't say why.
    assert line.startswith(f"{path}: not written in whole (")
  else:
    assert line == f"{path}: {os.strerror(errno.EFBIG)}"
  left = [p.name for p in tmp_path.iterdir() if p != path]
  assert not left, left


def test_what_was_there_stays(tmp_path, no_room):
  path = tmp_path / "made.json"
  for name in ("JSON", "numpy", "tokenizers", "safetensors"):
    path.write_text("precious")
    with pytest.raises(OSError):
      WRITERS[name](path)
    assert path.read_text() == "precious"


def test_events_that_cannot_be_written_stop_nothing(tmp_path, no_room):
  with writer.MetricsWriter(tmp_path / "x.jsonl", tmp_path / "e", 0) as curve:
    for step in range(200):
      curve.write_events(step, {"loss": 0.5})
    curve.write(1, {"loss": 0.5})
  assert writer.read_jsonl(tmp_path / "x.jsonl")
  (tmp_path / "file").write_text("precious")
  with writer.MetricsWriter(
    tmp_path / "x.jsonl", tmp_path / "file", None
  ) as curve:
    curve.write(1, {"loss": 0.5})
  assert (tmp_path / "file").read_text() == "precious"


NATIVE = {
  "TensorStore": ValueError(
    'RESOURCE_EXHAUSTED: Error writing "x": Failed writing: "/d/1": Failed to'
    f" write 2533 bytes to file 10: {FULL} [os_error_code='28']"
  ),
  "safetensors": Exception(f"Error while serializing: {FULL} (os error 28)"),
  "ArrayRecord": RuntimeError(f"INTERNAL: fwrite: {FULL}"),
  "shutil": shutil.Error([("a", "b", f"[Errno 28] {FULL}: 'b'")]),
  "wrapped": RuntimeError("saving failed"),
}
NATIVE["wrapped"].__cause__ = OSError(errno.ENOSPC, FULL)


@pytest.mark.parametrize("name", NATIVE)
def test_a_librarys_words_are_the_systems(name):
  found = faults.as_os_error(NATIVE[name])
  assert found is not None and found.errno == errno.ENOSPC
  with pytest.raises(OSError) as caught, faults.writing("/made"):
    raise NATIVE[name]
  if name != "shutil":  # It knows the file.
    assert faults.line(caught.value) == f"/made: {FULL}"


@pytest.mark.parametrize(
  "error",
  [
    ValueError("shapes differ"),
    errors.UserError(f"x.json: {os.strerror(errno.EISDIR)}"),
    KeyError("x"),
  ],
)
def test_what_is_no_fault_of_the_system_stays_what_it_is(error):
  assert faults.as_os_error(error) is None
  with pytest.raises(type(error)), faults.writing("/made"):
    raise error


def test_an_error_about_another_file_keeps_its_name(tmp_path):
  with pytest.raises(FileNotFoundError) as caught:
    with storage.atomic_path(tmp_path / "made"):
      pathlib.Path(tmp_path / "source").read_bytes()
  assert "source" in faults.line(caught.value)


def test_a_folder_where_the_file_belongs_is_named(tmp_path):
  (tmp_path / "made").mkdir()
  with pytest.raises(OSError) as caught:
    storage.write_json(tmp_path / "made", 1)
  assert faults.line(caught.value).startswith(f"{tmp_path / 'made'}: ")


def test_parts_without_room_say_what_is_kept(tmp_path, no_room):
  work = parts.Parts(tmp_path / "made.parts", "work")
  work.add("first", 1)
  work.flush()
  work.add("second", "x" * 5000)
  with pytest.raises(errors.UserError, match="made.parts: .*before is kept"):
    work.flush()
  again = parts.Parts(tmp_path / "made.parts", "work")
  assert [part.facts for part in again.read("first")] == [1]
  assert list(again.read("second")) == []
