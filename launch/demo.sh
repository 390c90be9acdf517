#!/usr/bin/env bash
# The whole pipeline on a made-up store, on the CPU: set-up, then all stages.
# Further arguments go to main.py, e.g.
#   bash launch/demo.sh --workdir=/tmp/demo --config.generate.num_beams=8
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
demo=(.venv/bin/python main.py --config=configs/demo.py "$@")
step "${demo[@]}" --mode=pipeline
[ -z "$dry_run" ] || exit 0
echo
echo "Now ask for recommendations, by titles or ids:"
echo "  $(quoted "${demo[@]}") --mode=recommend --history='Garigard Empires - Tavona'"
