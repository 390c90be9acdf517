import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from bigrec_jax import config, errors, progress
from bigrec_jax.decoding import (
  constraints,
  generate,
  lanes,
  program,
  stepping,
)
from bigrec_jax.devices import executor, sharding
from bigrec_jax.models import hf_import, lora as lora_lib
from bigrec_jax.models.llama.config import LlamaConfig
from bigrec_jax.models.llama.network import Llama
from configs import common

VOCAB, EOS = 67, 2
ARCH = LlamaConfig.from_arch(
  config.ArchConfig(
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=512,
    rope_theta=10000.0,
    rms_norm_eps=1e-5,
    tie_word_embeddings=False,
  ),
  VOCAB,
)
LORA = config.LoraConfig(4, 8.0, 0.0, ("q_proj", "v_proj"))
DEFAULTS = config.from_config_dict(common.get_config()).generate


def make_model(mesh, adapter):
  return Llama(
    ARCH,
    LORA if adapter else None,
    dtype=jnp.dtype(jnp.float32),
    scan_layers=True,
    remat="none",
    attention="xla",
    mesh=mesh,
    unrolled=True,
  )


def _random(template, scale):
  """Numpy rather than jit: nothing compiles."""
  rng = np.random.default_rng(0)

  def draw(path, leaf):
    if path[-1].key == "scale":
      value = np.ones(leaf.shape, np.float32)
    else:
      value = rng.normal(size=leaf.shape) * scale(path)
    return jax.device_put(value.astype(np.float32), leaf.sharding)

  return jax.tree_util.tree_map_with_path(draw, template)


def make_params(mesh):
  # Peaky: the usual initial weights make all tokens nearly equal. EOS all the
  # more, so that it occurs in some hypotheses and not in others.
  columns = np.where(np.arange(VOCAB) == EOS, 0.8, 0.4)
  return _random(
    hf_import.abstract_base(ARCH, "float32", mesh),
    lambda path: columns if path[0].key == "lm_head" else 0.1,
  )


def make_lora(mesh):
  return _random(lora_lib.abstract(ARCH, LORA, mesh), lambda path: 0.3)


def make_prompts(count, seed=0, header=21):
  rng = np.random.default_rng(seed)
  start = rng.integers(3, VOCAB, size=header).tolist()
  return [
    [*start, *rng.integers(3, VOCAB, size=rng.integers(1, 30)).tolist()]
    for _ in range(count)
  ]


def options(**changes):
  small = dict(
    batch_size=8, max_new_tokens=7, prompt_buckets=(32,), num_beams=3
  )
  return dataclasses.replace(DEFAULTS, **(small | changes))


class Setup:
  """One model, decoded many ways."""

  def __init__(self, shape=(1, 1, 1), adapter=True):
    devices = jax.devices()[: int(np.prod(shape))]
    self.mesh = sharding.make_mesh(config.MeshConfig(*shape), devices)
    self.model = make_model(self.mesh, adapter)
    self.params = make_params(self.mesh)
    self.lora = make_lora(self.mesh) if adapter else None

  def __call__(self, prompts, *, eos_ids=(EOS,), **changes):
    extra = dict(
      seed=changes.pop("seed", 0),
      norm_lengths=changes.pop("norm_lengths", None),
      trie=changes.pop("trie", None),
      progress=changes.pop("progress", progress.NullProgress()),
      finished=changes.pop("finished", None),
      rest=changes.pop("rest", None),
      log_masses=changes.pop("log_masses", None),
    )
    return generate.generate(
      self.model,
      self.params,
      self.lora,
      prompts,
      options(**changes),
      eos_ids,
      self.mesh,
      **extra,
    )


@pytest.fixture(scope="module")
def setup():
  return Setup()


def assert_same(found, expected, atol=1e-4):
  assert found.tokens == expected.tokens
  np.testing.assert_allclose(
    found.scores, expected.scores, atol=atol, rtol=1e-5
  )


