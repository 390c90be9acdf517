"""CF results as a table."""

from bigrec_jax.results import cf_file


def test_cutoffs_that_a_model_was_not_evaluated_at_are_gaps():
  """Another ground.cutoffs after train_cf was a KeyError."""
  test = {"ndcg": {"1": 0.25}, "hr": {"1": 0.5}}
  shown = cf_file.table({"sasrec": {"test": test}}, (1, 2**31 - 1), ["sasrec"])
  (line,) = [line for line in shown.splitlines() if "sasrec" in line]
  assert "0.2500" in line and "0.5000" in line and line.count("-") >= 2
