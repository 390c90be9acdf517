"""A base where there is none: tokenizer, small LLaMA, trained from scratch."""

import pathlib
import shutil

from absl import logging

from bigrec_jax import config as config_lib
from bigrec_jax.recommend import gguf_base
from bigrec_jax.stages import prepare, session
from bigrec_jax.workdir import processes, records

# A sample is enough for a small vocabulary; BPE training is not linear.
_TOKENIZER_EXAMPLES = 5000


def run(config: config_lib.Config, workdir: pathlib.Path) -> None:
  """Makes `base/`, a Hugging Face directory, unless `model.path` names one."""
  ensure(session.Session(config, workdir))


def ensure(run: session.Session) -> None:
  """Makes the base where `model.path` is empty and `base/` is not current."""
  prepare.ensure(run)
  config = run.config
  if not run.first_time("base"):
    return
  if config.model.path:
    # Here, where every process passes, a GGUF file is converted.
    if origin := run.base_origin:
      session.say(f"base: {gguf_base.describe(origin)}")
    return
  made_from = {
    "arch": config.to_dict()["model"]["arch"],
    "pretrain": config.to_dict()["pretrain"],
    "prompt": config.to_dict()["prompt"],
    "seed": config.seed,
    "data": run.manifest["fingerprint"],
  }
  record = run.paths.record("base")
  if records.is_current(
    record, made_from, run.paths.base / "model.safetensors"
  ):
    session.say(f"pretrain: {run.paths.base} is current")
    return
  records.drop_and_tell(
    record, made_from, lambda line: logging.info("pretrain: %s", line)
  )
  _make(run)
  records.write_record(record, made_from)


def _make(run: session.Session) -> None:
  from bigrec_jax import models
  from bigrec_jax.data.text import pipeline, tokenization
  from bigrec_jax.models import hf_export, hf_import
  from bigrec_jax.training import pretrain

  config, paths = run.config, run.paths
  corpus = run.task.corpus()
  read = min(len(corpus), _TOKENIZER_EXAMPLES)
  texts = [corpus.text(n).training for n in range(read)]
  texts = [*texts, *run.catalogue.titles]
  folder = paths.root / ".tokenizer"
  processes.on_first(
    lambda: tokenization.train_bpe(texts, config.pretrain.vocab_size, folder)
  )
  tokenizer = tokenization.load_tokenizer(folder)
  arch = models.from_arch(config.model.arch, tokenizer.vocab_size)
  model = models.build(arch, config.model, None, run.mesh)
  params = hf_import.init_base(arch, config.seed, "float32", run.mesh)
  if config.pretrain.num_steps:
    stream = pipeline.text_stream(
      corpus,
      tokenizer,
      batch_size=config.pretrain.batch_size,
      max_length=config.pretrain.max_length,
      seed=config.seed,
    )
    with run.stage("pretrain", config.pretrain.num_steps, "steps") as progress:
      params = pretrain.pretrain(
        model, params, stream, config.pretrain, run.mesh, run.paths, progress
      )
  hf_export.save_base(paths.base, arch, params, folder)
  processes.on_first(lambda: shutil.rmtree(folder))