def rescored(setup, prompts, hypotheses):
  """Sums of log-probabilities by plain full forward passes."""
  texts = [
    (prompt, tokens)
    for prompt, row in zip(prompts, hypotheses.tokens, strict=True)
    for tokens in row
  ]
  width = 64
  tokens = np.zeros((len(texts), width), np.int32)
  segments = np.zeros_like(tokens)
  for n, (prompt, new) in enumerate(texts):
    whole = [*prompt, *new]
    tokens[n, : len(whole)] = whole
    segments[n, : len(whole)] = 1
  variables = {"params": setup.params, "lora": setup.lora}
  positions = np.broadcast_to(np.arange(width, dtype=np.int32), tokens.shape)

  @jax.jit
  def forward(variables, *inputs):
    hidden = setup.model.apply(variables, *inputs, True)
    return setup.model.apply(variables, hidden, method="logits")

  logits = forward(variables, tokens, positions, segments)
  log_probs = scipy.special.log_softmax(np.asarray(logits, np.float64), -1)
  return [
    sum(log_probs[n, len(prompt) + i - 1, token] for i, token in enumerate(new))
    for n, (prompt, new) in enumerate(texts)
  ]


class Counter:
  def __init__(self):
    self.counts = []

  def update(self, count):
    self.counts.append(count)


def test_scores_are_those_of_full_forward_passes(setup):
  prompts = make_prompts(11)
  counter = Counter()
  found = setup(prompts, progress=counter)
  totals = rescored(setup, prompts, found)
  flat = [tokens for row in found.tokens for tokens in row]
  assert {len(row) for row in found.tokens} == {3}
  expected = [
    total / len(tokens) for total, tokens in zip(totals, flat, strict=True)
  ]
  np.testing.assert_allclose(
    found.scores.ravel(), expected, atol=1e-4, rtol=1e-5
  )
  assert np.all(np.diff(found.scores, axis=1) <= 0)
  assert sum(counter.counts) == 11
  endings = {tokens[-1] == EOS for tokens in flat}
  assert endings == {True, False}  # Some end, some are cut.


def test_one_program_per_bucket(setup):
  prompts = make_prompts(60, seed=1)
  first = setup(prompts)
  before = program.read._cache_size(), program.advance._cache_size()
  split = setup(prompts, prompt_buckets=(16, 32))
  after = tuple(size + 1 for size in before)
  assert (program.read._cache_size(), program.advance._cache_size()) == after
  assert_same(split, first)
  # Another penalty, other prompts of the same sizes: nothing new.
  changed = setup(prompts, length_penalty=0.0)
  assert not np.allclose(changed.scores, first.scores)
  turned = setup(list(reversed(prompts)), prompt_buckets=(16, 32))
  assert turned.tokens[::-1] == first.tokens
  assert (program.read._cache_size(), program.advance._cache_size()) == after


class Watch:
  """Counts calls of programs, and which users share the slots."""

  def __init__(self, monkeypatch):
    self.batches, self.steps, self.rooms = [], [], []
    monkeypatch.setattr(program, "read", self._read)
    monkeypatch.setattr(program, "advance", self._advance)
    self._programs = read, advance = program_read, program_advance

  def _read(self, *arguments):
    self.batches.append(np.asarray(arguments[3].active))
    return self._programs[0](*arguments)

  def _advance(self, *arguments):
    before = np.asarray(arguments[3].users.state.step)
    slots, outcome = self._programs[1](*arguments)
    self.steps.append((before, np.asarray(outcome.step)))
    self.rooms.append(slots.suffix.room)
    return slots, outcome


program_read, program_advance = program.read, program.advance


