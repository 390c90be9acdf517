import pytest

from bigrec_jax import Recommender, errors
from bigrec_jax.workdir import paths


@pytest.mark.parametrize(
  "value",
  [
    "gs://bucket/run",
    "s3://b",
    "hf://org/model",
    "file:///tmp/x",
    "A+b.c-1://",
  ],
)
def test_a_url_is_no_path(value):
  with pytest.raises(errors.UserError, match="--config.model.path: .* mount"):
    paths.refuse_urls({"workdir": None, "config.model.path": value})
  with pytest.raises(errors.UserError, match="--workdir: "):
    Recommender.load(value)


@pytest.mark.parametrize(
  "value",
  ["", None, "runs/x", "/a/b://c", "C:/x", ":// no", 3, ("http://a title",)],
)
def test_what_is_none(value):
  paths.refuse_urls({"workdir": value})


def test_a_loop_of_links_is_no_error_by_itself(tmp_path):
  loop = tmp_path / "loop"
  loop.symlink_to(loop)
  assert paths.real(loop) == tmp_path.resolve() / "loop"
  (tmp_path / "link").symlink_to(tmp_path / "there")
  assert paths.real(tmp_path / "link") == tmp_path.resolve() / "there"
