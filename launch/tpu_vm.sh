#!/usr/bin/env bash
# Any mode on a Cloud TPU slice, from this machine, through gcloud.
#   bash launch/tpu_vm.sh [--env FILE] [--dry-run] COMMAND [ARGUMENTS]
# Commands:
#   create            the slice: on demand, spot or as a queued resource
#   install           the repository, Python, shared folder and .venv on workers
#   run ARGUMENTS     main.py --distributed ARGUMENTS on every worker, in the
#                     background; --workdir is WORKDIR unless it is named
#   tail [WORKER]     the log of a worker, 0 by default, and what comes
#   status            the slice, and the run of every worker
#   resume ARGUMENTS  sees to it that the run ends: makes the slice if it isn't
#                     there or was preempted, installs, runs, waits, again and
#                     again; the same command goes on where it was
#   stop              SIGTERM to the run, which saves; waits for it
#   delete            the slice; what is in WORKDIR stays
# Options:
#   --env FILE        variables; launch/tpu_vm.env, which is to be filled in,
#                     explains them
#   --dry-run         print every command, run none
# Exit status: that of the command that failed; 2 after a mistake. docs/launch.md
# has an example.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=steps.sh
. "$here/steps.sh"
# shellcheck source=tpu_vm_settings.sh
. "$here/tpu_vm_settings.sh"

env_file=$here/tpu_vm.env
while [ $# -gt 0 ]; do
  case $1 in
    --env)
      [ $# -gt 1 ] || fail "--env: no file found, one expected behind it"
      env_file=$2
      shift
      ;;
    --env=*) env_file=${1#*=} ;;
    --dry-run | --dry_run) dry_run=1 ;; # steps.sh reads it.
    --help) help "${BASH_SOURCE[0]}" && exit ;;
    -*) fail "$1: not an option of tpu_vm.sh; those of main.py come behind run" ;;
    *) break ;;
  esac
  shift
done
[ $# -gt 0 ] || fail "tpu_vm.sh: no command found, one of create, install, run," \
  "tail, status, resume, stop, delete expected (--help)"
command=$1
shift
case $command in
  create | install | run | tail | status | resume | stop | delete) ;;
  *) fail "$command: not a command; one of create, install, run, tail, status," \
    "resume, stop, delete expected" ;;
esac
case $command in
  run | resume)
    [ $# -gt 0 ] || fail "$command: no arguments for main.py found, e.g." \
      "--config=configs/game.py --mode=pipeline expected"
    ;;
  tail) [ $# -le 1 ] || fail "tail: $# arguments found, one worker expected" ;;
  *) [ $# = 0 ] || fail "$command: '$1' found, no argument expected" ;;
esac
[ "$command" != tail ] || [[ ${1:-0} =~ ^[0-9]+$ ]] ||
  fail "tail: '$1' found, the number of a worker expected"
read_settings "$env_file"
[ -n "$dry_run" ] || command -v gcloud >/dev/null ||
  fail "gcloud: not found; https://cloud.google.com/sdk/docs/install has it"

# read_settings sets those in capitals.
# shellcheck disable=SC2153
where=(--project="$PROJECT" --zone="$ZONE")
# shellcheck disable=SC2153
queue=$NAME-queued
# shellcheck disable=SC2153
read -ra ssh_flags <<<"$SSH_FLAGS"
# shellcheck disable=SC2153
read -ra create_flags <<<"$CREATE_FLAGS"
is_queued() { [[ $KIND == queued* ]]; }

# Runs gcloud; a failure ends the script with its status and a line.
gcloud_step() {
  local status=0
  step gcloud "$@" || status=$?
  [ "$status" = 0 ] || broken "$status" "$@"
}

broken() {
  echo "error: $(quoted gcloud "${@:2}") ended with status $1" >&2
  exit "$1"
}

# Runs a command on workers: remote WORKERS WORDS. Its words pass the shell
# there once more.
remote() {
  step gcloud compute tpus tpu-vm ssh "$NAME" "${where[@]}" \
    ${ssh_flags[@]+"${ssh_flags[@]}"} --worker="$1" \
    --command="cd $(quoted "$DIRECTORY") && $(quoted "${@:2}")"
}

on_workers() {
  local status=0
  remote "$@" || status=$?
  if [ "$status" != 0 ]; then
    echo "error: $(quoted "${@:2:3}") on worker $1 of $NAME ended with status" \
      "$status" >&2
    exit "$status"
  fi
}

# Sets `state`, e.g. ACTIVE or READY, MISSING where there is none of the name.
# gcloud's answer to anything else is the user's to read.
look() {
  local kind=$1 name=$2 field=$3 status=0 errors
  local words=(compute tpus "$kind" describe "$name" "${where[@]}")
  words+=(--format="value($field)")
  if [ -n "$dry_run" ]; then
    step gcloud "${words[@]}"
    state=DRY
    return
  fi
  errors=$(mktemp)
  state=$(gcloud "${words[@]}" 2>"$errors") || status=$?
  if [ "$status" != 0 ] && grep -qiE 'NOT_FOUND|not found' "$errors"; then
    state=MISSING
  elif [ "$status" != 0 ]; then
    cat "$errors" >&2
    rm -f "$errors"
    broken "$status" "${words[@]}"
  fi
  rm -f "$errors"
}

look_at_slice() { look tpu-vm "$NAME" state; }
look_at_queue() { look queued-resources "$queue" state.state; }

# Waits until the slice can be used.
await() {
  local said=""
  while true; do
    if is_queued; then look_at_queue; else look_at_slice; fi
    case $state in
      ACTIVE | READY | DRY) return ;;
      FAILED | SUSPENDING | SUSPENDED | PREEMPTED | TERMINATED | MISSING)
        return 1
        ;;
    esac
    [ "$state" = "$said" ] || echo "$NAME: $state"
    said=$state
    sleep "$POLL_SECONDS"
  done
}

