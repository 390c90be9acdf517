"""Every command in the documents runs, as far as that is cheap.

Each command of main.py is run here with --dry_run, word for word, in a folder
that has small files of the names that it mentions: it has to end with status
0. That says what would be made, from files that are looked for and a whole
configuration that is checked; it trains nothing. What does run to the end is
the `:tiny` form of each configuration, in the tests of `TINY`; scripts run in
those of `SCRIPTS`. What runs nowhere is in a table with its reason. A command
that is new in the documents and in none of these fails.
"""

import gzip
import json
import re

import pytest

from bigrec_jax import config as config_lib
from bigrec_jax.testing import store
from bigrec_jax.workdir import paths as paths_lib, settings
from configs import chatrec, csv, demo, game
from tests import test_docs, test_docs_commands as documented
from tests.data import raw
from tests.stages import command

# The configurations that documents name, and what runs their :tiny form.
TINY = {
  "cao": "tests/tasks/auxiliary/test_pipeline.py::"
  "test_the_tiny_pipeline_ends_with_rows_and_report",
  "chatrec": "tests/stages/test_chatrec.py::test_rows_and_report",
  "csv": "tests/stages/test_csv.py::test_prepare_says_what_it_understood",
  "d3": "tests/stages/test_d3.py::test_metrics_and_report",
  "demo": "tests/stages/test_end_to_end.py::test_every_promised_file_is_there",
  "fairllm": "tests/stages/test_fairllm.py::test_pipeline_of_the_base_alone",
  "gpt4rec": "tests/tasks/query/test_pipeline.py::"
  "test_the_tiny_pipeline_ends_with_rows_and_report",
  "llara": "tests/tasks/choose/test_pipeline.py::"
  "test_the_tiny_pipeline_ends_with_rows_report_and_export",
  "lmrecsys": "tests/tasks/title_likelihood/test_pipeline.py::"
  "test_the_tiny_pipeline_and_zero_shot_in_one_workdir",
  "m6rec": "tests/tasks/heads/test_pipeline.py::"
  "test_the_tiny_pipeline_ends_with_a_row_for_each_head",
  "rsllm": "tests/stages/test_rsllm.py::test_rows_and_report",
  "tallrec": "tests/stages/test_tallrec.py::test_metrics_are_as_promised",
}
# Those without: the demo's stages on files of another format.
FORMATS = {
  "game": "tests/data/formats/test_formats.py reads the files",
  "movie": "tests/data/formats/test_formats.py reads the files",
  "toys": "tests/data/formats/test_formats.py reads the files",
}
_STUBS = "tests/launch/test_scripts.py::test_arguments_arrive_intact"
SCRIPTS = {
  "launch/container.sh": "tests/launch/test_scripts.py::"
  "test_a_container_has_folders_at_their_paths",
  "launch/demo.sh": _STUBS,
  "launch/gpu.sh": _STUBS,
  "launch/real.sh": "tests/launch/test_scripts.py::"
  "test_a_real_model_comes_from_its_package",
  "launch/slurm.sbatch": "tests/launch/test_scripts.py::"
  "test_slurm_queues_again_what_was_stopped_in_time",
  "launch/tpu_vm.sh": "tests/launch/test_tpu_vm.py::"
  "test_resume_after_a_preemption",
}
SCRIPTS_NOT_RUN = {"launch/test.sh": "it is what runs this test"}
_MEASURES = "measures for minutes on an idle machine; its options are looked up"
MODULES = {
  "benchmarks.auxiliary": "tests/benchmarks/test_auxiliary.py::"
  "test_differences_are_by_seed",
  "benchmarks.hot_items": "tests/benchmarks/test_serving.py::"
  "test_hidden_items_are_in_no_file_but_their_own",
  "benchmarks.quality": "tests/benchmarks/test_quality.py::"
  "test_tables_are_made_of_cells",
  "benchmarks.systems": "tests/benchmarks/test_systems.py::"
  "test_tables_are_made_of_cells",
  "benchmarks.ablations": "tests/benchmarks/test_ablations.py::"
  "test_each_part_is_left_out_once_a_seed",
  "tests.tools.llama2c": "tests/tools/test_llama2c.py",
}
MODULES_NOT_RUN = {
  f"benchmarks.{name}": _MEASURES
  for name in (
    "baselines",
    "baselines_table",
    "cf",
    "constrained",
    "embed",
    "generate",
    "ground",
    "heads",
    "hot_growth",
    "layers",
    "likelihood",
    "parts",
    "quantized_loss",
    "recommend",
    "recommend_many",
    "serve",
    "serve_soak",
    "startup",
    "step_profile",
    "train",
  )
}
# A base by any name, a file of weights, a text encoder: here one small folder.
_MODELS = re.compile(r"^(--config\.(?:embed\.|task\.chat\.)?model(?:\.path)?=)")


