"""generate.length_norm_includes_prompt is what transformers 4.28.1 computes."""

import json

import numpy as np
import pytest

from tests.reference import old_generate as old, old_search


@pytest.fixture(scope="module")
def search(tmp_path_factory):
  return old_search.Search(tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize(("tokens", "early"), [(14, False), (6, True)])
def test_equals_transformers_4_28(search, tokens, early):
  golden = json.loads(old.GOLDEN.read_text())
  assert golden["transformers"] == "4.28.1"
  ended = set()
  for result in golden["results"]:
    penalty = result["length_penalty"]
    settings = (result["max_new_tokens"], result["early_stopping"])
    if settings != (tokens, early):
      continue
    found = search(
      max_new_tokens=tokens,
      early_stopping=early,
      length_penalty=penalty,
      length_norm_includes_prompt=True,
    )
    assert found.tokens == result["tokens"]
    scores = np.array(result["scores"])
    atol = 1e-5 * np.abs(scores).max()
    np.testing.assert_allclose(found.scores, scores, atol=atol)
    ended |= {ids[-1] == old.EOS for row in found.tokens for ids in row}
    today = search(
      max_new_tokens=tokens,
      early_stopping=early,
      length_penalty=penalty,
      length_norm_includes_prompt=False,
    )
    # Without normalisation there is nothing to tell the two apart.
    assert (today.tokens == found.tokens) == (penalty == 0)
  assert ended == {True, False}
