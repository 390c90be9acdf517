#!/usr/bin/env bash
# The whole pipeline on a made-up store, on the CPU: set-up, then all stages.
# Further arguments go to main.py, e.g.
#   bash launch/demo.sh --workdir=/tmp/demo --config.generate.num_beams=8
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/venv.sh" ""
demo=(.venv/bin/python main.py --config=configs/demo.py "$@")
"${demo[@]}" --mode=pipeline
echo
echo "Now ask for recommendations, by titles or ids:"
echo "  ${demo[*]} --mode=recommend --history='Garigard Empires - Tavona'"
