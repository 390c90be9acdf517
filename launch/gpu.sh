#!/usr/bin/env bash
# Any mode on the NVIDIA GPUs of this machine: set-up with JAX's CUDA 12
# libraries, then main.py with the arguments given, e.g.
#   bash launch/gpu.sh --config=configs/game.py --mode=pipeline \
#     --config.model.path=/models/Qwen2.5-0.5B --config.model.dtype=bfloat16
# Its own options come first, all else goes to main.py:
#   --processes=N  N processes that share the GPUs evenly; 1 by default, which
#                  drives them all and is what one machine needs
#   --dry-run      print the commands, run none; as if each process had one GPU
#   --help         this text
# Several machines: launch/slurm.sbatch under SLURM; elsewhere start it on each
# with --distributed, JAX_COORDINATOR_ADDRESS (host:port), JAX_NUM_PROCESSES and
# JAX_PROCESS_ID. SIGTERM goes on to main.py, which saves what can be resumed.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=steps.sh
. "$here/steps.sh"

processes=1
while [ $# -gt 0 ]; do
  case $1 in
    --dry-run | --dry_run) dry_run=1 ;; # steps.sh reads it.
    --processes=*) processes=${1#*=} ;;
    --help) help "${BASH_SOURCE[0]}" && exit ;;
    *) break ;;
  esac
  shift
done
[[ $processes =~ ^[1-9][0-9]*$ ]] ||
  fail "--processes: '$processes' found, a number of at least 1 expected"

# The GPUs that this process sees; SLURM may show it fewer than there are.
count_gpus() {
  command -v nvidia-smi >/dev/null ||
    fail "nvidia-smi: not found; a machine with NVIDIA's driver is expected" \
      "(launch/demo.sh runs on a CPU, launch/tpu.sh on a TPU)"
  local listed
  listed=$(nvidia-smi --list-gpus 2>&1) ||
    fail "nvidia-smi: $(head -n 1 <<<"$listed")"
  gpus=$(grep -c '^GPU' <<<"$listed" || true)
  [ "$gpus" -gt 0 ] || fail "nvidia-smi: no GPU listed, at least 1 expected"
}

# "4,5,6,7" for process 1 of 2 on 8 GPUs.
share() {
  local number=$1 of=$2 size=$((gpus / $2))
  [ $((gpus % of)) = 0 ] ||
    fail "processes: $of found, a divisor of the $gpus GPUs expected"
  seq -s, $((number * size)) $((number * size + size - 1))
}

gpus=0
if [ -n "$dry_run" ]; then
  gpus=$processes
else
  count_gpus
fi
set_up "[cuda]"
python=(.venv/bin/python main.py)

# A task of srun. JAX finds the others itself, but takes one GPU a process for
# granted: all that a task sees are its own, else its share of the node's.
if [ -n "${SLURM_PROCID:-}" ] && [ -z "$dry_run" ] && [ "$processes" = 1 ]; then
  here_too=${SLURM_STEP_TASKS_PER_NODE:-1}
  here_too=${here_too%%[^0-9]*}
  number=${SLURM_LOCALID:-0}
  if [ "$gpus" = 1 ] || [ "${here_too:-1}" = 1 ]; then
    here_too=1 number=0
  fi
  JAX_LOCAL_DEVICE_IDS=$(share "$number" "${here_too:-1}")
  export JAX_LOCAL_DEVICE_IDS
  [ "${SLURM_NTASKS:-1}" = 1 ] || python+=(--distributed)
fi

[ "$processes" != 1 ] || finish "${python[@]}" "$@"

port=$((20000 + $$ % 20000))
children=()
# shellcheck disable=SC2329  # A trap calls it.
forward() {
  kill -TERM "${children[@]}" 2>/dev/null || true
}
trap forward TERM INT
for ((number = 0; number < processes; number++)); do
  given=(
    "JAX_COORDINATOR_ADDRESS=localhost:$port"
    "JAX_NUM_PROCESSES=$processes"
    "JAX_PROCESS_ID=$number"
    "JAX_LOCAL_DEVICE_IDS=$(share "$number" "$processes")"
  )
  if [ -n "$dry_run" ]; then
    step env "${given[@]}" "${python[@]}" --distributed "$@"
  else
    env "${given[@]}" "${python[@]}" --distributed "$@" &
    children+=($!)
  fi
done

# Waits for all; the first that failed says how this ends. A signal ends a wait
# before its process has, so each is waited for until it is gone.
status=0
for child in ${children[@]+"${children[@]}"}; do
  own=0
  wait "$child" || own=$?
  while kill -0 "$child" 2>/dev/null; do
    own=0
    wait "$child" || own=$?
  done
  [ "$status" != 0 ] || status=$own
done
exit "$status"
