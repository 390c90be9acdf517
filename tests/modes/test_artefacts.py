from bigrec_jax.modes import artefacts


def test_current_only_with_the_same_origin_and_all_files(tmp_path):
  record, file = tmp_path / "record.json", tmp_path / "artefact"
  origin = {"train": {"seed": 0, "buckets": (1, 2)}, "data": "abc"}
  assert not artefacts.is_current(record, origin, file)
  file.write_text("x")
  assert artefacts.differences(record, origin) == ["not made yet"]
  artefacts.write_record(record, origin)
  assert artefacts.is_current(record, origin, file)
  changed = {"train": {"seed": 1, "buckets": (1, 2)}, "data": "abc"}
  assert artefacts.differences(record, changed) == ["train.seed: 0 -> 1"]
  assert not artefacts.is_current(record, changed, file)
  file.unlink()
  assert not artefacts.is_current(record, origin, file)


def test_folder_fingerprint_sees_content_and_names(tmp_path):
  (tmp_path / "a.bin").write_bytes(b"1")
  first = artefacts.folder_fingerprint(tmp_path, "*.bin")
  (tmp_path / "a.bin").write_bytes(b"2")
  second = artefacts.folder_fingerprint(tmp_path, "*.bin")
  (tmp_path / "a.bin").rename(tmp_path / "b.bin")
  third = artefacts.folder_fingerprint(tmp_path, "*.bin")
  assert len({first, second, third}) == 3


def test_folder_fingerprint_of_a_large_file_reads_its_ends(tmp_path):
  large = bytearray(3 << 20)
  (tmp_path / "a.bin").write_bytes(large)
  first = artefacts.folder_fingerprint(tmp_path, "*.bin")
  large[-1] = 1
  (tmp_path / "a.bin").write_bytes(large)
  assert artefacts.folder_fingerprint(tmp_path, "*.bin") != first
