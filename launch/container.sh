#!/usr/bin/env bash
# Any mode in a container, by docker or podman.
#   bash launch/container.sh [OPTIONS] build
#   bash launch/container.sh [OPTIONS] run --workdir=DIR ARGUMENTS
# What follows `run` goes to main.py. Folders have the same path inside as
# outside, so paths in the arguments mean what they say; the workdir is mounted
# for writing, for reading what --mount names, e.g.
#   bash launch/container.sh --extra=cuda --mount=/models --mount=/data run \
#     --config=configs/game.py --mode=pipeline --workdir=/runs/game \
#     --config.model.path=/models/Qwen2.5-0.5B --config.data.raw_dir=/data/game
# Options:
#   --extra=cpu|cuda|tpu  cpu by default; cuda shows it all GPUs
#   --mount=DIR           a folder to read, as often as needed
#   --engine=NAME         docker or podman; the one that is there by default
#   --image=NAME          bigrec_jax:EXTRA by default
#   --dry-run             print the command, run nothing
#   --help                this text
# SIGTERM and Ctrl-C go on to main.py, which saves what can be resumed.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=steps.sh
. "$here/steps.sh"

extra=cpu engine="" image="" mounts=()
while [ $# -gt 0 ]; do
  case $1 in
    --extra=*) extra=${1#*=} ;;
    --mount=*) mounts+=("${1#*=}") ;;
    --engine=*) engine=${1#*=} ;;
    --image=*) image=${1#*=} ;;
    --dry-run | --dry_run) dry_run=1 ;; # steps.sh reads it.
    --help) help "${BASH_SOURCE[0]}" && exit ;;
    -*) fail "$1: not an option of container.sh; those of main.py come behind run" ;;
    *) break ;;
  esac
  shift
done
command=${1:-}
case $command in
  build | run) shift ;;
  *) fail "container.sh: '$command' found, build or run expected (--help)" ;;
esac
[[ $extra =~ ^(cpu|cuda|tpu)$ ]] ||
  fail "--extra: '$extra' found, cpu, cuda or tpu expected"
image=${image:-bigrec_jax:$extra}
[[ $image =~ ^[a-z0-9][a-zA-Z0-9./_:-]*$ ]] ||
  fail "--image: '$image' found, a name such as bigrec_jax:cuda expected"
case $engine in
  docker | podman) ;;
  "")
    engine=docker
    command -v docker >/dev/null || ! command -v podman >/dev/null || engine=podman
    ;;
  *) fail "--engine: '$engine' found, docker or podman expected" ;;
esac
[ -n "$dry_run" ] || command -v "$engine" >/dev/null ||
  fail "$engine: not found; docker or podman is expected"

if [ "$command" = build ]; then
  [ $# = 0 ] || fail "build: '$1' found, no argument expected"
  finish "$engine" build --build-arg "EXTRA=$extra" --tag "$image" "$here/.."
fi

# A colon would end the path in --volume, a comma in --mount.
check_folder() {
  [[ $2 == /* ]] || fail "$1: '$2' found, an absolute path expected"
  [[ $2 != *:* ]] || fail "$1: '$2' found, a path without a colon expected"
}

workdir="" next=""
for argument; do
  [ -z "$next" ] || workdir=$argument
  next=""
  case $argument in
    --workdir=* | -workdir=*) workdir=${argument#*=} ;;
    --workdir | -workdir) next=1 ;;
  esac
done
[ -n "$workdir" ] || fail "--workdir=DIR is missing: a container keeps nothing"
check_folder --workdir "$workdir"
words=(run --rm --init --user "$(id -u):$(id -g)")
[ "$engine" = docker ] || words+=(--userns=keep-id)
# Interactive only where there is a terminal: in a pipe it would be an error.
[ ! -t 0 ] || [ ! -t 1 ] || words+=(--interactive --tty)
words+=(--volume "$workdir:$workdir")
for mount in ${mounts[@]+"${mounts[@]}"}; do
  check_folder --mount "$mount"
  [ -n "$dry_run" ] || [ -e "$mount" ] || fail "--mount: $mount: not found"
  words+=(--volume "$mount:$mount:ro")
done
# Beside the workdir, where it usually is, nothing can be written.
words+=(--env "JAX_COMPILATION_CACHE_DIR=$workdir/.compilation_cache")
case $extra in
  cuda)
    # NCCL shares memory between processes; a container's default is 64 MiB.
    words+=(--ipc=host)
    if [ "$engine" = docker ]; then
      words+=(--gpus all)
    else
      words+=(--device nvidia.com/gpu=all)
    fi
    ;;
  tpu) words+=(--privileged --network=host) ;;
esac
# Else docker makes it, as root's.
step mkdir -p "$workdir"
finish "$engine" "${words[@]}" "$image" "$@"