def test_slots_are_refilled_as_users_finish(setup, monkeypatch):
  prompts = make_prompts(40, seed=1)
  changes = dict(max_new_tokens=40, sample=True, num_beams=1, top_k=0)
  monkeypatch.setattr(executor, "_MOST", 1)
  watch = Watch(monkeypatch)
  found = setup(prompts, **changes)
  lengths = np.array([len(row[0]) for row in found.tokens])
  assert len(set(lengths)) > 3
  # Users of different age share the slots.
  assert any(len(set(before)) > 2 for before, _ in watch.steps)
  assert sum(batch.sum() for batch in watch.batches) == 40
  # Far fewer steps than batches that wait for their slowest would take.
  taken = sum(int((after - before).max()) for before, after in watch.steps)
  order = np.argsort([-len(prompt) for prompt in prompts], kind="stable")
  waiting = sum(lengths[order[n : n + 8]].max() - 1 for n in range(0, 40, 8))
  assert taken < 0.9 * waiting
  monkeypatch.setattr(lanes, "_GROUPS", 1)
  whole = setup(prompts, **changes)
  assert_same(found, whole)


def test_caches_grow_and_shrink(setup, monkeypatch):
  prompts = make_prompts(30, seed=1)
  whole = setup(prompts, max_new_tokens=12)
  monkeypatch.setattr(executor, "_MOST", 1)
  monkeypatch.setattr(program, "_FIRST_SIZE", 2)
  sizes = program.settings_of(options(max_new_tokens=12), (EOS,), None).sizes
  assert sizes == (2, 4, 11)
  watch = Watch(monkeypatch)
  changed = setup(prompts, max_new_tokens=12, prompt_buckets=(16, 32))
  assert_same(changed, whole)
  assert set(watch.rooms) == set(sizes)
  assert any(np.diff(watch.rooms) < 0)


@pytest.mark.parametrize(
  ("most", "sizes"),
  [(2, (1,)), (40, (39,)), (65, (32, 64)), (128, (32, 64, 127))],
)
def test_caches_double(most, sizes):
  assert stepping.sizes(most, 32) == sizes
  assert stepping.sizes(400, 32) == (32, 64, 399)


def test_lanes_at_once_equal_one(setup, monkeypatch):
  prompts = make_prompts(30, seed=1)
  assert executor.Executor.of(setup.mesh).width > 1
  eight = sharding.make_mesh(config.MeshConfig(8, 1, 1))
  assert executor.Executor.of(eight).width == 1
  together = setup(prompts)
  assert setup(prompts).tokens == together.tokens
  monkeypatch.setattr(executor, "_MOST", 1)
  assert_same(setup(prompts), together)


def test_a_failure_in_a_lane_ends_the_run(setup, monkeypatch):
  calls = []

  def fail(*arguments):
    calls.append(arguments)
    if len(calls) > 3:
      raise RuntimeError("out of memory")
    return program_advance(*arguments)

  monkeypatch.setattr(program, "advance", fail)
  with pytest.raises(RuntimeError, match="out of memory"):
    setup(make_prompts(60, seed=1))
  assert len(calls) < 7


def test_rows_do_not_depend_on_the_batch(setup):
  prompts = make_prompts(11)
  whole = setup(prompts)
  # Other companions, batch size, bucket, padding rows and shared beginning.
  for rows in ([3], [7, 2, 9, 4, 0]):
    part = setup([prompts[row] for row in rows])
    assert_same(
      part,
      generate.Hypotheses([whole.tokens[r] for r in rows], whole.scores[rows]),
    )
  drawn = setup(prompts, sample=True, temperature=1.7, top_k=0)
  other = setup([*prompts, [5, 6, 7]], sample=True, temperature=1.7, top_k=0)
  assert other.tokens[:11] == drawn.tokens
  assert drawn.tokens != whole.tokens


def test_prompts_beyond_the_last_bucket():
  assert lanes.bucket_of(300, (64, 128)) == 384
  assert lanes.bucket_of(65, (128, 64)) == 128


