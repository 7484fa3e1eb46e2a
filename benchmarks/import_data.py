"""import_data on a million JSONL rows, against pyarrow reading the same bytes plus their SHA-256.

    python benchmarks/import_data.py [--rows 1000000] [--adapter pku_saferlhf|prompts]

Rows are made up but shaped like the public ones: pairs of about 700 bytes, or prompts of about 300;
one text in sixteen has line breaks, some have quotes or letters beyond ASCII, one row in a thousand
is malformed. The stage does what the peer does not: checks every value, gives every row its ids,
finds duplicates, keeps reasons for bad rows and writes three verified artifacts.
"""

import argparse
import hashlib
import json
import random
import resource
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.json as pj

from components.import_data.config import ImportDataConfig
from components.import_data.stage import import_data
from equilibrate_core.config import parse_config

BAD_EVERY = 1000
Row = dict[str, Any]


def sentences(rng: random.Random, number: int = 20_000) -> list[str]:
    syllables = [a + b for a in "bdfgklmnprst" for b in ("a", "en", "i", "or", "ust")]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(5_000)]
    ends = [". "] * 28 + ["? ", '." ', ".\n\n", " – é. "]
    return [
        " ".join(rng.choices(words, k=rng.randint(6, 18))) + rng.choice(ends) for _ in range(number)
    ]


def text(rng: random.Random, pool: list[str], most: int) -> str:
    return "".join(rng.choices(pool, k=rng.randint(1, most))).strip()


def pair(rng: random.Random, pool: list[str], number: int) -> Row:
    answers = [text(rng, pool, 6), text(rng, pool, 6)]
    if number % BAD_EVERY == 1:
        answers[1] = answers[0]
    return {"response": answers, "prompt": f"{text(rng, pool, 1)} {number}"}


def prompt(rng: random.Random, pool: list[str], number: int) -> Row:
    category = "unknown" if number % BAD_EVERY == 1 else "EHD"
    return {"prompt": f"{text(rng, pool, 6)} {number}", "category": category}


MAKERS: dict[str, Callable[[random.Random, list[str], int], Row]] = {
    "pku_saferlhf": pair,
    "prompts": prompt,
}


def write_rows(path: Path, number: int, adapter: str) -> None:
    rng = random.Random(0)
    pool = sentences(rng)
    with path.open("w", encoding="utf-8") as file:
        for i in range(number):
            row = MAKERS[adapter](rng, pool, i)
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds on the clock, and of all cores together."""
    clock, cores = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - cores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--adapter", choices=sorted(MAKERS), default="pku_saferlhf")
    arguments = parser.parse_args()
    with TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "rows.jsonl"
        write_rows(path, arguments.rows, arguments.adapter)
        print(f"{arguments.rows} rows, {path.stat().st_size / arguments.rows:.0f} bytes each")

        def read_and_digest() -> None:
            pj.read_json(path)
            with path.open("rb") as file:
                hashlib.file_digest(file, "sha256")

        source = {"name": "s", "uri": str(path), "adapter": arguments.adapter}
        config = parse_config({"sources": [source]}, ImportDataConfig, "benchmark")
        outputs = {part: folder / part for part in ("prompts", "pairs", "quarantine")}
        metrics: dict[str, float] = {}
        # Ours first: the highest memory of the process is then ours.
        ours = timed(lambda: metrics.update(import_data(config, **outputs)))
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        peer = timed(read_and_digest)
        assert metrics["rows_read"] == arguments.rows
        assert metrics["rows_quarantined"] == arguments.rows // BAD_EVERY
        print(f"pyarrow.json + SHA-256: {peer[0]:.2f} s ({peer[1]:.2f} s of the cores)")
        print(
            f"import_data: {ours[0]:.2f} s ({ours[1]:.2f} s of the cores), {memory:.2f} GB at most"
        )
        print(f"{ours[0] / peer[0]:.1f} times ({ours[1] / peer[1]:.1f} in time of the cores)")


if __name__ == "__main__":
    main()
