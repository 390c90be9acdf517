"""Every number of the configuration has a range, and nothing else gets in."""

import math

import numpy as np
import pytest

from bigrec_jax import config as config_lib, errors
from bigrec_jax.config import checks
from configs import common

# Made from the configuration: a number without a range is a TypeError here.
RANGES = checks.ranges(config_lib.Config)


def numbers_of(node, prefix=""):
  """Yields the keys of the defaults that hold numbers."""
  for name, value in node.items():
    if hasattr(value, "items"):
      yield from numbers_of(value, f"{prefix}{name}.")
    elif any(
      isinstance(one, (int, float)) and not isinstance(one, bool)
      for one in (value if isinstance(value, tuple) else [value])
    ):
      yield prefix + name


def given(key, value):
  """Builds the defaults with one value, whatever its type."""
  config = common.get_config()
  section, _, name = f".{key}".rpartition(".")
  node = config
  for part in section.split(".")[1:]:
    node = node[part]
  with node.unlocked():
    del node[name]  # Else True would become 1.0, and is so in config files.
    node[name] = value
  return config_lib.from_config_dict(config)


def refused(key, value):
  with pytest.raises(errors.UserError) as caught:
    given(key, value)
  line = str(caught.value)
  assert line.startswith(f"config.{key}: ") and "\n" not in line
  assert " found, " in line and line.endswith(" expected")
  assert len(line) < 400
  return line


def test_all_numbers_of_the_defaults_have_a_range():
  assert set(numbers_of(common.get_config())) <= set(RANGES)
  assert len(RANGES) > 90


@pytest.mark.parametrize("key", RANGES)
def test_nothing_outside_its_range_gets_in(key):
  kind, allowed = RANGES[key]
  several = kind not in (int, float)
  whole = kind in (int, tuple[int, ...])
  step = 1 if whole else max(1e-9, 1e-9 * abs(allowed.most))
  below = allowed.least - step
  if below == allowed.also:
    below -= step
  wrong = [
    below,
    allowed.most if allowed.below else allowed.most + step,
    math.nan,
    math.inf,
    -math.inf,
    np.float32("nan"),
    True,
    None,
    "1",
    "many",
    1j,
    [[1]],
    {"a": 1},
    -(2**63),
    *([2**63] if allowed.most < 2**63 else []),
    10**400,
    -(10**5000),
  ]
  if whole:
    wrong += [1.5, 1e3, np.float64(2.0), "1e3"]
  for value in wrong:
    line = refused(key, (value,) if several else value)
    assert allowed.described("a whole number" if whole else "a number") in line
  if several:
    refused(key, 1)
    refused(key, "1")
    refused(key, (1, math.nan))
  else:
    refused(key, (1,))


@pytest.mark.parametrize("key", RANGES)
def test_the_ends_of_a_range_are_in_it(key):
  kind, allowed = RANGES[key]
  whole = kind in (int, tuple[int, ...])
  own = np.int64 if whole else np.float64
  ends = [allowed.least, math.nextafter(allowed.most, 0)]
  if not allowed.below:
    ends[1] = allowed.most
  for end in [*ends, *([] if allowed.also is None else [allowed.also])]:
    value = (own(end),) if kind not in (int, float) else own(end)
    try:
      given(key, value)
    except errors.UserError as error:
      # What fits alone may not fit another key.
      assert allowed.described("") not in str(error), error


def test_a_number_in_place_of_a_word_or_a_section_is_refused():
  for key in ("model.path", "data.format", "ground.gamma_grid"):
    assert "a text expected" in refused(key, 3)
  for key in ("train.packing", "generate.sample"):
    assert "True or False expected" in refused(key, 1)
    assert "True or False expected" in refused(key, "False")
  assert "a section with" in refused("train", 3)
  assert "a section with" in refused("model.arch", None)
  assert "a tuple expected" in refused("lora.target_modules", "q_proj")
  assert "a text expected" in refused("lora.target_modules", (1,))
  assert "a text expected" in refused("recommend.history", (None,))


@pytest.mark.parametrize(
  "text",
  ["nan", "inf", "0,nan", "1e6001", "-1", "0,,1", "", ",", "1;2", "2000000"],
)
def test_numbers_in_words_have_their_range_too(text):
  assert "movie_ci" in refused("ground.gamma_grid", text)
  config = common.get_config()
  config.recommend.injection = "popularity"
  config.recommend.gamma = text
  with pytest.raises(errors.UserError, match=r"config\.recommend\.gamma: "):
    config_lib.from_config_dict(config)


def test_a_whole_number_is_a_number():
  built = given("train.learning_rate", 1)
  assert built.train.learning_rate == 1.0
  assert isinstance(built.train.learning_rate, float)
  assert given("bm25.k1", [1, 2]).bm25.k1 == (1.0, 2.0)
  assert type(given("seed", np.int32(3)).seed) is int
