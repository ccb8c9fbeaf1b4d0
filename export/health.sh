#!/bin/bash
# Succeeds when each of the named versions is AVAILABLE: health.sh [MODEL[/versions/NUMBER|/labels/LABEL] ...]
# MODEL alone: any version. The server's REST address is $SERVER (default localhost:8501). Needs bash alone: the server's image has
# no curl. Waits at most 2 seconds for each answer. To wait for a version: until export/health.sh quickstart/versions/2; do sleep 5; done
set -uo pipefail
server=${SERVER:-localhost:8501}

fail() {
  echo "health.sh: $1" >&2
  exit 1
}

check() {
  local line state="" status=""
  { exec 3<>"/dev/tcp/${server%:*}/${server##*:}"; } 2>/dev/null || fail "no server at $server"
  printf 'GET /v1/models/%s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n' "$1" "$server" >&3
  # The last line of the answer may end without a newline.
  while IFS= read -r -t 2 line <&3 || [[ -n $line ]]; do
    [[ -n $status ]] || status=${line%$'\r'}
    if [[ $line =~ \"state\":\ *\"([A-Z_]+)\" ]]; then
      state=${BASH_REMATCH[1]}
      [[ $state != AVAILABLE ]] || break
    fi
    line=""
  done
  exec 3<&-
  [[ $state == AVAILABLE ]] || fail "$1: ${state:-${status:-no answer from $server}}"
}

for model in "${@:-quickstart}"; do
  check "$model"
done
