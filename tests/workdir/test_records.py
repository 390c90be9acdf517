import pytest

from bigrec_jax.workdir import fingerprints, records


def test_a_record_says_which_inputs_differ(tmp_path):
  record = tmp_path / "record.json"
  origin = {"train": {"seed": 0, "buckets": (1, 2)}, "data": "abc"}
  assert records.differences(record, origin) == ["not made yet"]
  records.rewrite(record, origin, None)
  assert records.differences(record, origin) == []
  changed = {"train": {"seed": 1, "buckets": (1, 2)}, "data": "abc"}
  assert records.differences(record, changed) == ["train.seed: 0 -> 1"]
  records.drop_record(record)
  assert records.differences(record, origin) == ["not made yet"]


def test_a_section_covers_its_keys_and_no_others():
  keys = {"train", "data.seed"}
  assert records.covers(keys, "train.seed") and records.covers(keys, "train")
  assert records.covers(keys, "data.seed")
  assert not records.covers(keys, "train_examples")
  assert not records.covers(keys, "data")


def test_folder_fingerprint_sees_content_and_names(tmp_path):
  (tmp_path / "a.bin").write_bytes(b"1")
  first = fingerprints.of_folder(tmp_path, "*.bin")
  (tmp_path / "a.bin").write_bytes(b"2")
  second = fingerprints.of_folder(tmp_path, "*.bin")
  (tmp_path / "a.bin").rename(tmp_path / "b.bin")
  third = fingerprints.of_folder(tmp_path, "*.bin")
  assert len({first, second, third}) == 3


def test_folder_fingerprint_of_a_large_file_reads_its_ends(tmp_path):
  large = bytearray(3 << 20)
  (tmp_path / "a.bin").write_bytes(large)
  first = fingerprints.of_folder(tmp_path, "*.bin")
  large[-1] = 1
  (tmp_path / "a.bin").write_bytes(large)
  assert fingerprints.of_folder(tmp_path, "*.bin") != first


@pytest.mark.parametrize(
  "content",
  [b"", b"{", b"null", b"[]", b'"x"', b"1", b'{"a": NaN}', b"\xff\xfe", b"\0"],
)
def test_half_a_record_is_none(tmp_path, content):
  record = tmp_path / "record.json"
  record.write_bytes(content)
  assert records.read(record) is None
  assert records.stored_content(record) is None
  assert records.differences(record, {"a": 1}) == ["not made yet"]
  record.unlink()
  record.mkdir()
  assert records.differences(record, {"a": 1}) == ["not made yet"]


def test_what_files_hold_is_no_input(tmp_path):
  record = tmp_path / "record.json"
  records.rewrite(record, {"a": 1}, {"files": {}})
  assert records.read(record) == {"a": 1}
  assert records.differences(record, {"a": 1}) == []
  assert records.stored_content(record) == {"files": {}}
