# Sourced by the scripts beside it: makes .venv and installs into it.
# Usage: . launch/venv.sh EXTRAS   (e.g. "", "[test,peers]", "[cuda]", "[tpu]")
# Needs Python 3.11 or newer and nothing else. A finished installation of the
# same requirements is used again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3.11 python3.12 python3.13 python3; do
    if [ -n "$candidate" ] && command -v "$candidate" >/dev/null &&
      "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
      command -v "$candidate"
      return
    fi
  done
  echo "error: python3: none found, version 3.11 or newer expected" >&2
  exit 2
}

install() {
  local extras=$1 want stamp=.venv/installed.txt
  want="$extras $(cat pyproject.toml constraints.txt | cksum)"
  if [ -f "$stamp" ] && grep -qxF -- "$want" "$stamp"; then
    return
  fi
  # Of several that start at once one installs; the others wait and find it.
  if command -v flock >/dev/null && [ -z "${locked:-}" ]; then
    mkdir -p .venv
    local locked=1 lock
    exec {lock}>.venv/lock
    flock "$lock"
    install "$extras"
    exec {lock}>&-
    return
  fi
  [ -x .venv/bin/python ] || "$(find_python)" -m venv .venv
  echo "installing bigrec_jax$extras into .venv"
  # jax[tpu] pins the libtpu that it runs on; ours only compiles.
  if [ "$extras" = "[tpu]" ]; then
    grep -v "^libtpu==" constraints.txt >.venv/constraints.txt
  else
    cp constraints.txt .venv/constraints.txt
  fi
  .venv/bin/python -m pip install --quiet --disable-pip-version-check \
    --constraint .venv/constraints.txt --editable ".$extras"
  echo "$want" >>"$stamp"
}

install "${1:-}"
