#!/usr/bin/env bash
# Build the CPU image (on a Debian base made here when no registry answers) and run the pipeline on it.
# images/test_containers.sh [pytest options]; `make test-containers` gives it a docker daemon.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON_BIN:-.venv/bin/python}
docker buildx version > /dev/null 2>&1 || export DOCKER_BUILDKIT=0
base=$(sed -n 's/^ARG BASE_IMAGE=//p' images/cpu/Dockerfile)
if ! docker image inspect "$base" > /dev/null 2>&1 && ! timeout 300 docker pull --quiet "$base"; then
    base=equilibrate/debian-base:bookworm
    docker image inspect "$base" > /dev/null 2>&1 || images/debian_base.sh "$base"
fi
images/build.sh cpu --build-arg BASE_IMAGE="$base"
"$python" -m pytest -m containers tests/containers "$@"
