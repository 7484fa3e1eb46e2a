#!/usr/bin/env bash
# A base image where no registry answers: Debian 12 with Python 3.11, from Debian's own archive.
# images/debian_base.sh [TAG]; needs root, mmdebstrap (or debootstrap) and a docker daemon.
set -euo pipefail
tag=${1:-equilibrate/debian-base:bookworm}
packages=python3,python3-venv,ca-certificates
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if command -v mmdebstrap > /dev/null; then
    mmdebstrap --variant=minbase --include=$packages bookworm "$folder/root.tar"
elif command -v debootstrap > /dev/null; then
    debootstrap --variant=minbase --include=$packages bookworm "$folder/root"
    tar --numeric-owner -C "$folder/root" -cf "$folder/root.tar" .
else
    echo "error: neither mmdebstrap nor debootstrap is here; install one (apt-get install mmdebstrap)" >&2
    exit 2
fi
docker import --change 'CMD ["python3"]' "$folder/root.tar" "$tag"
