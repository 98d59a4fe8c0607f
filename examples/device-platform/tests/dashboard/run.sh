#!/usr/bin/env bash
# Runs the platform on a free port and looks at its dashboard: run.sh BINARY OUTPUT_DIRECTORY
set -euo pipefail
binary=$(realpath "$1")
mkdir -p "$2"
output=$(realpath "$2")
cd "$(dirname "$0")"

log=$(mktemp)
"$binary" --listen 127.0.0.1:0 --speed 1500 >"$log" 2>&1 &
platform=$!
trap 'kill "$platform" 2>/dev/null || true; wait "$platform" 2>/dev/null || true; rm -f "$log"' EXIT

address=""
for _ in $(seq 300); do
    address=$(sed -n 's/^dashboard and API: //p' "$log")
    [ -n "$address" ] && break
    kill -0 "$platform" 2>/dev/null || { cat "$log"; exit 1; }
    sleep 0.1
done
[ -n "$address" ] || { echo "the platform did not start"; cat "$log"; exit 1; }
# The dashboard is to show some history.
for _ in $(seq 300); do
    [ "$(curl -s "$address/api/v1/readings?device_id=office-c&limit=600" | grep -o '"id"' | wc -l)" -ge 500 ] && break
    sleep 0.2
done
node dashboard.mjs "$address" "$output"
