"""Hugging Face transformers as the published scripts call it: left-padded.

Everything here computes in float32 on the CPU with eager attention. Token
ids go in and come out as plain lists, so that nothing of bigrec_jax is used.
"""

import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import transformers

TokenLists = Sequence[Sequence[int]]


def load(directory: pathlib.Path) -> transformers.PreTrainedModel:
  """Returns the causal language model of a directory."""
  model = transformers.AutoModelForCausalLM.from_pretrained(
    directory, attn_implementation="eager", dtype=torch.float32
  )
  return model.eval()


def left_padded(token_lists: TokenLists) -> tuple[torch.Tensor, torch.Tensor]:
  """Returns token ids and attention mask [B, T]; padding has id 0."""
  width = max(map(len, token_lists))
  tokens = np.zeros((len(token_lists), width), np.int64)
  mask = np.zeros_like(tokens)
  for row, ids in enumerate(token_lists):
    tokens[row, width - len(ids) :] = ids
    mask[row, width - len(ids) :] = 1
  return torch.from_numpy(tokens), torch.from_numpy(mask)


def logits(model: torch.nn.Module, token_lists: TokenLists) -> list[np.ndarray]:
  """Returns the logits [n, V] of each row of a left-padded batch."""
  tokens, mask = left_padded(token_lists)
  with torch.no_grad():
    found = model(input_ids=tokens, attention_mask=mask).logits.numpy()
  return [
    row[len(row) - len(ids) :]
    for row, ids in zip(found, token_lists, strict=True)
  ]


def last_states(
  model: torch.nn.Module, token_lists: TokenLists, batch_size: int
) -> np.ndarray:
  """Returns hidden_states[-1][:, -1] of all rows, [N, D], batch by batch.

  No position ids are passed, as in BIGRec data/embedding.ipynb: those of a
  padded row start where its padding does (quirk 20).
  """
  rows = []
  for start in range(0, len(token_lists), batch_size):
    tokens, mask = left_padded(token_lists[start : start + batch_size])
    with torch.no_grad():
      states = model(
        input_ids=tokens, attention_mask=mask, output_hidden_states=True
      ).hidden_states[-1]
    rows.append(states[:, -1].numpy())
  return np.concatenate(rows)


def generate(
  model: torch.nn.Module,
  prompts: TokenLists,
  *,
  eos_ids: Sequence[int],
  num_beams: int,
  max_new_tokens: int,
  allowed: Callable[[int, torch.Tensor], list[int]] | None = None,
  **flags: Any,
) -> tuple[list[list[list[int]]], np.ndarray]:
  """Generates as many hypotheses as there are beams.

  Args:
    model: a causal language model.
    prompts: token ids, decoded in one batch.
    eos_ids: what ends a hypothesis.
    num_beams: W; 1 is greedy search.
    max_new_tokens: T.
    allowed: `prefix_allowed_tokens_fn`.
    **flags: more of transformers.GenerationConfig.

  Returns:
    Generated ids up to EOS, by prompt and hypothesis, best first; scores
    [N, W]: for one beam, which has none, the mean log-probability.
  """
  tokens, mask = left_padded(prompts)
  config = transformers.GenerationConfig(
    num_beams=num_beams,
    num_return_sequences=num_beams,
    do_sample=False,
    max_new_tokens=max_new_tokens,
    eos_token_id=list(eos_ids),
    pad_token_id=0,
    return_dict_in_generate=True,
    output_scores=True,
    **flags,
  )
  with torch.no_grad():
    found = model.generate(
      input_ids=tokens,
      attention_mask=mask,
      generation_config=config,
      prefix_allowed_tokens_fn=allowed,
    )
  rows = list(_until_eos(found.sequences[:, tokens.shape[1] :], eos_ids))
  if num_beams > 1:
    scores = found.sequences_scores.numpy()
  else:
    steps = model.compute_transition_scores(
      found.sequences, found.scores, normalize_logits=True
    ).numpy()
    scores = np.array(
      [
        step[: len(row)].sum() / len(row)
        for step, row in zip(steps, rows, strict=True)
      ]
    )
  beams = [rows[at : at + num_beams] for at in range(0, len(rows), num_beams)]
  return beams, scores.reshape(len(prompts), num_beams)


def _until_eos(
  sequences: torch.Tensor, eos_ids: Sequence[int]
) -> Iterator[list[int]]:
  for sequence in sequences.tolist():
    ends = [n for n, token in enumerate(sequence) if token in eos_ids]
    yield sequence[: ends[0] + 1] if ends else sequence