create() {
  local words=("--accelerator-type=$ACCELERATOR_TYPE")
  [ -z "$NETWORK" ] || words+=("--network=$NETWORK")
  [ -z "$SUBNETWORK" ] || words+=("--subnetwork=$SUBNETWORK")
  [ -z "$SERVICE_ACCOUNT" ] || words+=("--service-account=$SERVICE_ACCOUNT")
  [[ $KIND != *spot ]] || words+=(--spot)
  words+=(${create_flags[@]+"${create_flags[@]}"})
  if is_queued; then
    [ -z "$VALID_UNTIL" ] || words+=("--valid-until-duration=$VALID_UNTIL")
    gcloud_step compute tpus queued-resources create "$queue" "${where[@]}" \
      --node-id="$NAME" --runtime-version="$RUNTIME_VERSION" "${words[@]}"
  else
    gcloud_step compute tpus tpu-vm create "$NAME" "${where[@]}" \
      --version="$RUNTIME_VERSION" "${words[@]}"
  fi
  if ! await; then
    echo "error: $NAME is $state after create; delete it and create it again," \
      "in another zone or of another kind if there is no capacity" >&2
    exit 1
  fi
}

delete() {
  if is_queued; then
    # --force: its slice, too.
    gcloud_step compute tpus queued-resources delete "$queue" "${where[@]}" \
      --force --quiet
  else
    gcloud_step compute tpus tpu-vm delete "$NAME" "${where[@]}" --quiet
  fi
}

# Copies the tracked files as they are here, changes included.
copy_checkout() {
  local archive name=bigrec_jax-$NAME.tar.gz
  if [ -n "$dry_run" ]; then
    archive=/tmp/$name
  else
    archive=$(mktemp -d)/$name
  fi
  # shellcheck disable=SC2016  # The inner shell expands them.
  step bash -c \
    'git -C "$1" ls-files -z | tar -C "$1" --null -T - -czf "$2"' \
    pack "$here/.." "$archive"
  gcloud_step compute tpus tpu-vm scp "$archive" "$NAME:$name" \
    "${where[@]}" ${ssh_flags[@]+"${ssh_flags[@]}"} --worker=all
  [ -n "$dry_run" ] || rm -r "$(dirname "$archive")"
  unpack "tar -C $(quoted "$DIRECTORY") -xzf $(quoted "$name")"
}

# Runs a line of shell where the repository is only about to be.
unpack() {
  gcloud_step compute tpus tpu-vm ssh "$NAME" "${where[@]}" \
    ${ssh_flags[@]+"${ssh_flags[@]}"} --worker=all \
    --command="mkdir -p $(quoted "$DIRECTORY") && $1"
}

install() {
  if [ -z "$REPOSITORY" ]; then
    copy_checkout
  else
    local own into branch
    own=$(quoted "$REPOSITORY")
    into=$(quoted "$DIRECTORY")
    branch=$(quoted "${BRANCH:-HEAD}")
    unpack "cd $into && git init -q && git fetch -q --depth=1 $own $branch &&
git checkout -q --force FETCH_HEAD"
  fi
  prepare
}

prepare() {
  on_workers all bash launch/worker.sh prepare "$SHARED" "$MOUNT"
}

# Sets `arguments`: those of main.py, with a workdir.
with_workdir() {
  local argument
  arguments=("$@")
  for argument; do
    case $argument in --workdir | --workdir=* | -workdir | -workdir=*) return ;; esac
  done
  arguments+=("--workdir=$WORKDIR")
}