def test_a_lone_long_prompt_does_not_widen_the_slots_of_others(
  setup, monkeypatch
):
  """One of 10,000 tokens among 64 took 6.6 GB and a minute."""
  prompts = make_prompts(23, seed=3)
  rng = np.random.default_rng(4)
  long = [*prompts[0][:21], *rng.integers(3, VOCAB, size=700).tolist()]
  shapes = set()
  read = program.read

  def watched(model, settings, variables, batch, *rest):
    shapes.add(batch.tokens.shape)
    return read(model, settings, variables, batch, *rest)

  monkeypatch.setattr(program, "read", watched)
  together = setup([*prompts[:9], long, *prompts[9:]])
  assert shapes == {(1, 768), (2, 32), (2, 128)}
  alone = setup([long, prompts[4]])
  assert together.tokens[9] == alone.tokens[0]
  np.testing.assert_allclose(together.scores[9], alone.scores[0], atol=1e-5)
  usual = setup(prompts)
  assert together.tokens[:9] + together.tokens[10:] == usual.tokens


def test_who_is_decoded_side_by_side():
  def split(lengths, batch_size=32, buckets=(64, 512)):
    found = lanes.alike(np.array(lengths), batch_size, buckets)
    return [([lengths[n] for n in rows], most) for rows, most in found]

  assert split([5, 7, 512]) == [([512, 7, 5], 32)]
  # Slots by room: 32 x 512 tokens hold four of 4,096, and not one of 20,000.
  lengths = [20_000, 4_000, 3_000, *[9] * 60]
  assert split(lengths) == [
    ([20_000], 1),
    ([4_000, 3_000], 4),
    ([9] * 60, 32),
  ]
  # Where many are long, nobody is an exception.
  assert split([4_000] * 20) == [([4_000] * 20, 32)]
  assert split([10_000]) == [([10_000], 32)]
  assert split([10_000, 8])[-1] == ([8], 32)
  assert split([300, 8], buckets=()) == [([300], 21), ([8], 32)]


def test_greedy_is_one_beam(setup):
  prompts = make_prompts(5)
  found = setup(prompts, num_beams=1)
  totals = rescored(setup, prompts, found)
  for row, total, score in zip(
    found.tokens, totals, found.scores[:, 0], strict=True
  ):
    assert score == pytest.approx(total / len(row[0]), abs=1e-4)


def test_length_norm_includes_prompt(setup):
  prompts = make_prompts(5)
  widths = np.array([50, 51, 52, 53, 54])
  found = setup(prompts, length_norm_includes_prompt=True, norm_lengths=widths)
  totals = rescored(setup, prompts, found)
  n = 0
  for row, width, scores in zip(
    found.tokens, widths, found.scores, strict=True
  ):
    for tokens, score in zip(row, scores, strict=True):
      length = width + len(tokens) - (tokens[-1] == EOS)
      assert score == pytest.approx(totals[n] / length, abs=1e-4)
      n += 1


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2)])
def test_mesh_does_not_matter(setup, shape):
  prompts = make_prompts(11)
  assert_same(Setup(shape)(prompts), setup(prompts))


def test_constrained(setup):
  rng = np.random.default_rng(3)
  titles = [
    [*rng.integers(3, 9, size=rng.integers(1, 5)).tolist(), EOS]
    for _ in range(40)
  ]
  trie = constraints.build_trie(titles)
  prompts = make_prompts(9)
  found = setup(prompts, trie=trie, max_new_tokens=30)
  known = {tuple(ids) for ids in titles}
  assert all(tuple(ids) in known for row in found.tokens for ids in row)
  totals = rescored(setup, prompts, found)
  flat = [ids for row in found.tokens for ids in row]
  expected = [t / len(ids) for t, ids in zip(totals, flat, strict=True)]
  np.testing.assert_allclose(found.scores.ravel(), expected, atol=1e-4)
  with pytest.raises(errors.UserError, match="max_new_tokens: 3 found"):
    setup(prompts, trie=trie, max_new_tokens=3)


def chained_titles(seed, count, longest):
  """Titles of which most nodes have one child, and some are beginnings."""
  rng = np.random.default_rng(seed)
  titles = []
  for _ in range(count):
    start = titles[rng.integers(len(titles))][:-1] if titles else [7]
    start = start[: rng.integers(1, len(start) + 1)]
    more = rng.integers(3, VOCAB, size=rng.integers(0, longest)).tolist()
    titles.append([*start, *more, EOS])
  return titles


