"""The walk over stages that are a file of a number each."""

import dataclasses
import json

import pytest

from bigrec_jax import config as config_lib, errors
from bigrec_jax.stages import graph
from bigrec_jax.stages.session import Asked, Session
from configs import demo

CONFIG = config_lib.from_config_dict(demo.get_config("tiny"))


class World:
  """Stages a <- b <- c; b also depends on an option, of which one is minor."""

  def __init__(self, root):
    self.root, self.events = root, []
    self.options = {"b": {"rate": 1, "minor": {"threads": 1}}}
    self.broken = ""
    self.a = self._stage("a", ())
    self.b = self._stage("b", (self.a,), tolerated=frozenset({"own.minor"}))
    self.c = self._stage("c", (self.b, self.a))

  def _stage(self, name, needs, **fields):
    def where(session):
      return session.paths.root / f"{name}.txt"

    def needed(session):
      for need in needs:
        self.events.append(f"{name} needs {need.name}")
        yield need

    def inputs(session):
      self.events.append(f"inputs of {name}")
      return {
        "own": self.options.get(name, {}),
        "before": {need.name: session.load(need) for need in needs},
      }

    def build(session, made_from):
      self.events.append(f"build {name}")
      assert session.paths.root.is_dir()
      assert not session.paths.record(name).exists()
      where(session).write_text(str(1 + sum(made_from["before"].values())))

    def check(session):
      self.events.append(f"check {name}")
      if name == self.broken:
        raise errors.UserError(f"{name}: can't work")

    return graph.Stage(
      name=name,
      mode=f"make_{name}",
      where=where,
      needs=needed,
      inputs=inputs,
      is_there=lambda session: where(session).exists(),
      build=build,
      load=lambda session: int(where(session).read_text()),
      check=check,
      cost=lambda session: graph.Cost(1200, "letters", name),
      **fields,
    )

  def session(self, **asked):
    return Session(
      CONFIG, self.root, Asked(flags=(f"--workdir={self.root}",), **asked)
    )

  def built(self):
    found = [e.split()[1] for e in self.events if e.startswith("build")]
    self.events.clear()
    return found


@pytest.fixture
def world(tmp_path):
  return World(tmp_path / "run")


def test_what_is_needed_is_made_first_and_once(world, capsys):
  session = world.session()
  assert session.make(world.c) == {"a", "b", "c"}
  assert session.load(world.c) == 4  # 1 + b's 2 + a's 1.
  order = [e for e in world.events if e.startswith(("check", "build"))]
  assert order == [
    *(f"check {name}" for name in "cab"),  # What the mode is for comes first.
    *(f"build {name}" for name in "abc"),
  ]
  assert world.built() == ["a", "b", "c"]
  session.make(world.c, world.a)  # All were looked at in this process.
  assert world.built() == [] and "current" not in capsys.readouterr().out
  assert world.session().make(world.c) == set()
  assert world.built() == []
  shown = capsys.readouterr().out.splitlines()
  assert shown == [
    f"make_{name}: {world.root / name}.txt is current" for name in "abc"
  ]


def test_a_change_is_told_and_only_what_depends_on_it_is_made(world, capsys):
  world.session().make(world.c)
  world.events.clear()
  capsys.readouterr()
  world.options["b"]["rate"] = 2
  world.session().make(world.c)
  # b came out as before, so c still holds: values count, not times.
  assert world.built() == ["b"]
  assert "make_b: again, because of own.rate: 1 -> 2" in capsys.readouterr().out
  (world.root / "a.txt").unlink()
  world.session().make(world.c)
  assert world.built() == ["a"]
  assert "because" not in capsys.readouterr().out


def test_what_is_tolerated_is_told_but_not_by_the_mode_that_makes_it(
  world, caplog
):
  world.session().make(world.c)
  world.built()
  world.options["b"]["minor"]["threads"] = 9
  session = world.session()
  session.make(world.c)
  assert world.built() == []
  assert "b.txt was made with own.minor.threads: 1 -> 9" in caplog.text
  world.session().make(world.b)
  assert world.built() == ["b"]


def test_a_plan_says_why_and_writes_nothing(world, capsys):
  def plan(*stages):
    capsys.readouterr()
    world.session(dry_run=True).make(*stages)
    assert not world.built()
    return [
      line.replace(f"{world.root}/", "")
      for line in capsys.readouterr().out.splitlines()
    ]

  assert plan(world.c) == [
    "make_a: a.txt would be made: not made yet; 1,200 letters",
    "make_b: b.txt would be made: after a; 1,200 letters",
    "make_c: c.txt would be made: after b, a; 1,200 letters",
  ]
  assert not world.root.exists()
  session = world.session()
  session.make(world.c)
  session.keep_throughput("b", 600, "letters", 60.0)
  session.keep_throughput("c", 1, "words", 4.0, letters=6)
  world.built()
  world.options["b"]["rate"] = 2
  before = sorted(world.root.rglob("*"))
  assert plan(world.c) == [
    "make_a: a.txt is current",
    "make_b: b.txt would be made: own.rate: 1 -> 2; 1,200 letters, 2 min if as"
    " fast as last time",
    "make_c: c.txt would be made: after b; 1,200 letters, 13 min if as fast as"
    " last time",
  ]
  assert sorted(world.root.rglob("*")) == before


