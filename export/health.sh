#!/bin/bash
# Succeeds when a version of the model answers: health.sh [MODEL] [HOST] [PORT]. Needs bash alone; the server's image has no curl.
set -euo pipefail
model=${1:-quickstart} host=${2:-localhost} port=${3:-8501}
exec 3<>"/dev/tcp/$host/$port"
printf 'GET /v1/models/%s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n' "$model" "$host" >&3
grep -q '"state": *"AVAILABLE"' <&3
