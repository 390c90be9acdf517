"""The heads' scores of a split's candidates, and what each costs.

Users go through one program a head, whose operations XLA counts. What is kept
for all users (pieces after the first layers, the items' tower) is made before,
and not counted again for each of them.

Letters: N users, M candidates, R users of a program, A titles, E width of the
towers, D width of the network.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bigrec_jax import errors
from bigrec_jax.config import Config, HeadsConfig
from bigrec_jax.data.text import packing
from bigrec_jax.devices import sharding
from bigrec_jax.models import LanguageModel, own_weights
from bigrec_jax.tasks import protocol
from bigrec_jax.tasks.heads import heads, late, samples
from bigrec_jax.training import answers, step

LIKELIHOOD = "likelihood, untuned"
ALL_ITEMS = "towers, all items"
Tree = Any
_CHUNK = 512  # Positions of a device whose logits are held at once.


class Scored(NamedTuple):
  """What a head makes of a split.

  Attributes:
    scores: [N, M] float32.
    gflops: billions of operations a user.
  """

  scores: np.ndarray
  gflops: float


class Heads:
  """The tuned model and what all splits share."""

  def __init__(
    self, tuned: protocol.Tuned, clicks: samples.Clicks, config: Config
  ):
    """Tokenises the pieces.

    Args:
      tuned: network, adapter and the heads' weights.
      clicks: of any split, for prompt and titles.
      config: sections task.heads, train and generate.

    Raises:
      UserError: the batch doesn't divide over the mesh.
    """
    network = tuned.network
    self._network, self._config = network, config
    self._own = config.task.heads
    self._rows = config.generate.batch_size
    sharding.check_batch(network.mesh, self._rows, "config.generate.batch_size")
    self._variables = {
      "params": network.params,
      **own_weights.collections(
        own_weights.prepare(network.model, tuned.adapter)
      ),
    }
    self.pieces = samples.Pieces(clicks.texts, network.tokenizer)

  @functools.cached_property
  def _table(self) -> jax.Array:
    """The states of all pieces after the first layers, [2 + A, W, D]."""
    titles = self.pieces.candidates
    pieces = [*self.pieces.tokens[: samples.FIRST], *titles]
    own = self._network.model, self._variables, pieces
    layers, mesh = self._own.late_layers, self._network.mesh
    return late.table(*own, layers, self._rows, mesh)

  @functools.cached_property
  def item_vectors(self) -> np.ndarray:
    """The items' tower, [A, E] of length 1."""
    run = functools.partial(item_towers, self._network.model, self._variables)
    texts = self.pieces.candidates
    found = [
      np.asarray(run(block))
      for block in late.blocks(texts, self._rows, self._network.mesh)
    ]
    return np.concatenate(found)[: len(texts)]

  def user_vectors(self, clicks: samples.Clicks, bar: Any) -> Scored:
    """Returns the users' tower [N, E], and what it costs a user."""
    program = functools.partial(user_towers, config=self._own)
    return self._run(program, (self._variables,), clicks, self._own.width, bar)

  def scores(self, head: str, clicks: samples.Clicks, bar: Any) -> Scored:
    """Returns the scores [N, M] of a head, and what they cost a user.

    Args:
      head: its name, or LIKELIHOOD.
      clicks: of a split.
      bar: told of every user done.
    """
    if head == "towers":
      vectors, cost = self.user_vectors(clicks, bar)
      chosen = clicks.drawn(range(len(clicks)))  # [N, M]
      found = np.einsum("ne,nme->nm", vectors, self.item_vectors[chosen])
      products = 2e-9 * self._own.width * chosen.shape[1]
      return Scored(found / self._own.temperature, cost + products)
    if head == LIKELIHOOD:
      base = {"params": self._variables["params"]}
      # Titles alone: what the base would write, with its full stop.
      plain = self.pieces.tokens[samples.FIRST :]
      return self._run(likelihoods, (base,), clicks, clicks.size, bar, plain)
    program = functools.partial(head_scores, head=head, config=self._own)
    given = self._variables, self._table if head == "late" else None
    return self._run(program, given, clicks, clicks.size, bar)

  def _run(
    self,
    program: Callable[..., jax.Array],
    given: tuple[Any, ...],
    clicks: samples.Clicks,
    width: int,
    bar: Any,
    titles: Sequence[Sequence[int]] | None = None,
  ) -> Scored:
    """Runs a program over all users; results [R, width] come back.

    Args:
      program: of this module; takes the model, `given` and a batch.
      given: what all batches share.
      clicks: of the users.
      width: of a result.
      bar: told of every user done.
      titles: tokens of candidates; None = as heads read them.
    """
    model, cost = self._network.model, 0.0
    found = np.zeros((len(clicks), width), np.float32)
    for batch, where in self._batches(clicks, titles):
      if not cost:  # The longest prompts come first.
        cost = gflops(program, model, *given, batch) / self._rows
      part, used = np.asarray(program(model, *given, batch)), where >= 0
      found[where[used]] = part[used]
      bar.update(int(used.sum()))
    broken = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if broken.size:
      row = int(broken[0])
      raise errors.NonFiniteError(
        row,
        "scores that are NaN or infinite found, finite ones expected; look at"
        " the adapter's and the base's weights and at config.model.dtype",
        clicks.name(row),
      )
    return Scored(found, cost)

  def _batches(
    self,
    clicks: samples.Clicks,
    titles: Sequence[Sequence[int]] | None,
  ) -> Iterator[tuple[Mapping[str, jax.Array], np.ndarray]]:
    """Yields batches on the mesh, and whose each of their rows is, [R]."""
    tokenizer, train = self._network.tokenizer, self._config.train
    if titles is None:
      layout = clicks.layout(tokenizer, train, self._rows)
    else:
      own = self.pieces, titles, tokenizer.pad_id
      layout = clicks.laid_out(*own, train, self._rows)
    share = jax.process_index(), jax.process_count()
    for batch in layout(range(len(clicks))):
      own_rows = packing.shard_rows(batch, *share)
      yield step.put_batch(self._network.mesh, own_rows), batch["samples"]