@pytest.mark.parametrize("penalty", [0.0, 1.0])
@pytest.mark.parametrize("lookahead", [1, 2, 5])
def test_lookahead_changes_nothing(setup, lookahead, penalty):
  trie = constraints.build_trie(chained_titles(4, 50, 9))
  prompts = make_prompts(19)
  options = dict(trie=trie, max_new_tokens=60, length_penalty=penalty)
  expected = setup(prompts, **options)
  found = setup(prompts, **options, lookahead=lookahead)
  assert_same(found, expected)
  if lookahead == 2:
    assert_same(Setup((2, 2, 2))(prompts, **options, lookahead=2), expected)


def test_lookahead_needs_few_passes(setup, monkeypatch):
  # Two branches, at the start and in the middle, and long chains.
  titles = [
    [a, *range(10, 16), b, *range(20, 25), EOS] for a in (3, 4) for b in (5, 6)
  ]
  trie = constraints.build_trie(titles)
  steps = []
  advance = program.advance

  def counted(*args):
    slots, outcome = advance(*args)
    steps.append(int(outcome.step.max()))
    return slots, outcome

  monkeypatch.setattr(program, "advance", counted)
  prompts = make_prompts(3)
  options = dict(trie=trie, max_new_tokens=60, num_beams=4)
  expected = setup(prompts, **options)
  assert max(steps) == 14
  steps.clear()
  assert_same(setup(prompts, **options, lookahead=8), expected)
  assert max(steps) == 3  # The first token has no pass of its own.


def test_titles_are_added_without_compiling(setup):
  titles = chained_titles(5, 50, 9)
  for lookahead in (0, 2):
    options = dict(max_new_tokens=60, lookahead=lookahead)
    first = constraints.build_trie(titles)
    setup(make_prompts(3), trie=first, **options)
    compiled = program.read._cache_size(), program.advance._cache_size()
    more = [*titles, [8, 9, 10, EOS]]
    trie = constraints.build_trie(more, like=first)
    found = setup(make_prompts(3), trie=trie, **options)
    assert compiled == (
      program.read._cache_size(),
      program.advance._cache_size(),
    )
    assert all(ids in more for row in found.tokens for ids in row)


def test_nothing_and_mistakes(setup):
  assert setup([]).tokens == []
  with pytest.raises(errors.UserError, match="prompt 1"):
    setup([[3], []])
  mesh = sharding.make_mesh(config.MeshConfig(4, 2, 1))
  with pytest.raises(errors.UserError, match="batch_size: 12 found"):
    generate._check(setup.model, [[3]], options(batch_size=12), mesh, None)


def test_shared_beginning():
  block = generate.PREFIX_BLOCK
  start = list(range(block + 3))
  prompts = [[*start, 50], [*start, 51, 52], [*start, 60]]
  assert generate.shared_beginning(prompts) == start[:block]
  assert generate.shared_beginning([start[:block], start]) == []
  assert generate.shared_beginning([start]) == start[:block]


def test_length_norms_are_exact():
  norms = stepping.length_norms(2, 3, 2.0, np.array([5, 9]))
  np.testing.assert_array_equal(norms.ended, [[25, 36, 49], [81, 100, 121]])
  np.testing.assert_array_equal(norms.running[0], [36, 49, 64])


