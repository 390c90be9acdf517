# Sourced by the scripts beside it: mistakes in one line, and commands that are
# run or, after --dry-run, only printed, quoted so that they can be pasted.
set -euo pipefail

dry_run=""

# A mistake of the user's: one line, status 2.
fail() {
  echo "error: $*" >&2
  exit 2
}

# The comment at the top of a script is its help.
help() {
  sed -n '2,/^[^#]/{s/^# \{0,1\}//p;}' "$1"
}

# Its arguments as words of any POSIX shell; blanks, quotes and line breaks
# arrive as they are. What needs no quotes has none.
quoted() {
  local word words=()
  for word; do
    if [[ $word =~ ^[A-Za-z0-9_@%+=:,./-]+$ ]]; then
      words+=("$word")
    else
      words+=("'${word//\'/\'\\\'\'}'")
    fi
  done
  printf '%s' "${words[*]}"
}

# Runs a command, or prints it.
step() {
  if [ -n "$dry_run" ]; then
    printf '%s\n' "$(quoted "$@")"
  else
    "$@"
  fi
}

# Becomes a command, or prints it and ends.
finish() {
  if [ -n "$dry_run" ]; then
    step "$@"
    exit
  fi
  exec "$@"
}

# Whether a script's own option says to print only.
is_dry_run() {
  [ "${1:-}" = --dry-run ] || [ "${1:-}" = --dry_run ]
}

# set_up EXTRAS: makes .venv and goes to the repository's root.
set_up() {
  if [ -n "$dry_run" ]; then
    step . launch/venv.sh "$1"
    cd "$(dirname "${BASH_SOURCE[0]}")/.."
  else
    . "$(dirname "${BASH_SOURCE[0]}")/venv.sh" "$1"
  fi
}
