"""import_data on a million JSONL rows, against pyarrow reading the same bytes plus their SHA-256.

    python benchmarks/import_data.py [--rows 1000000]

One row in a thousand is malformed. The stage does what the peer does not: checks every value, gives
every row its id, finds duplicates, keeps reasons for bad rows and writes three verified artifacts.
"""

import argparse
import hashlib
import json
import random
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow.json as pj

from components.import_data.config import ImportDataConfig
from components.import_data.stage import import_data
from equilibrate_core.config import parse_config

BAD_EVERY = 1000


def write_rows(path: Path, number: int) -> None:
    rng = random.Random(0)
    words = [f"{a}{b}" for a in ("ba", "ke", "lo", "mi", "nu") for b in ("rst", "vex", "zan")]
    with path.open("w") as file:
        for i in range(number):
            row = {"prompt": f"{' '.join(rng.choices(words, k=14))} {i}?", "category": "EHD"}
            if i % BAD_EVERY == 1:
                row["category"] = "unknown"
            file.write(json.dumps(row) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    arguments = parser.parse_args()
    with TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "rows.jsonl"
        write_rows(path, arguments.rows)
        started = time.perf_counter()
        pj.read_json(path)
        with path.open("rb") as file:
            hashlib.file_digest(file, "sha256")
        peer = time.perf_counter() - started
        source = {"name": "s", "uri": str(path), "adapter": "prompts"}
        config = parse_config({"sources": [source]}, ImportDataConfig, "benchmark")
        started = time.perf_counter()
        outputs = {part: folder / part for part in ("prompts", "pairs", "quarantine")}
        metrics = import_data(config, **outputs)
        ours = time.perf_counter() - started
        assert metrics["rows_read"] == arguments.rows
        print(f"{arguments.rows} rows, {path.stat().st_size / 1e6:.0f} MB")
        print(f"pyarrow.json + SHA-256: {peer:.2f} s; import_data: {ours:.2f} s")
        print(f"{ours / peer:.1f} times; {metrics['rows_quarantined']:.0f} rows in quarantine")


if __name__ == "__main__":
    main()
