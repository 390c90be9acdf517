#!/usr/bin/env bash
# What launch/tpu_vm.sh has each worker of a slice do. A run goes on when the
# connection that started it is gone; its process, log and exit status are kept
# by the run's name in ~/.local/state/bigrec_jax/NAME.
#   bash launch/worker.sh prepare SHARED MOUNT  Python, shared folder, .venv
#   bash launch/worker.sh start NAME ARGUMENTS  launch/tpu.sh in the background
#   bash launch/worker.sh status NAME           "HOST: running PID", "ended 0", ...
#   bash launch/worker.sh tail NAME             the log, and what comes
#   bash launch/worker.sh stop NAME SECONDS     SIGTERM; waits for its end
set -euo pipefail
# shellcheck source=steps.sh
. "$(dirname "${BASH_SOURCE[0]}")/steps.sh"
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Sets `state`, the folder of a run.
named() {
  [[ ${1:-} =~ ^[a-z][a-z0-9-]*$ ]] ||
    fail "worker.sh: '${1:-}' found, the name of a run expected"
  state=${XDG_STATE_HOME:-$HOME/.local/state}/bigrec_jax/$1
}

# Whether the run's process is there; a number may be another's after a reboot.
is_running() {
  local pid
  pid=$(cat "$state/pid" 2>/dev/null) || return 1
  [[ $(ps -o args= -p "$pid" 2>/dev/null) == *"worker.sh supervise "* ]]
}

standing() {
  local status
  # First: it writes its status down before it is gone.
  if is_running; then
    echo "running $(cat "$state/pid")"
  elif status=$(cat "$state/status" 2>/dev/null); then
    if [ -f "$state/stopped" ] && [ "$status" != 0 ]; then
      echo "stopped $status"
    else
      echo "ended $status"
    fi
  elif [ -f "$state/pid" ]; then
    echo "died"
  else
    echo "none"
  fi
}

install_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3.11 python3.12 python3.13 python3; do
    if [ -n "$candidate" ] && command -v "$candidate" >/dev/null &&
      "$candidate" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))'; then
      return
    fi
  done
  # Images of TPU VMs may be of Ubuntu 22.04, whose Python is 3.10.
  sudo add-apt-repository -y ppa:deadsnakes/ppa
  sudo apt-get update
  sudo apt-get install -y python3.11 python3.11-venv
}

install_gcsfuse() {
  command -v gcsfuse >/dev/null && return
  local key=/usr/share/keyrings/cloud.google.asc
  local site=https://packages.cloud.google.com/apt
  curl -fsS "$site/doc/apt-key.gpg" | sudo tee "$key" >/dev/null
  echo "deb [signed-by=$key] $site gcsfuse-$(lsb_release -c -s) main" |
    sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
  sudo apt-get update
  sudo apt-get install -y gcsfuse
}

mount_shared() {
  local shared=$1 mount=$2
  [ -n "$shared" ] || return 0
  if mountpoint -q "$mount"; then
    return
  fi
  sudo mkdir -p "$mount"
  case $shared in
    gs://*)
      install_gcsfuse
      sudo chown "$(id -u):$(id -g)" "$mount"
      # --implicit-dirs: folders that other tools made as mere prefixes.
      gcsfuse --implicit-dirs "${shared#gs://}" "$mount"
      ;;
    *)
      command -v mount.nfs >/dev/null || sudo apt-get install -y nfs-common
      sudo mount -t nfs "$shared" "$mount"
      ;;
  esac
}

start() {
  mkdir -p "$state"
  exec {lock}>"$state/lock"
  flock "$lock"
  if is_running; then
    [ "$(cat "$state/command")" = "$(quoted "$@")" ] ||
      fail "worker.sh: another command runs as $name: $(cat "$state/command")"
    echo "$HOSTNAME: runs already, $(cat "$state/pid")"
    return
  fi
  quoted "$@" >"$state/command"
  rm -f "$state/status" "$state/pid" "$state/stopped"
  # A process group of its own, without the lock.
  setsid nohup bash launch/worker.sh supervise "$name" "$@" \
    </dev/null >>"$state/log" 2>&1 {lock}>&- &
  echo $! >"$state/pid"
  # Its process is not yet what `is_running` knows it by.
  for _ in {1..100}; do
    ! is_running && [ ! -f "$state/status" ] || break
    sleep 0.05
  done
  echo "$HOSTNAME: started $!, log $state/log"
}

# SIGTERM goes to the whole group: here it only must not end the shell that
# writes the exit status down.
supervise() {
  trap : TERM INT HUP
  local status=0
  echo "$(date -u +%FT%TZ) $(quoted bash launch/tpu.sh "$@")"
  bash launch/tpu.sh "$@" || status=$?
  echo "$(date -u +%FT%TZ) ended with status $status"
  echo "$status" >"$state/status.part"
  mv "$state/status.part" "$state/status"
}

stop() {
  local end=$((SECONDS + $1))
  if is_running; then
    touch "$state/stopped"
    kill -TERM -- "-$(cat "$state/pid")"
    while is_running && [ "$SECONDS" -lt "$end" ]; do
      sleep 0.2
    done
    if is_running; then
      echo "error: $HOSTNAME: still saving after $1 s; ask again" >&2
      exit 1
    fi
  fi
  echo "$HOSTNAME: $(standing)"
}

command=${1:-}
[ $# = 0 ] || shift
case $command in
  prepare)
    install_python
    mount_shared "${1:-}" "${2:-}"
    . launch/venv.sh "[tpu]"
    echo "$HOSTNAME: ready"
    ;;
  start | status | tail | stop | supervise)
    named "${1:-}"
    name=$1
    shift
    case $command in
      status) echo "$HOSTNAME: $(standing)" ;;
      tail)
        [ -f "$state/log" ] || fail "$HOSTNAME: $state/log: no run of this name"
        exec tail -n 100 -F "$state/log"
        ;;
      *) "$command" "$@" ;;
    esac
    ;;
  --help) help "${BASH_SOURCE[0]}" ;;
  *) fail "worker.sh: '$command' found, prepare, start, status, tail or stop" \
    "expected" ;;
esac
