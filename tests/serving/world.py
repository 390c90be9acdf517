"""A server's parts in this process, on one device, of the tiny demo."""

import dataclasses
import pathlib

import jax
import pytest

from bigrec_jax import config as config_lib
from bigrec_jax.recommend import (
  choice,
  finished,
  loaded as loaded_lib,
  remembered,
)
from bigrec_jax.serving import app, engine, keeper, served
from bigrec_jax.workdir import paths as paths_lib

TOKEN = "a secret of the tests"


class World:
  """Recommender, engine and application; constrained, so that tries change.

  Attributes:
    served: the recommender that the engine asks.
    engine: running.
    app: of it.
  """

  def __init__(self, root: pathlib.Path, spare: int = 40):
    paths = paths_lib.Paths(root)
    mesh = config_lib.MeshConfig(1, 1, 1)
    own = remembered.config(paths, "popularity", 0.7, mesh)
    self.config = dataclasses.replace(
      own,
      generate=dataclasses.replace(
        own.generate, constrained=True, max_new_tokens=64
      ),
      serve=dataclasses.replace(
        own.serve,
        max_batch=4,
        queue=32,
        prompt_buckets=(256,),
        max_history=own.data.max_history,
        max_k=10,
        max_wait_ms=0.0,
      ),
    )
    self.root = root
    self.served = self.load(served.Served, spare)
    self.engine = engine.Engine(self.served, self.config.serve)
    self.keeper = keeper.Keeper(self.engine, paths)
    self.app = app.App(self.engine, self.keeper, TOKEN)
    self.engine.start(lambda: None)

  def load(self, kind, spare=0):
    """Returns a recommender of the workdir as it is now."""
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(jax, "devices", lambda *_: jax.local_devices()[:1])
      loaded = loaded_lib.Loaded(self.config, self.root)
      finished.check_base(loaded)
      adapter = finished.find_adapter(loaded)
      chosen = choice.choose(loaded, loaded.adapter_fingerprint(adapter)).chosen
      items = finished.load_embeddings(loaded)
      return kind(loaded, adapter, items, chosen, spare)

  def wait(self, seconds: float = 300.0) -> None:
    """Returns once everything is compiled."""
    waited = 0.0
    while not self.engine.ready.wait(0.5):
      waited += 0.5
      if self.engine.failure is not None:
        raise self.engine.failure
      assert waited < seconds

  def close(self) -> None:
    """Ends the threads."""
    self.engine.stop()
    assert self.engine.join(30)
