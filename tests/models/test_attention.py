import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigrec_jax.models import attention


def naive(q, k, v, segments):
  """Attention as its definition reads, in float64, one head at a time."""
  rows, length, heads, size = q.shape
  out = np.zeros(q.shape)
  group = heads // k.shape[2]
  for b in range(rows):
    for h in range(heads):
      keys, values = k[b, :, h // group], v[b, :, h // group]
      for t in range(length):
        seen = [s for s in range(t + 1) if segments[b, s] == segments[b, t]]
        scores = keys[seen].astype(np.float64) @ q[b, t, h] / np.sqrt(size)
        weights = np.exp(scores - scores.max())
        out[b, t, h] = weights @ values[seen] / weights.sum()
  return out


def inputs(rows, length, heads, keys, size, seed=0):
  generator = np.random.default_rng(seed)
  draw = lambda n: generator.normal(  # noqa: E731
    size=(rows, length, n, size)
  ).astype(np.float32)
  segments = np.sort(generator.integers(1, 4, (rows, length)), axis=1)
  segments[:, -2:] = 0
  return draw(heads), draw(keys), draw(keys), segments.astype(np.int32)


@pytest.mark.parametrize(("heads", "keys"), [(3, 3), (6, 3), (5, 1)])
def test_xla_equals_the_definition(heads, keys):
  q, k, v, segments = inputs(2, 11, heads, keys, 7)
  ours = attention.self_attention(q, k, v, segments, "xla")
  np.testing.assert_allclose(ours, naive(q, k, v, segments), atol=1e-5)


@pytest.mark.parametrize("block", [4, 11])
def test_blocks_of_queries_change_nothing(monkeypatch, block):
  monkeypatch.setattr(attention, "_QUERY_BLOCK", block)
  q, k, v, segments = inputs(2, 11, 6, 3, 7)
  ours = attention.self_attention(q, k, v, segments, "xla")
  np.testing.assert_allclose(ours, naive(q, k, v, segments), atol=1e-5)


@pytest.mark.parametrize("block", [4, 128])
def test_a_prefix_equals_its_tokens_in_front_of_every_segment(
  monkeypatch, block
):
  """Values and gradients, those of the prefix's keys and values included."""
  monkeypatch.setattr(attention, "_QUERY_BLOCK", block)
  q, k, v, _ = inputs(3, 11, 6, 3, 7)
  segments = np.ones((3, 11), np.int32)
  before = inputs(1, 5, 6, 3, 7, seed=1)[:3]

  def shared(k, v, k_before, v_before):
    prefix = jnp.transpose(k_before[0], (1, 2, 0)), v_before[0].swapaxes(0, 1)
    return attention.self_attention(q, k, v, segments, "cudnn", prefix=prefix)

  def whole(k, v, k_before, v_before):
    joined = [
      jnp.concatenate([jnp.broadcast_to(a, (3, *a.shape[1:])), b], axis=1)
      for a, b in ((before[0], q), (k_before, k), (v_before, v))
    ]
    ids = np.ones((3, 16), np.int32)
    return attention.self_attention(*joined, ids, "xla")[:, 5:]

  (ours, pull), (expected, pull_expected) = (
    jax.vjp(f, k, v, *before[1:]) for f in (shared, whole)
  )
  np.testing.assert_allclose(ours, expected, atol=1e-5)
  weight = inputs(3, 11, 6, 3, 7, seed=2)[0]
  for one, other in zip(pull(weight), pull_expected(weight), strict=True):
    np.testing.assert_allclose(one, other, atol=1e-4)


def test_segments_after_a_prefix_do_not_see_each_other():
  q, k, v, segments = inputs(2, 11, 4, 2, 7)
  k_before, v_before = inputs(1, 5, 4, 2, 7, seed=1)[1:3]
  prefix = jnp.transpose(k_before[0], (1, 2, 0)), v_before[0].swapaxes(0, 1)
  ours = attention.self_attention(q, k, v, segments, "xla", prefix=prefix)
  for b in range(2):
    for segment in np.unique(segments[b]):
      at = segments[b] == segment
      alone = attention.self_attention(
        *(x[b : b + 1, at] for x in (q, k, v)),
        np.ones((1, at.sum()), np.int32),
        "xla",
        prefix=prefix,
      )
      np.testing.assert_allclose(ours[b, at], alone[0], atol=1e-5)


def test_splash_equals_xla_in_interpret_mode():
  q, k, v, segments = inputs(1, 128, 2, 1, 64)

  def run(q, implementation):
    out = attention.self_attention(q, k, v, segments, implementation)
    return jnp.sum(jnp.square(out[:, :-2])), out

  def both(implementation):
    grad = jax.jit(jax.grad(run, has_aux=True), static_argnums=1)(
      q, implementation
    )
    return jax.tree.map(np.asarray, grad)

  (gradient, out), (expected_gradient, expected) = both("splash"), both("xla")
  np.testing.assert_allclose(out[:, :-2], expected[:, :-2], atol=1e-4)
  np.testing.assert_allclose(gradient, expected_gradient, atol=1e-3)


def test_parts_equal_one_softmax_over_all_keys():
  generator = np.random.default_rng(1)
  draw = lambda *shape: generator.normal(size=shape).astype(  # noqa: E731
    np.float32
  )
  rows, keys, queries, size = 2, 3, 5, 7
  q = draw(rows, keys, queries, size)
  shared = [draw(keys, 4, size) for _ in range(2)]
  private = [draw(rows, keys, 6, size) for _ in range(2)]
  flip = lambda k, v: (jnp.swapaxes(k, -1, -2), v)  # noqa: E731
  own = [draw(rows, keys, queries, size) for _ in range(2)]
  mask = generator.random((rows, 1, queries, 6)) < 0.5
  ours = attention.attend_parts(
    q,
    [
      attention.Part(*flip(*shared)),
      attention.Part(*flip(*private), mask=jnp.asarray(mask)),
    ],
    (own[0], own[1]),
  )
  for b in range(rows):
    for h in range(keys):
      for t in range(queries):
        seen = mask[b, 0, t]
        k, v = (
          np.concatenate([s[h], p[b, h][seen], o[b, h, t][None]])
          for s, p, o in zip(shared, private, own, strict=True)
        )
        scores = k.astype(np.float64) @ q[b, h, t] / np.sqrt(size)
        weights = np.exp(scores - scores.max())
        expected = weights @ v / weights.sum()
        np.testing.assert_allclose(ours[b, h, t], expected, atol=1e-5)


@pytest.mark.parametrize(
  ("wanted", "platform", "dtype", "size", "expected"),
  [
    ("auto", "cpu", "bfloat16", 128, "xla"),
    ("auto", "gpu", "bfloat16", 128, "cudnn"),
    ("auto", "gpu", "float32", 128, "xla"),
    ("auto", "gpu", "bfloat16", 12, "xla"),
    ("auto", "tpu", "bfloat16", 128, "splash"),
    ("xla", "tpu", "bfloat16", 128, "xla"),
  ],
)
def test_choice(wanted, platform, dtype, size, expected):
  chosen = attention.choose(wanted, platform, jnp.dtype(dtype), size)
  assert chosen == expected
