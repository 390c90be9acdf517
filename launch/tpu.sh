#!/usr/bin/env bash
# Any mode on a TPU VM. Of a slice with several hosts every host runs it, e.g.
#   gcloud compute tpus tpu-vm ssh NAME --zone=ZONE --worker=all --command="
#     cd bigrec_jax && bash launch/tpu.sh --config=configs/game.py \
#       --mode=pipeline --workdir=/shared/runs/game ..."
# The workdir has to be on a file system that all hosts share. JAX finds the
# other hosts itself.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/venv.sh" "[tpu]"
exec .venv/bin/python main.py --distributed "$@"