def _write_data(root):
  raw.amazon(root / "amazon")
  for name in ("ml-10M100K", "ml-1m"):
    raw.movielens(root / name)
  own = [(u, (u * 7 + k) % 60, 50 * u + k) for u in range(9) for k in range(12)]
  for name in ("ml-latest-small", "ml-100k"):
    (root / name).mkdir()
  (root / "ml-latest-small" / "movies.csv").write_text(
    "movieId,title,genres\n" + "".join(f"{n},T{n},Drama\n" for n in range(60))
  )
  (root / "ml-latest-small" / "ratings.csv").write_text(
    "userId,movieId,rating,timestamp\n"
    + "".join(f"{user},{item},4.0,{time}\n" for user, item, time in own)
  )
  (root / "ml-100k" / "u.item").write_text(
    "".join(f"{n}|T{n}|x\n" for n in range(60))
  )
  (root / "ml-100k" / "u.data").write_text(
    "".join(f"{user}\t{item}\t4\t{time}\n" for user, item, time in own)
  )
  for log, items in (
    ("purchases.csv", "products.csv"),
    ("BX-Book-Ratings.csv", "BX-Books.csv"),
  ):
    (root / log).write_text("user_id,item_id,rating\n1,1,2\n")
    (root / items).write_text("item_id,title,Book-Author\n1,x,y\n")
  (root / "amazon-toys").mkdir()
  for name in ("train_1000", "valid", "test", "id2name"):
    content = {"1": "One"} if name == "id2name" else []
    with gzip.open(root / "amazon-toys" / f"{name}.json.gz", "wt") as file:
      json.dump(content, file)
  (root / "users.jsonl").write_text('{"history": ["1"]}\n')
  for name in ("new.csv", "new.jsonl"):
    (root / name).write_text("")
  (root / "me.json").write_text('{"age": "30"}')
  (root / "sst_json.json").write_text('{"age": ["a young", "an old"]}')
  (root / "directors.txt").write_text("Somebody\nSomebody Else\n")


def _write_models(root):
  model = root / "model"
  store.tokenizer(model)
  sizes = {"hidden_size": 8, "intermediate_size": 8, "vocab_size": 300}
  layers = {"num_hidden_layers": 1, "num_attention_heads": 2}
  rest = {"model_type": "llama", "rms_norm_eps": 1e-5}
  (model / "config.json").write_text(json.dumps(sizes | layers | rest))
  adapter = root / "alpaca-lora-7b"
  adapter.mkdir()
  (adapter / "adapter_config.json").write_text("{}")
  (adapter / "adapter_model.safetensors").write_bytes(b"")


def _remember(root, name, tree, **data):
  for key, value in data.items():
    tree.data[key] = value
  workdir = root / "runs" / name
  workdir.mkdir(parents=True)
  config = config_lib.from_config_dict(tree)
  settings.remember(paths_lib.Paths(workdir), config, "docs", {})


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  """A folder with everything that the documents' commands mention."""
  root = tmp_path_factory.mktemp("home")
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(root)
    _write_data(root)
    _write_models(root)
    _remember(root, "demo", demo.get_config("tiny"))
    _remember(root, "a", demo.get_config("tiny"))
    for name in ("b", "c"):
      (root / "runs" / name / "metrics").mkdir(parents=True)
      (root / "runs" / name / "metrics" / "ground_eval.json").write_text("{}")
    _remember(root, "chatrec", chatrec.get_config("tiny"))
    tables = {"interactions": "purchases.csv", "items": "products.csv"}
    _remember(root, "mine", csv.get_config(), **tables)
    for name in ("x", "game-1024"):
      _remember(root, name, game.get_config(), raw_dir="amazon")
    for config, name, more in (
      ("demo", "other", ()),
      ("rsllm", "artists", ("--config.task.choose.domain=artist",)),
    ):
      status, told = command.here(
        f"--config={test_docs.ROOT}/configs/{config}.py:tiny",
        "--mode=prepare",
        f"--workdir=runs/{name}",
        "--config.data.synthetic.seed=8",
        *more,
      )
      assert status == 0, told
  return root


def _dry(flags, home):
  """Returns the flags of a command as they are run here."""
  words = []
  for flag in flags:
    if flag in ("<", ">", "|", "&"):  # What follows is the shell's.
      break
    if flag.partition("=")[2] in documented._OWN:
      flag = "--config=configs/demo.py:tiny"
    words.append(_MODELS.sub(rf"\g<1>{home}/model#", flag).partition("#")[0])
  return [word for word in words if word != "--distributed"] + ["--dry_run"]


@pytest.mark.parametrize(
  ("name", "flags"),
  documented.OF_MAIN,
  ids=documented._ids(documented.OF_MAIN),
)
def test_a_command_of_main_says_what_it_would_make(
  home, monkeypatch, name, flags
):
  monkeypatch.chdir(home)
  status, printed, told = command.here_with_output(*_dry(flags, home))
  assert status == 0, told[-1000:]
  assert "would be made" in printed or "is current" in printed, printed


def _named(commands, pattern):
  return {
    match[1]
    for _, words in commands
    for word in words
    if (match := re.fullmatch(pattern, word))
  }


@pytest.mark.parametrize(
  ("found", "run", "not_run"),
  [
    (
      _named(documented.COMMANDS, r"--config=configs/(?!mine)(\w+)\.py.*"),
      TINY,
      FORMATS,
    ),
    (
      _named(documented.SCRIPTS, r"(launch/\S+)"),
      SCRIPTS,
      SCRIPTS_NOT_RUN,
    ),
    ({words[2] for _, words in documented.MODULES}, MODULES, MODULES_NOT_RUN),
  ],
  ids=["configurations", "scripts", "modules"],
)
def test_each_is_run_by_a_test_or_has_its_reason(found, run, not_run):
  assert found - set(run) - set(not_run) == set(), "in no table"
  assert not set(run) & set(not_run) and all(not_run.values())
  for named in run.values():
    file, _, test = named.partition("::")
    assert f"def {test}" in (test_docs.ROOT / file).read_text(), named


def test_commands_of_others_have_their_reason():
  ours = {id(w) for _, w in [*documented.SCRIPTS, *documented.MODULES]}
  for _, words in documented.COMMANDS:
    if id(words) not in ours and "main.py" not in words:
      assert documented.NOT_CHECKED[words[0]]