def gflops(
  program: Callable[..., jax.Array], model: LanguageModel, *given: Any
) -> float:
  """Returns the billions of operations of a call, on all its devices together.

  Of the program before it is compiled, so that neither mesh nor platform
  matters; without loops, whose bodies XLA counts once.

  Args:
    program: of this module.
    model: the network.
    *given: what it is called with.
  """
  lower: Any = program
  fixed: dict[str, Any] = {}
  if isinstance(program, functools.partial):
    lower, fixed = program.func, program.keywords
  if lower is likelihoods:
    fixed = {"chunk": given[-1]["answer_tokens"].size}
  flat = model.clone(unrolled=True)
  return lower.lower(flat, *given, **fixed).cost_analysis()["flops"] / 1e9


def _whole(x: jax.Array, model: LanguageModel) -> jax.Array:
  """Makes an array whole on every device, so that each host can read it."""
  if model.mesh is None:
    return x
  return jax.lax.with_sharding_constraint(x, sharding.replicated(model.mesh))


@functools.partial(jax.jit, static_argnames=("model", "head", "config"))
def head_scores(
  model: LanguageModel,
  variables: Mapping[str, Tree],
  table: jax.Array | None,
  batch: Mapping[str, jax.Array],
  *,
  head: str,
  config: HeadsConfig,
) -> jax.Array:
  """Returns a head's scores [R, M]; see `heads.Reader.scores`."""
  mesh = model.mesh
  reader = heads.Reader(*model.executable(variables), config, mesh)
  return _whole(reader.scores(head, batch, table), model)


@functools.partial(jax.jit, static_argnames=("model", "config"))
def user_towers(
  model: LanguageModel,
  variables: Mapping[str, Tree],
  batch: Mapping[str, jax.Array],
  *,
  config: HeadsConfig,
) -> jax.Array:
  """Returns the users' tower [R, E]."""
  mesh = model.mesh
  reader = heads.Reader(*model.executable(variables), config, mesh)
  return _whole(reader.user_vectors(batch), model)


@functools.partial(jax.jit, static_argnames=("model", "chunk"))
def likelihoods(
  model: LanguageModel,
  variables: Mapping[str, Tree],
  batch: Mapping[str, jax.Array],
  *,
  chunk: int | None = None,
) -> jax.Array:
  """Returns the base's mean log-probabilities a token [R, M].

  Args:
    model: maybe with an adapter, which is left out.
    variables: the base.
    batch: with titles alone.
    chunk: positions of a prompt's candidates whose logits are held at once.
  """
  bare = model.clone(lora=None)
  chunk = chunk or max(1, _CHUNK // batch["tokens"].shape[0])
  found = answers.mean_logs(bare, variables, batch, None, chunk, model.mesh)
  return _whole(found, model)


@functools.partial(jax.jit, static_argnames="model")
def item_towers(
  model: LanguageModel,
  variables: Mapping[str, Tree],
  block: tuple[jax.Array, jax.Array],
) -> jax.Array:
  """Returns the items' tower [B, E] of texts [B, W]."""
  network, own = model.executable(variables)
  hidden = network.apply(own, *late.inputs(block), True)
  last = (block[1] - 1)[:, None, None]
  states = jnp.take_along_axis(hidden, last, axis=1)[:, 0]
  states = states.astype(jnp.float32)
  towers = variables["own"]["towers"]
  return _whole(heads.unit(jnp.matmul(states, towers["item"])), model)
