#!/usr/bin/env bash
# Run a command with a docker daemon: the one that answers, else a private one on a folder of its own,
# stopped at the end. images/private_dockerd.sh FOLDER COMMAND…
# The private daemon needs root and Debian's docker.io. It makes no bridge and touches no firewall rule.
set -euo pipefail
folder=$(mkdir -p "${1:?folder}" && cd "$1" && pwd); shift
if docker info > /dev/null 2>&1; then exec "$@"; fi
command -v dockerd > /dev/null || {
    echo "error: no docker daemon answers and none can be started: install docker.io, or set DOCKER_HOST" >&2
    exit 2
}
export DOCKER_HOST=unix://$folder/docker.sock
dockerd --host="$DOCKER_HOST" --data-root="$folder/data" --exec-root="$folder/run" --pidfile="$folder/pid" \
    --bridge=none --iptables=false --ip-forward=false --ip-masq=false > "$folder/dockerd.log" 2>&1 < /dev/null &
daemon=$!
trap 'kill "$daemon" 2> /dev/null; wait "$daemon" || true' EXIT
for _ in $(seq 150); do
    if docker info > /dev/null 2>&1; then "$@"; exit $?; fi
    kill -0 "$daemon" 2> /dev/null || break
    sleep 0.2
done
echo "error: the private docker daemon did not come up; the end of $folder/dockerd.log:" >&2
tail -5 "$folder/dockerd.log" >&2
exit 1
