import types

import pytest

from bigrec_jax import config as config_lib, errors
from bigrec_jax.tasks import protocol, registry
from configs import common


def _store(name):
  values = common.get_config()
  values.task.name = name
  if name == "heads":  # Which has no language model's loss.
    values.train.objective, values.train.train_on_inputs = "heads", False
  return types.SimpleNamespace(config=config_lib.from_config_dict(values))


@pytest.mark.parametrize("name", registry.MODULES)
def test_every_task_is_found_by_its_name(name):
  task = registry.make(_store(name))
  assert isinstance(task, protocol.Task)
  assert task.name == name


def test_an_unknown_task_is_named_with_the_known_ones():
  with pytest.raises(errors.UserError, match="'yesno' found, one of next_titl"):
    registry.make(_store("yesno"))