# A worker that was rebooted has lost its mounts, so it is prepared each time: a
# run would write to its own disk.
run() {
  with_workdir "$@"
  prepare
  on_workers all bash launch/worker.sh start "$NAME" "${arguments[@]}"
}

status() {
  if is_queued; then
    look_at_queue
    [ -n "$dry_run" ] || echo "$queue: $state"
  fi
  look_at_slice
  [ -n "$dry_run" ] || echo "$NAME: $state"
  case $state in
    READY | DRY) on_workers all bash launch/worker.sh status "$NAME" ;;
  esac
}

# Sets `slice` to ready, waiting or gone.
judge_slice() {
  slice=waiting
  if is_queued; then
    look_at_queue
    case $state in
      ACTIVE | DRY) ;;
      FAILED | SUSPENDING | SUSPENDED | MISSING) slice=gone && return ;;
      *) return ;;
    esac
  fi
  look_at_slice
  case $state in
    READY | DRY) slice=ready ;;
    PREEMPTED | TERMINATED | STOPPED | SUSPENDED | MISSING) slice=gone ;;
  esac
}

# Deletes what is left of a slice and makes it anew.
recreate() {
  if is_queued; then look_at_queue; else look_at_slice; fi
  # What is just being suspended can't be deleted yet.
  while [ "$state" = SUSPENDING ] || [ "$state" = DELETING ]; do
    sleep "$POLL_SECONDS"
    if is_queued; then look_at_queue; else look_at_slice; fi
  done
  [ "$state" = MISSING ] || delete
  create
}

resume() {
  local failures=0 silences=0 since=$SECONDS report standing
  if [ -n "$dry_run" ]; then
    echo "# Until the run has ended: while the slice is gone"
    judge_slice
    recreate
    install
    echo "# where it does not run"
    run "$@"
    echo "# and every $POLL_SECONDS s"
    remote all bash launch/worker.sh status "$NAME"
    return
  fi
  while true; do
    judge_slice
    if [ "$slice" = gone ]; then
      echo "$NAME: ${state:-unknown}; made again"
      recreate
      install
      run "$@"
      since=$SECONDS
    elif [ "$slice" = ready ]; then
      standing=silent
      if report=$(remote all bash launch/worker.sh status "$NAME" 2>/dev/null); then
        standing=$(worst "$report")
      fi
      [ "$standing" = silent ] || silences=0
      case $standing in
        running) ;;
        none)
          install
          run "$@"
          since=$SECONDS
          ;;
        "ended 0")
          echo "$NAME: the run has ended"
          return
          ;;
        stopped*)
          echo "$NAME: the run was stopped: status ${standing#stopped }"
          exit "${standing#stopped }"
          ;;
        "ended 2")
          echo "error: $NAME: the run ended with status 2, a mistake in what was" \
            "asked; $(quoted bash "$0" --env "$env_file" tail) shows it" >&2
          exit 2
          ;;
        silent)
          silences=$((silences + 1))
          # A preempted slice may be ready for a last look.
          give_up_after "$silences" "a worker does not answer" 1
          ;;
        *)
          # What ran for long has come further than the failure before.
          [ $((SECONDS - since)) -lt "$HEALTHY_SECONDS" ] || failures=0
          failures=$((failures + 1))
          local status=${standing#ended }
          [[ $standing == ended* ]] || status=1
          give_up_after "$failures" "$standing" "$status"
          run "$@"
          since=$SECONDS
          ;;
      esac
    fi
    sleep "$POLL_SECONDS"
  done
}

# give_up_after COUNT WHAT STATUS: ends, or says that it goes on.
give_up_after() {
  if [ "$1" -gt "$ATTEMPTS" ]; then
    echo "error: $NAME: $2, after $ATTEMPTS attempts in a row" >&2
    exit "$3"
  fi
  echo "$NAME: $2; again ($1 of $ATTEMPTS)"
}

# Of all workers' reports the one that decides: while any runs, it runs; then a
# failure, before the status 2 of workers that stopped because of it; and only
# where nothing else is reported, that all is well.
worst() {
  local kind found
  local kinds=('running [0-9]+' 'stopped [0-9]+' 'ended ([13-9]|[0-9]{2,})' died)
  for kind in "${kinds[@]}" 'ended 2' none 'ended 0'; do
    if found=$(grep -oE -m 1 ": $kind\$" <<<"$1"); then
      found=${found#: }
      [[ $found != running* ]] || found=running
      echo "$found"
      return
    fi
  done
  echo silent
}

case $command in
  tail) on_workers "${1:-0}" bash launch/worker.sh tail "$NAME" ;;
  stop) on_workers all bash launch/worker.sh stop "$NAME" "$STOP_SECONDS" ;;
  *) "$command" "$@" ;;
esac
