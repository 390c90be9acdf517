#!/usr/bin/env bash
# Lint and every test: fast, slow, and against torch. Does its own set-up.
# With arguments it runs pytest on those alone:
#   bash launch/test.sh tests/grounding -k ranks
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/venv.sh" "[test,peers]"
# shellcheck disable=SC1091
. .venv/bin/activate
if [ $# -gt 0 ]; then
  exec python -m pytest "$@"
fi
ruff format --check .
ruff check .
python -m pytest -m "slow or torch or not slow" --durations=15
