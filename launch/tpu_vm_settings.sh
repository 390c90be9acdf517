# Sourced by tpu_vm.sh: its file of variables, read and checked.

# Reads NAME=VALUE lines; a file is no script, nothing in it is run.
read_settings() {
  local file=$1 number=0 line key
  local known="PROJECT ZONE NAME ACCELERATOR_TYPE RUNTIME_VERSION KIND
    VALID_UNTIL SHARED MOUNT WORKDIR REPOSITORY BRANCH DIRECTORY NETWORK
    SUBNETWORK SERVICE_ACCOUNT CREATE_FLAGS SSH_FLAGS POLL_SECONDS ATTEMPTS
    HEALTHY_SECONDS STOP_SECONDS"
  [ -f "$file" ] || fail "--env: $file: not found, a file of variables expected"
  [ -r "$file" ] || fail "--env: $file: not readable"
  # Not the environment's.
  for key in $known; do
    printf -v "$key" '%s' ""
  done
  while IFS= read -r line || [ -n "$line" ]; do
    number=$((number + 1))
    line=${line%$'\r'}
    [[ $line =~ ^[[:space:]]*(#.*)?$ ]] && continue
    [[ $line =~ ^([A-Z_]+)=(.*)$ ]] ||
      fail "$file:$number: '$line' found, NAME=VALUE expected"
    key=${BASH_REMATCH[1]}
    [[ " ${known//[[:space:]]/ } " == *" $key "* ]] ||
      fail "$file:$number: $key: no such variable, one of" \
        "$(tr -s '[:space:]' ' ' <<<"$known")expected"
    printf -v "$key" '%s' "$(unquoted "${BASH_REMATCH[2]}")"
  done <"$file"
  check_settings "$file"
}

# A value may be in quotes, as in a shell; blanks round it are not of it.
unquoted() {
  local value=$1
  value=${value#"${value%%[![:space:]]*}"}
  value=${value%"${value##*[![:space:]]}"}
  if [[ $value =~ ^\"(.*)\"$ || $value =~ ^\'(.*)\'$ ]]; then
    value=${BASH_REMATCH[1]}
  fi
  printf '%s' "$value"
}

# expect FILE KEY PATTERN WHAT: fails unless the value is like the pattern.
expect() {
  [[ ${!2} =~ ^($3)$ ]] ||
    fail "$1: $2: '${!2}' found, $4 expected"
}

check_settings() {
  local file=$1 word='[A-Za-z0-9][A-Za-z0-9._/-]*' folder='/[A-Za-z0-9._/-]*'
  expect "$file" PROJECT '[a-z][a-z0-9.:-]*[a-z0-9]' "the id of a project"
  expect "$file" ZONE '[a-z]+-[a-z]+[0-9]+-[a-z]' "a zone, e.g. us-central2-b,"
  expect "$file" NAME '[a-z]([a-z0-9-]{0,38}[a-z0-9])?' \
    "at most 40 of a-z, 0-9 and -, the first a letter,"
  expect "$file" ACCELERATOR_TYPE 'v[0-9]+[a-z]*-[0-9]+' \
    "a type, e.g. v5litepod-16,"
  expect "$file" RUNTIME_VERSION "$word" "a version, e.g. v2-alpha-tpuv5-lite,"
  expect "$file" KIND 'on-demand|spot|queued|queued-spot' \
    "on-demand, spot, queued or queued-spot"
  expect "$file" VALID_UNTIL '|[1-9][0-9]*[smhd]' "nothing or e.g. 6h"
  [ -z "$VALID_UNTIL" ] || [[ $KIND == queued* ]] ||
    fail "$file: VALID_UNTIL: '$VALID_UNTIL' found, nothing expected where KIND" \
      "is $KIND"
  expect "$file" SHARED '|gs://[a-z0-9][a-z0-9._-]*|[A-Za-z0-9.-]+:/([^/].*)?' \
    "nothing, gs://BUCKET or HOST:/SHARE"
  expect "$file" MOUNT "$folder" "an absolute path"
  expect "$file" WORKDIR "$folder" \
    "a path below MOUNT (a bucket is mounted there, its URL is no path)"
  [[ $WORKDIR == "${MOUNT%/}"/?* ]] ||
    fail "$file: WORKDIR: '$WORKDIR' found, a path below MOUNT ($MOUNT) expected"
  expect "$file" DIRECTORY '[A-Za-z0-9_][A-Za-z0-9._-]*' \
    "the name of a folder"
  expect "$file" REPOSITORY '|[^[:space:]-][^[:space:]]*' "nothing or a git URL"
  expect "$file" BRANCH "|$word" "nothing or a branch or tag"
  [ -z "$BRANCH" ] || [ -n "$REPOSITORY" ] ||
    fail "$file: BRANCH: '$BRANCH' found, nothing expected where REPOSITORY is" \
      "empty"
  expect "$file" NETWORK "|$word" "nothing or a network"
  expect "$file" SUBNETWORK "|$word" "nothing or a subnetwork"
  expect "$file" SERVICE_ACCOUNT '|[^[:space:]]+@[^[:space:]]+' \
    "nothing or an account's address"
  expect "$file" CREATE_FLAGS '|(--[^[:space:]]+ ?)+' "flags that begin with --"
  expect "$file" SSH_FLAGS '|(--[^[:space:]]+ ?)+' "flags that begin with --"
  expect "$file" POLL_SECONDS '[0-9]+' "a number of seconds"
  expect "$file" ATTEMPTS '[0-9]+' "a number"
  expect "$file" HEALTHY_SECONDS '[0-9]+' "a number of seconds"
  expect "$file" STOP_SECONDS '[0-9]+' "a number of seconds"
}
