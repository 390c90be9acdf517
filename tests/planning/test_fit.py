"""What a plan says about memory, and the search of the largest batch."""

import pytest

from bigrec_jax.planning import chips, compiling, fit

GIB = chips.GIB


def test_lines_say_what_fits_and_by_how_much_not():
  assert fit.line("train", 3 * GIB, 16 * GIB) == (
    "train: 3.00 GiB a device of 16.00 GiB: fits"
  )
  assert fit.line("train", 20 * GIB + GIB // 2, 16 * GIB) == (
    "train: 20.50 GiB a device of 16.00 GiB: does not fit, by 4.50 GiB"
  )
  assert "not known (config.plan.memory_gib)" in fit.line("train", GIB, None)


@pytest.mark.parametrize(
  "message",
  [
    "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in"
    " memory space hbm. Used 25.31G of 15.75G hbm. Exceeded hbm capacity by"
    " 9.56G.",
    "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM,"
    " the total memory required for HLO temporaries (25.31G) exceeds available"
    " HBM (15.75G). HLO module: jit_decode.",
  ],
)
def test_bytes_in_the_compilers_refusal(message):
  assert compiling.refused_bytes(message) == round(25.31 * GIB)
  assert compiling.refused_bytes("INVALID_ARGUMENT: a bug") is None
  memory = compiling.Memory(refused=10 * GIB, elsewhere=GIB)
  assert memory.peak == 11 * GIB


@pytest.mark.parametrize(
  "capacity, best", [(100, 8), (260, 24), (10_000, 128), (45, 0)]
)
def test_the_largest_batch_of_a_straight_line(capacity, best):
  asked = []

  def peak_of(rows):
    asked.append(rows)
    return 20 + 10 * rows

  found = fit.largest(peak_of, {8: 100}, 8, 128, capacity)
  assert found.rows == best
  assert found.peak == (20 + 10 * best if best else 0)
  assert len(asked) <= 3 and 8 not in asked
  assert all(rows % 8 == 0 and rows <= 128 for rows in asked)


def test_a_search_that_starts_too_large_comes_down():
  found = fit.largest(lambda rows: 20 + 10 * rows, {64: 660}, 8, 128, 300)
  assert (found.rows, found.peak) == (24, 260)


def test_the_programs_own_text_is_read_and_no_helpers(tmp_path):
  for name, text in [
    ("module_0000.jit_block.cl_1.after_optimizations.txt", "HloModule block"),
    ("module_0000.jit_block.cl_1.before_optimizations.txt", "too early"),
    ("module_0005.extracted.cl_1.after_optimizations.txt", "a helper"),
  ]:
    (tmp_path / name).write_text(text)
  assert compiling._text(None, tmp_path) == "HloModule block"
