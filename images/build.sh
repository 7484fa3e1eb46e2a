#!/usr/bin/env bash
# Build one image: images/build.sh cpu|train|vllm [docker build options, e.g. --build-arg BASE_IMAGE=…]
# The host's pip gathers the wheels, so that mirrors, private certificates and index passwords never
# enter a build; the build's context is those wheels and nothing else of the source tree.
set -euo pipefail
cd "$(dirname "$0")/.."
image=${1:?cpu, train or vllm}; shift
python=${PYTHON_BIN:-.venv/bin/python}
tag=${TAG:-equilibrate/$image:0.1.0}
context=build/images/$image
test -f "images/$image/Dockerfile" || { echo "error: no image $image; choose cpu, train or vllm" >&2; exit 2; }

started=$(date +%s)
rm -rf "$context"; mkdir -p "$context/wheels"
cp "images/$image/Dockerfile" "$context/"
"$python" images/requirements.py "$image" > "$context/requirements.txt"
fetch() { "$python" -m pip wheel --quiet --disable-pip-version-check --wheel-dir "$context/wheels" "$@"; }
case $image in
    cpu) fetch --no-deps -r "$context/requirements.txt" ;;
    train) fetch --no-deps -r "$context/requirements.txt"
           fetch -c "$context/requirements.txt" "$(grep '^torch==' requirements.lock)" ;;
    vllm) cp images/vllm/missing.py "$context/" ;;
esac
rm -rf build/lib build/bdist.*  # files that are gone would enter the wheel, and the digest of its code
fetch --no-deps .
rm -rf build/lib build/bdist.*

revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
git diff --quiet HEAD 2>/dev/null || revision=$revision-dirty
network=none; [ "$image" = vllm ] && network=default
gathered=$(date +%s)
docker build --network="${BUILD_NETWORK:-$network}" --tag "$tag" \
    --build-arg REVISION="$revision" --build-arg VERSION=0.1.0 "$@" "$context"
size=$(docker image inspect --format '{{.Size}}' "$tag")
echo "$tag: $((size / 1000000)) MB, wheels $((gathered - started)) s, build $(($(date +%s) - gathered)) s"
