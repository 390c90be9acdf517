#!/usr/bin/env bash
# Any mode on all NVIDIA GPUs of this machine, by one process: set-up with
# JAX's CUDA 12 libraries, then main.py with the arguments given, e.g.
#   bash launch/gpu.sh --config=configs/game.py --mode=pipeline \
#     --config.model.path=/models/Qwen2.5-0.5B --config.model.dtype=bfloat16
# Several machines: start it on each with --distributed and, where SLURM does
# not say it, JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/venv.sh" "[cuda]"
exec .venv/bin/python main.py "$@"
