from bigrec_jax.workdir import fingerprints, records


def test_current_only_with_the_same_origin_and_all_files(tmp_path):
  record, file = tmp_path / "record.json", tmp_path / "artefact"
  origin = {"train": {"seed": 0, "buckets": (1, 2)}, "data": "abc"}
  assert not records.is_current(record, origin, file)
  file.write_text("x")
  assert records.differences(record, origin) == ["not made yet"]
  records.write_record(record, origin)
  assert records.is_current(record, origin, file)
  changed = {"train": {"seed": 1, "buckets": (1, 2)}, "data": "abc"}
  assert records.differences(record, changed) == ["train.seed: 0 -> 1"]
  assert not records.is_current(record, changed, file)
  file.unlink()
  assert not records.is_current(record, origin, file)


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
