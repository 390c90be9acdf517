"""A base where there is none: tokenizer, small LLaMA, trained from scratch."""

import pathlib
import shutil
from collections.abc import Iterator

from bigrec_jax import config as config_lib
from bigrec_jax.recommend import gguf_base
from bigrec_jax.stages import graph, prepare
from bigrec_jax.stages.session import Asked, Session, say
from bigrec_jax.workdir import given_models, origins, processes, records

# A sample is enough for a small vocabulary; BPE training is not linear.
_TOKENIZER_EXAMPLES = 5000
# What changes how training runs but not what comes out of it.
_RUNTIME_KEYS = ("save_every_steps",)
# Files of a base that somebody reads; a README beside them is nobody's.
_KINDS = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")


def run(
  config: config_lib.Config, workdir: pathlib.Path, asked: Asked | None = None
) -> None:
  """Makes `base/`, a Hugging Face directory, unless `model.path` names one."""
  session = Session(config, workdir, asked)
  session.make(*needed(session))


def needed(session: Session) -> Iterator[graph.Stage]:
  """Yields what whoever reads the base needs: data, and a base if ours.

  Raises:
    UserError: `model.path` names nothing that could be a base.
  """
  _check_base(session)
  yield prepare.STAGE
  if session.config.model.is_gguf:
    yield GGUF
  elif not session.config.model.path:
    yield STAGE


def _check_base(session: Session) -> None:
  model = session.config.model
  if model.path:
    given_models.check_base(model.path)
  if model.tokenizer:
    given_models.check_tokenizer(model.tokenizer)
  if pathlib.Path(model.adapter).is_file():
    # Before anybody names its content; whoever uses one checks the rest.
    given_models.check_adapter(model.adapter)


def _inputs(session: Session) -> graph.Inputs:
  options = session.config.to_dict()
  return {
    "arch": options["model"]["arch"],
    "pretrain": {
      k: v for k, v in options["pretrain"].items() if k not in _RUNTIME_KEYS
    },
    "prompt": options["prompt"],
    "seed": session.config.seed,
    "data": session.manifest.fingerprint,
  }


def _cost(session: Session) -> graph.Cost:
  return graph.Cost(session.config.pretrain.num_steps, "steps", "pretrain")


def _build(session: Session, inputs: graph.Inputs) -> None:
  """Trains tokenizer and base; a kill costs the steps since a checkpoint."""
  from bigrec_jax import models
  from bigrec_jax.data.text import pipeline, tokenization
  from bigrec_jax.models import hf_export, hf_import
  from bigrec_jax.training import pretrain

  config, paths = session.config, session.paths
  corpus = session.task.corpus()
  parts = session.parts_path(STAGE.name, inputs)
  folder = parts / "tokenizer"
  processes.on_first(lambda: _make_tokenizer(session, folder))
  tokenizer = tokenization.load_tokenizer(folder)
  arch = models.from_arch(config.model.arch, tokenizer.vocab_size)
  model = models.build(arch, config.model, None, session.mesh)
  params = hf_import.init_base(arch, config.seed, "float32", session.mesh)
  if config.pretrain.num_steps:
    stream = pipeline.text_stream(
      corpus,
      tokenizer,
      batch_size=config.pretrain.batch_size,
      max_length=config.pretrain.max_length,
      seed=config.seed,
    )
    with session.stage(
      "pretrain", config.pretrain.num_steps, "steps"
    ) as progress:
      params = pretrain.pretrain(
        model,
        params,
        stream,
        config.pretrain,
        session.mesh,
        session.paths,
        progress,
        parts / "steps",
      )
  hf_export.save_base(paths.base, arch, params, folder)


def _make_tokenizer(session: Session, folder: pathlib.Path) -> None:
  """Trains the tokenizer, unless a run that was cut short did."""
  from bigrec_jax.data.text import tokenization

  if folder.exists():
    return
  corpus = session.task.corpus()
  read = min(len(corpus), _TOKENIZER_EXAMPLES)
  texts = [corpus.text(n).training for n in range(read)]
  texts = [*texts, *session.catalogue.titles]
  unfinished = folder.with_name("tokenizer.tmp")
  shutil.rmtree(unfinished, ignore_errors=True)
  tokenization.train_bpe(texts, session.config.pretrain.vocab_size, unfinished)
  unfinished.rename(folder)


STAGE = graph.Stage(
  name="base",
  mode="pretrain",
  where=lambda session: session.paths.base,
  needs=lambda session: (prepare.STAGE,),
  inputs=_inputs,
  is_there=lambda session: (session.paths.base / "model.safetensors").exists(),
  files=lambda session: [f"base/{kind}" for kind in _KINDS],
  build=_build,
  check=prepare.check_train_rows,
  batches=("pretrain.batch_size",),
  cost=_cost,
)


def _gguf_differs(session: Session) -> list[str]:
  model = session.config.model
  path, store = pathlib.Path(model.path), session.paths.converted_gguf
  is_there = gguf_base.place(path, model.dtype, store).is_dir()
  return [] if is_there else [records.NOT_MADE]


def _gguf_files(session: Session) -> list[str]:
  model, paths = session.config.model, session.paths
  own = gguf_base.place(
    pathlib.Path(model.path), model.dtype, paths.converted_gguf
  )
  return [f"{own.relative_to(paths.root).as_posix()}/*"]


def _convert(session: Session, _: graph.Inputs) -> None:
  model, store = session.config.model, session.paths.converted_gguf
  path = pathlib.Path(model.path)
  own = gguf_base.place(path, model.dtype, store)
  processes.on_first(lambda: shutil.rmtree(own, ignore_errors=True))
  gguf_base.directory(path, model.dtype, store)
  origin = session.base_origin
  if origin is not None:
    say(f"base: {origins.describe(origin)}, in {session.base_dir}")


GGUF = graph.Stage(
  name="gguf",
  mode="pretrain",
  where=lambda session: session.paths.converted_gguf,
  differs=_gguf_differs,
  files=_gguf_files,
  build=_convert,
  is_cache=True,
)
