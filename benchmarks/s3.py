"""Upload and download of one large file: ours against boto3's transfer manager, on a real store.

`python benchmarks/s3.py [--megabytes 1000] [--rounds 2]`: SeaweedFS on loopback, each measurement
in a process of its own, ours and theirs by turns. Ours verifies SHA-256 at both ends; theirs is
boto3 with its default checksums.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from equilibrate_core.s3 import create_bucket, download_file, upload_file
from equilibrate_core.s3_client import connect
from pipelines.object_store import object_store

BUCKET = "s3://benchmark"


def transfer(direction: str, who: str, path: Path) -> None:
    """One measured transfer in this process; prints seconds and the growth of its memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    connect()  # imports and endpoint rules are not what is measured
    key = f"{who}-file"
    started = time.perf_counter()
    if who == "ours" and direction == "up":
        upload_file(path, f"{BUCKET}/{key}")
    elif who == "ours":
        download_file(f"{BUCKET}/{key}", path)
    elif direction == "up":
        connect().upload_file(str(path), "benchmark", key)
    else:
        connect().download_file("benchmark", key, str(path))
    seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": seconds, "memory_mb": (after - before) / 1024}))


def measured(direction: str, who: str, path: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--transfer", direction, who, str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def compare(megabytes: int, rounds: int, folder: Path) -> None:
    source, back = folder / "source", folder / "back"
    with source.open("wb") as file:
        for _ in range(megabytes):
            file.write(os.urandom(1_000_000))
    results: dict[tuple[str, str], list[dict[str, float]]] = {}
    for _ in range(rounds):
        for direction, path in (("up", source), ("down", back)):
            for who in ("ours", "theirs"):
                results.setdefault((direction, who), []).append(measured(direction, who, path))
    for direction in ("up", "down"):
        speeds = {}
        for who in ("ours", "theirs"):
            runs = results[direction, who]
            speeds[who] = megabytes / statistics.median(r["seconds"] for r in runs)
            memory = max(r["memory_mb"] for r in runs)
            print(f"{direction:5} {who:7} {speeds[who]:6.0f} MB/s, memory +{memory:.0f} MB")
        print(f"{direction:5} ratio   {speeds['ours'] / speeds['theirs']:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--transfer", nargs=3, metavar=("DIRECTION", "WHO", "PATH"))
    arguments = parser.parse_args()
    if arguments.transfer:
        direction, who, path = arguments.transfer
        transfer(direction, who, Path(path))
        return
    with tempfile.TemporaryDirectory() as name, object_store(Path(name) / "store") as store:
        os.environ.update(store.environment)
        create_bucket(BUCKET)
        compare(arguments.megabytes, arguments.rounds, Path(name))


if __name__ == "__main__":
    main()
