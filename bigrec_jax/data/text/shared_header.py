"""The beginning that the examples of a split share, taken out of them.

Every prompt begins with the same preamble and instruction. Under causal
attention nothing that follows changes what the network computes there, so a
micro-batch needs it only once, however many examples it holds.

Letters: C tokens in common, of which the network reads the first P = C - 1
once. The last of them, which position P - 1 predicts, is where each example's
own part starts: it is the first that predicts something of the example's own.
"""

from typing import NamedTuple

import numpy as np

from bigrec_jax.data.text import encoding

# Shorter ones do not pay for a second, small pass through the layers.
LEAST = 16  # Tokens.
_SAMPLE = 1024  # Examples, spread over the split.


class Header(NamedTuple):
  """What examples begin with.

  Attributes:
    tokens: int32 [C].
    mask: int32 [C], 1 where the token is a label.
  """

  tokens: np.ndarray
  mask: np.ndarray

  @property
  def length(self) -> int:
    """P: how many tokens own parts lack."""
    return len(self.tokens) - 1

  def own_part(self, example: encoding.Encoded) -> encoding.Encoded | None:
    """Returns what follows the first P tokens; None if it begins otherwise."""
    common = len(self.tokens)
    labelled = bool(self.mask[1:].any())
    if not np.array_equal(example.tokens[:common], self.tokens):
      return None
    if len(example.places) and example.places[0] < common:
      return None  # The header has no soft tokens.
    if example.first_label != 1 if labelled else example.first_label < common:
      return None
    first_label = max(example.first_label - self.length, 1)
    pools = example.pools
    return example._replace(
      tokens=example.tokens[self.length :],
      first_label=first_label,
      pools=None if pools is None else pools[self.length :],
      places=example.places - self.length,
    )


def find(encoded: encoding.EncodedExamples) -> Header | None:
  """Returns what a sample of the examples has in common, or None if little.

  A sample, because tokenising a million examples takes minutes. An example
  outside of it may begin otherwise (see `Header.own_part`).
  """
  step = -(-len(encoded) // _SAMPLE) or 1
  sample = encoded.get(range(0, len(encoded), step))
  if not sample:
    return None
  first = sample[0].tokens
  common = min(_common(first, example.tokens) for example in sample)
  labelled = all(example.first_label == 1 for example in sample)
  if not labelled:  # Then up to where the first labels are.
    common = min(common, *(example.first_label for example in sample))
  # Soft tokens are alike as tokens only.
  soft = [int(e.places[0]) for e in sample if len(e.places)]
  common = min([common, *soft])
  if common - 1 < LEAST:
    return None
  return Header(first[:common], np.full(common, labelled, np.int32))


def _common(one: np.ndarray, other: np.ndarray) -> int:
  """Returns how many tokens two texts begin with in common."""
  length = min(len(one), len(other))
  differ = one[:length] != other[:length]
  return int(differ.argmax()) if differ.any() else length
