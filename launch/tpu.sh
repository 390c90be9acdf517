#!/usr/bin/env bash
# Any mode on a TPU VM: set-up, then main.py --distributed with the arguments
# given. Of a slice with several hosts every host runs it; JAX finds the others
# itself. The workdir has to be on a file system that all hosts share.
# launch/tpu_vm.sh makes a slice and has all its hosts do so; by hand it is
#   gcloud compute tpus tpu-vm ssh NAME --zone=ZONE --worker=all --command="
#     cd bigrec_jax && bash launch/tpu.sh --config=configs/game.py \
#       --mode=pipeline --workdir=/shared/runs/game ..."
# Its own options come first, all else goes to main.py:
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
set_up "[tpu]"
finish .venv/bin/python main.py --distributed "$@"