@pytest.mark.parametrize(
  "changes",
  [{"length_norm_includes_prompt": True}, {"sample": True, "top_k": 0}],
)
def test_the_rest_is_written_as_all_would_be(setup, changes):
  prompts = make_prompts(30, seed=1)
  streamed = {}

  def finished(row, tokens, scores):
    assert row not in streamed
    streamed[row] = tokens, scores

  whole = setup(prompts, finished=finished, **changes)
  assert sorted(streamed) == list(range(30))
  for row, (tokens, scores) in streamed.items():
    assert tokens == whole.tokens[row]
    np.testing.assert_array_equal(scores, whole.scores[row])
  before = program.read._cache_size(), program.advance._cache_size()
  for seed in range(4):
    rng = np.random.default_rng(seed)
    rest = np.sort(rng.permutation(30)[: (1, 7, 19, 29)[seed]])
    found = setup(prompts, rest=rest, **changes)
    assert [found.tokens[row] for row in rest] == [
      whole.tokens[row] for row in rest
    ]
    # Who sits beside decides where tokens lie in the cache, so that sums may
    # differ in the last bit.
    np.testing.assert_allclose(
      found.scores[rest], whole.scores[rest], rtol=1e-6
    )
    others = np.setdiff1d(np.arange(30), rest)
    assert not any(found.tokens[row] for row in others)
  after = program.read._cache_size(), program.advance._cache_size()
  assert after == before
  assert setup(prompts, rest=[], **changes).tokens == [[]] * 30


class Spoilt(Setup):
  """A model with a number that is none, in a place of its own."""

  def __init__(self, where, value, shape=(1, 1, 1)):
    super().__init__(shape)
    tree = self.lora if where == "lora_b" else self.params

    def spoil(path, leaf):
      if where not in jax.tree_util.keystr(path):
        return leaf
      array = np.array(leaf)
      array.reshape(-1)[-1] = value
      return jax.device_put(array, leaf.sharding)

    tree = jax.tree_util.tree_map_with_path(spoil, tree)
    if where == "lora_b":
      self.lora = tree
    else:
      self.params = tree


WAYS = {
  "beams": {},
  "greedy": {"num_beams": 1},
  "sampling": {"sample": True, "top_k": 5, "top_p": 0.9},
  "trie": {"trie": constraints.build_trie([[4, 5, EOS], [4, EOS], [7, EOS]])},
}
WAYS["lookahead"] = {**WAYS["trie"], "lookahead": 2}


@pytest.mark.parametrize(
  ("way", "where", "value"),
  [
    ("beams", "lm_head", np.nan),
    ("greedy", "up_proj", np.nan),
    ("sampling", "lora_b", np.inf),
    ("trie", "lora_b", np.nan),
    ("lookahead", "lora_b", np.nan),
  ],
)
def test_logits_that_are_not_finite_name_a_row(way, where, value):
  spoilt, streamed = Spoilt(where, value), []
  with pytest.raises(errors.NonFiniteError) as error:
    spoilt(
      make_prompts(11),
      finished=lambda row, *_: streamed.append(row),
      **WAYS[way],
    )
  assert str(error.value).startswith(
    f"row {error.value.row}: non-finite logits found, finite ones expected"
  )
  assert streamed == []


@pytest.mark.parametrize(
  ("way", "shape"),
  [("beams", (1, 1, 1)), ("sampling", (1, 1, 1)), ("beams", (2, 2, 2))],
)
def test_one_broken_row_loses_nobody_who_was_done_before(way, shape):
  prompts = make_prompts(40, seed=1)
  prompts[23] = [*prompts[23][:21], VOCAB + 3]  # No such row: NaN.
  streamed = {}
  setup = Setup(shape)
  with pytest.raises(errors.NonFiniteError, match="row 23: non-finite logits"):
    setup(
      prompts,
      finished=lambda row, tokens, _: streamed.update({row: tokens}),
      **WAYS[way],
    )
  assert streamed and 23 not in streamed
  # Nor does the NaN reach whoever sat beside or comes after.
  rest = [row for row in range(40) if row not in streamed and row != 23]
  found = setup(prompts, rest=rest, **WAYS[way])
  assert all(found.tokens[row] for row in rest)


def test_a_text_of_probability_0_is_no_answer():
  spoilt = Setup()
  head = spoilt.params["lm_head"]
  kernel = np.array(head["kernel"])
  kernel[:, [4, 7]] = -1e38  # Log-probabilities of -inf, or the only ones.
  head["kernel"] = jax.device_put(kernel, head["kernel"].sharding)
  with pytest.raises(errors.NonFiniteError, match=r"row \d+: n"):
    spoilt(make_prompts(11), **WAYS["trie"])
