import pytest

from tests.launch import stubs


@pytest.fixture
def machine(tmp_path):
  """A machine of stubs."""
  return stubs.Machine(tmp_path)
