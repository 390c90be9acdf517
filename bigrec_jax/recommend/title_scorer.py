"""How likely the tuned model finds titles, after a history and after none."""

import functools
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bigrec_jax import progress as reports
from bigrec_jax.data.text import encoding
from bigrec_jax.recommend import loaded as loaded_lib
from bigrec_jax.workdir import parts as parts_lib

if TYPE_CHECKING:
  from bigrec_jax.decoding import generate

# Of the users who are decoded side by side, so many are read at a time.
_SHARE = 4
# Titles of one reading of the prompt without history: what a kill may cost.
_TITLES = 128


class TitleScorer:
  """The tuned model, loaded once for any number of users and titles.

  A title is what constrained decoding writes (`decoding.constraints`): in
  quotes, special text as plain text, EOS at its end. So a score is the model's
  probability of writing exactly this title.
  """

  def __init__(self, loaded: loaded_lib.Loaded, adapter: pathlib.Path):
    """Loads base and adapter.

    Args:
      loaded: configuration and workdir.
      adapter: a PEFT directory.
    """
    self._loaded = loaded
    lora_config, self._lora = loaded.load_adapter(adapter)
    self._model = loaded.build(lora_config)
    self._lora = self._model.prepare(self._lora)

  def __call__(
    self,
    tokens: Sequence[Sequence[int]],
    candidates: np.ndarray,
    progress: reports.Reports,
    kept: parts_lib.Vectors | None = None,
    prefix: "generate.Prefix | None" = None,
  ) -> np.ndarray:
    """Returns log p(title | prompt) [N, M] float32, -inf where there is none.

    Args:
      tokens: [N] prompts.
      candidates: [N, M] catalogue rows, -1 = none.
      progress: told of every user done.
      kept: the users who were done before, and where others go.
      prefix: what all prompts begin with, where that was read before: calls
        that share it share their programs.

    Raises:
      NonFiniteError: the network gives NaN for a user.
    """
    from bigrec_jax.decoding import likelihood
    from bigrec_jax.devices import sharding

    loaded, config = self._loaded, self._loaded.config.generate
    rows, places = np.unique(candidates, return_inverse=True)
    places = places.reshape(candidates.shape)
    if rows[0] < 0:  # -1 is the first of the sorted.
      rows, places = rows[1:], places - 1
    unit = sharding.batch_size_unit(loaded.mesh)
    sharding.check_batch(
      loaded.mesh, config.batch_size, "config.generate.batch_size"
    )
    return likelihood.score(
      self._model,
      loaded.base.params,
      self._lora,
      tokens,
      self._answers(rows),
      places.astype(np.int32),
      loaded.mesh,
      batch_size=max(1, config.batch_size // _SHARE // unit) * unit,
      buckets=config.prompt_buckets,
      progress=progress,
      prefix=prefix,
      kept=kept,
    )

  def without_history(
    self,
    titles: np.ndarray,
    progress: reports.Reports,
    parts: parts_lib.Parts | None = None,
    key: str = "",
  ) -> np.ndarray:
    """Returns log p(title) [n] float32 after a prompt that names no title.

    Args:
      titles: [n] catalogue rows.
      progress: told of every reading of the prompt, `readings(n)` in all.
      parts: what was done of these very titles before, and where more goes.
      key: of these parts.
    """
    rows = self.readings(len(titles))
    # Of one width: any other is another program.
    grid = np.full((rows, _TITLES), -1, np.int32)
    grid.flat[: len(titles)] = titles
    kept = parts_lib.Vectors(parts, key, *grid.shape)
    found = self([self._nothing] * rows, grid, progress, kept)
    return found.ravel()[: len(titles)]

  @staticmethod
  def readings(titles: int) -> int:
    """Returns how often `without_history` reads the prompt for n titles."""
    return -(-titles // _TITLES)

  @functools.cached_property
  def _nothing(self) -> list[int]:
    """The prompt of a user without history."""
    prompt = self._loaded.prompt
    asked = prompt.instruction, prompt.input_text([])
    (tokens,) = encoding.encode_questions(
      self._loaded.tokenizer,
      [(prompt.inference_text(*asked), prompt.seams(*asked))],
    )
    return tokens

  def _answers(self, rows: np.ndarray) -> list[list[int]]:
    """Returns the tokens of titles, as constrained decoding has them."""
    from bigrec_jax.decoding import constraints

    loaded = self._loaded
    titles = loaded.offered.titles
    return constraints.continuations(
      [loaded.prompt.output_text(titles[row]) for row in rows.tolist()],
      loaded.prompt.answer_context,
      loaded.tokenizer.encode_data,
      loaded.tokenizer.eos_id,
    )
