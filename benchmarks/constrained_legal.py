"""Reads every hypothesis of random models: is it a title of the catalogue?"""

import functools
import pathlib
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bigrec_jax.data.text import prompts, tokenization
from bigrec_jax.decoding import beam_search, constraints, sampling, stepping
from bigrec_jax.testing import lookup_model

# Text that a tokenizer, a prompt or a reader may take for something else.
NASTY = (
  *("</s>", "<s>", "<unk>", "a</s>b", "The </s> Tale", "<s> </s>", "<0x0A>"),
  *('""', '"', " ", "", "\n", "a\nb", "\t", '"a"', "a", "aa", "aaa", "a b"),
  *("### Response:\n", "b ### Response:\nc", "### Response:", "Response:\nd"),
  *(
    "caf\u00e9",
    "cafe\u0301",
    "\ufb01n",
    "\uff1c/s\uff1e",
    "\u65e5\u672c\u8a9e",
  ),
  *("\U0001f47e", "a\u200bb", "\u202eabc", "a  b", " a", "a ", "\u00a0a"),
)
_TOKENIZERS = (
  ("tokenizers/llama2_tokenizer.model", 16),
  ("llm-tiny/tok105.model", 256),
)
_BEAMS = 10


def count(
  titles: list[str], data: pathlib.Path, hypotheses: int
) -> list[dict[str, Any]]:
  """Returns, by tokenizer and search, how many hypotheses are no title.

  Args:
    titles: Of the catalogue; awkward ones are added.
    data: The folder of shared data.
    hypotheses: How many in all, about; the vocabulary of characters alone,
      which costs little, takes nine of ten.
  """
  catalogue = list(dict.fromkeys([*NASTY, *titles[:3000]]))
  found = []
  for (path, users), share in zip(_TOKENIZERS, (0.1, 0.9), strict=True):
    with tempfile.TemporaryDirectory() as folder:
      (pathlib.Path(folder) / "tokenizer.model").symlink_to(data / path)
      tokenizer = tokenization.load_tokenizer(folder)
    for kind in ("beams", "samples"):
      row = _count_of(tokenizer, catalogue, kind, users, share * hypotheses / 2)
      found.append({"tokenizer": pathlib.Path(path).name, **row})
  return found


def _count_of(
  tokenizer: tokenization.Tokenizer,
  catalogue: list[str],
  kind: str,
  users: int,
  wanted: float,
) -> dict[str, Any]:
  encoded = constraints.title_tokens(
    [f'"{title}"' for title in catalogue],
    prompts.RESPONSE_MARKER,
    tokenizer.encode_data,
    tokenizer.decode,
    tokenizer.eos_id,
  )
  trie = constraints.build_trie(*encoded)
  legal = {prompts.clean_title(catalogue[row]) for row in encoded.rows}
  common = (_BEAMS, trie.depth, tokenizer.eos_ids)
  search: Any = beam_search.BeamSearch(*common, False)
  if kind == "samples":
    search = sampling.Sampling(*common, sampling.Warpers(3.0, 50, 0.99))
  norms = stepping.length_norms(users, trie.depth, 1.0, None)
  numbers = jnp.arange(users, dtype=jnp.int32)

  @functools.partial(jax.jit, static_argnames="model")
  def decode(model, starts, seed, trie):
    rows = stepping.RowFacts(norms, sampling.row_keys(seed, numbers))
    active = jnp.ones(users, jnp.bool_)
    state = lookup_model.search(
      search, model, starts, active, rows, trie.expand, room=trie.depth
    )
    return search.found(state, rows)

  # A program a model: few models, many prompts.
  models = [lookup_model.LookupModel(tokenizer.vocab_size, s) for s in range(2)]
  rng = np.random.default_rng(0)
  seen, illegal, distinct, turn = 0, 0, set(), 0
  while seen < wanted:
    starts = rng.integers(lookup_model.STATES, size=users).astype(np.int32)
    model = models[turn % len(models)]
    found = jax.device_get(decode(model, starts, np.uint32(turn), trie))
    for tokens, _, lengths in zip(*found, strict=True):
      for beam, length in zip(tokens, lengths, strict=True):
        if not length:
          continue
        ids = beam[:length].tolist()
        text = prompts.extract_title(tokenizer.decode(ids))
        seen += 1
        illegal += text not in legal or ids[-1] != tokenizer.eos_id
        distinct.add(text)
    turn += 1
  return {
    "search": kind,
    "hypotheses": seen,
    "distinct": len(distinct),
    "illegal": illegal,
    "titles": len(catalogue),
    "left_out": len(catalogue) - len(encoded.rows),
  }
