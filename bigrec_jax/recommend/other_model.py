"""Language models without an adapter: the base, or another one beside it.

Another one, such as a chat model, is a Hugging Face directory or a GGUF file
of its own. What has to be converted of it is kept in a folder of its own, too:
beside the base's it would take the base's place.
"""

import dataclasses
import pathlib

from bigrec_jax.data.text import chat
from bigrec_jax.recommend import loaded as loaded_lib
from bigrec_jax.tasks import protocol
from bigrec_jax.workdir import fingerprints


def network(own: loaded_lib.Loaded, path: str) -> protocol.Network:
  """Returns a model on the mesh of a workdir, without an adapter.

  Args:
    own: the workdir.
    path: of the model; "" = the workdir's base.
  """
  loaded = _loaded(own, path)
  return dataclasses.replace(loaded.network(loaded.base.model), mesh=own.mesh)


def fingerprint(own: loaded_lib.Loaded, path: str) -> str:
  """Returns what names its weights, their precision, tokenizer and template."""
  loaded = _loaded(own, path)
  template = chat.template(loaded.tokenizer_dir)
  return fingerprints.of_value([loaded.base_fingerprint, template])


def _loaded(own: loaded_lib.Loaded, path: str) -> loaded_lib.Loaded:
  if path in ("", own.config.model.path):
    return own
  model = dataclasses.replace(
    own.config.model, path=path, tokenizer="", adapter=""
  )
  # Its prompts are those of a dialogue, whatever the base's are.
  prompt = dataclasses.replace(own.config.prompt, style="consistent")
  config = dataclasses.replace(own.config, model=model, prompt=prompt)
  folder: pathlib.Path = own.paths.other_model
  found = loaded_lib.Loaded(config, folder)
  found.keeps_conversions = own.keeps_conversions
  # One mesh: what is made for one of two equal ones would be made again.
  found.__dict__["mesh"] = own.mesh
  return found
