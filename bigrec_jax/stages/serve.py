"""A finished workdir behind HTTP."""

import pathlib

from absl import logging

from bigrec_jax import config as config_lib, errors
from bigrec_jax.recommend import choice, listing
from bigrec_jax.stages import graph, recommend, train
from bigrec_jax.stages.session import Asked, Session, say
from bigrec_jax.workdir import processes

_LEAST_ROOM = 1024


def run(
  config: config_lib.Config, workdir: pathlib.Path, asked: Asked | None = None
) -> None:
  """Serves until it is stopped (SIGTERM, Ctrl-C); see docs/serve.md.

  It uses what the workdir has; --make makes what is missing.

  Raises:
    UserError: something is missing, or the address can't be had.
  """
  session = Session(config, workdir, asked)
  session.lists_editions = True
  if processes.are_several():
    raise errors.UserError(
      "--mode=serve: several processes found, one that has all devices of its"
      " machine expected; several servers with a proxy before them share load"
    )
  session.make(STAGE, reads=True)


def _check(session: Session) -> None:
  choice.check(session)
  train.check_used(session)


def _build(session: Session, made_from: graph.Inputs) -> None:
  del made_from
  from bigrec_jax.serving import app, engine, keeper, logs, served, server

  config = session.config.serve
  token, sock = server.token(config), server.listen(config)
  with sock:
    recommender = recommend.recommender(session, served.Served, _spare(session))
    if note := recommend.chosen_for(session).note:
      say(f"serve: {note}")
    if not token and server.is_open(config.host):
      logging.warning(
        "serve: %s is open to other machines, and no token is asked for"
        " (config.serve.token_file)",
        config.host,
      )
    logs.set_up()
    own = engine.Engine(recommender, config)
    its = keeper.Keeper(own, session.paths)
    host, port = sock.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    server.run(
      app.App(own, its, token),
      own,
      sock,
      lambda: say(f"serve: http://{shown}:{port} (ready: /health/ready)"),
    )


def _spare(session: Session) -> int:
  """Returns for how many items there is room beyond those of now."""
  wanted = session.config.serve.spare_items
  chosen = recommend.chosen_for(session).chosen
  if not listing.grows(chosen) or session.config.generate.has_prior:
    return 0
  if wanted >= 0:
    return wanted
  return max(_LEAST_ROOM, len(session.offered) // 8)


STAGE = graph.Stage(
  name="serve",
  mode="serve",
  where=lambda session: session.paths.root,
  needs=recommend.needed,
  inputs=lambda session: {},
  differs=lambda session: [graph.EVERY_TIME],
  build=_build,
  check=_check,
  quiet=True,
  batches=("generate.batch_size", "embed.batch_size"),
)