def test_what_shows_the_workdir_is_looked_at_when_its_turn_comes(world, capsys):
  def inputs(session):
    return {"files": sorted(p.name for p in session.paths.root.glob("?.txt"))}

  def build(session, made_from):
    (session.paths.root / "page.html").write_text(str(made_from))

  page = graph.Stage(
    name="page",
    mode="show",
    where=lambda session: session.paths.root / "page.html",
    inputs=inputs,
    is_there=lambda session: (session.paths.root / "page.html").exists(),
    build=build,
    of_what_is_there=True,
  )
  world.session(dry_run=True).make(world.b, page)
  assert "page.html would be made: after a, b" in capsys.readouterr().out
  assert world.session().make(world.b, page) == {"a", "b", "page"}
  assert "'a.txt', 'b.txt'" in (world.root / "page.html").read_text()
  assert world.session().make(world.b, page) == set()
  assert world.session().make(world.c, page) == {"c", "page"}


def test_a_mode_that_reads_makes_nothing_else(world):
  with pytest.raises(errors.UserError) as error:
    world.session().make(world.c, reads=True)
  assert str(error.value) == (
    f"{world.root}/a.txt isn't there, and so {world.root}/b.txt can't be used;"
    f" this mode only reads: `python main.py --mode=make_a"
    f" --workdir={world.root}` makes it, --make makes all that is missing"
  )
  assert not world.root.exists()
  assert world.session(make=True).make(world.c, reads=True) == {"a", "b", "c"}
  world.options["b"]["rate"] = 5
  with pytest.raises(errors.UserError, match=r"of other inputs \(own\.rate: 1"):
    world.session().make(world.c, reads=True)
  world.options["b"]["rate"] = 1
  (world.root / "c.txt").unlink()
  world.built()
  world.session().make(world.c, reads=True)  # What the mode is for.
  assert world.built() == ["c"]


def test_checks_come_before_all_work_and_memory_after_them(world):
  remembered = []
  world.broken = "c"
  with pytest.raises(errors.UserError, match="c: can't work"):
    world.session(remember=lambda: remembered.append(1)).make(world.c)
  assert world.built() == [] and remembered == []
  world.broken = ""
  world.session(remember=lambda: remembered.append(1)).make(world.c)
  assert remembered == [1]
  world.session(remember=lambda: remembered.append(2)).make(world.c, reads=True)
  assert remembered == [1]


def test_an_unknown_task_is_told_before_any_work(world):
  task = dataclasses.replace(CONFIG.task, name="yesno")
  config = dataclasses.replace(CONFIG, task=task)
  with pytest.raises(errors.UserError, match="task.name: 'yesno' found, one"):
    Session(config, world.root, Asked()).make(world.c)
  assert world.events == [] and not world.root.exists()


def test_a_kill_while_building_leaves_no_record(world, monkeypatch):
  world.session().make(world.b)
  world.options["b"]["rate"] = 3

  def killed(session, made_from):
    raise KeyboardInterrupt

  object.__setattr__(world.b, "build", killed)
  with pytest.raises(KeyboardInterrupt):
    world.session().make(world.b)
  record = world.root / "records" / "b.json"
  assert not record.exists() and (world.root / "b.txt").exists()
  assert world.session().walk.look(world.b).status is graph.Status.MISSING


def test_what_turned_out_broken_is_made_again_if_that_is_allowed(world, capsys):
  session = world.session()
  session.make(world.c)
  world.built()
  session.walk.make_again(world.b, "a hole in it")
  assert world.built() == ["b"]
  assert "make_b: again, because of a hole in it" in capsys.readouterr().out
  session = world.session()
  session.make(world.c, reads=True)
  with pytest.raises(errors.UserError, match="a hole in it.*only reads"):
    session.walk.make_again(world.b, "a hole in it")


def test_who_loads_what_it_does_not_need_is_a_bug(world):
  with pytest.raises(LookupError):
    world.session().load(world.a)


def test_records_are_the_inputs(world):
  world.session().make(world.c)
  record = json.loads((world.root / "records" / "c.json").read_text())
  assert record == {"own": {}, "before": {"b": 2, "a": 1}}
