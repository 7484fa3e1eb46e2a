"""assemble_dataset on a million prompts with planted duplicates: time, memory, recall, precision.

    python benchmarks/assembly.py [--prompts 1000000] [--peer-rows 5000] [--templated-only]
    python benchmarks/assembly.py --quality-only [--chinese] [--prompts 1000000]

Prompts are random sentences; one in seven is an earlier one with a word changed. Every prompt in
four has a pair. The stage runs in processes of its own, at a tenth of the size and at full size;
at a tenth also on templated prompts: a long instruction, the same for all, before a few random
words, so that any two are alike to some 0.67 (no suites there: like one is like all).
Recall and precision of near-duplicates are told at a tenth of the size and at full size; with
--chinese of sentences of Chinese characters, without spaces, as well; with --quality-only alone.
The peer is datasketch's MinHashLSH (128 permutations, threshold 0.8) over the same shingles; where
datasketch is not installed, that line says so.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from string import ascii_lowercase
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import polars as pl
import pyarrow as pa

from components.assemble_dataset.config import AssembleDatasetConfig
from components.assemble_dataset.stage import assemble_dataset
from equilibrate_core.artifacts import StageRun
from equilibrate_core.likeness.near_duplicates import duplicate_of, near_duplicates
from equilibrate_core.likeness.normalising import normalised
from equilibrate_core.likeness.shingling import jaccard, shingles
from equilibrate_core.records import CATEGORIES, LabelledPrompt, Pair, Record, digest
from equilibrate_core.tables import ROWS_PER_FILE, TableWriter, arrow_schema, dataset_draft

RUN = StageRun(stage="benchmark", config={}, seed=0, code_version="benchmark", inputs={})
COPY_EVERY, PAIR_EVERY = 7, 4
Kind = Literal["random", "templated", "chinese"]
NUM_WORDS: dict[Kind, int] = {"random": 14, "templated": 5, "chinese": 14}
LETTERS: dict[Kind, tuple[str, tuple[int, int]]] = {
    "random": (ascii_lowercase, (2, 9)),
    "templated": (ascii_lowercase, (2, 9)),
    "chinese": ("".join(map(chr, range(0x4E00, 0x4E00 + 3000))), (1, 3)),
}
"""What words are made of, and how many letters they have."""
INSTRUCTION = (
    "You are the assistant of a small town library. Read the note of a visitor below with care, "
    "and answer it in two or three friendly sentences. The note says: "
)
PARTS = ("scorer_pairs", "train_pairs", "eval_pairs")


def texts(number: int, kind: Kind = "random") -> Iterator[tuple[str, int]]:
    """Texts, and the index of the text each was copied from (-1 for originals)."""
    opening = INSTRUCTION if kind == "templated" else ""
    space = "" if kind == "chinese" else " "
    for words, origin in _sentences(number, kind):
        yield opening + space.join(words), origin


def _sentences(number: int, kind: Kind) -> Iterator[tuple[list[str], int]]:
    rng = random.Random(0)
    letters, lengths = LETTERS[kind]
    vocabulary = ["".join(rng.choices(letters, k=rng.randint(*lengths))) for _ in range(30_000)]
    num_words = NUM_WORDS[kind]
    recent: list[tuple[int, list[str]]] = []
    for i in range(number):
        if i % COPY_EVERY == COPY_EVERY - 1:
            origin, copied = recent[rng.randrange(len(recent))]
            words = [*copied]
            words[rng.randrange(num_words)] = rng.choice(vocabulary)
            yield words, origin
            continue
        words = rng.choices(vocabulary, k=num_words)
        recent.append((i, words))
        if len(recent) > 50_000:
            recent = recent[25_000:]
        yield words, -1


def write_inputs(folder: Path, number: int, kind: Kind) -> None:
    """The stage's two inputs, with ids that keep the order of the texts."""
    rows = enumerate(texts(number, kind))
    with (
        dataset_draft(RUN, folder / "labelled", LabelledPrompt) as labelled,
        dataset_draft(RUN, folder / "pairs", Pair) as pairs,
        TableWriter(labelled.path, LabelledPrompt) as prompt_writer,
        TableWriter(pairs.path, Pair) as pair_writer,
    ):
        while chunk := [(i, text) for i, (text, _) in islice(rows, ROWS_PER_FILE)]:
            prompts = [_prompt(i, text) | {"suite": _suite(i, kind)} for i, text in chunk]
            prompt_writer.write(_table(LabelledPrompt, prompts))
            few = [_pair(i, text) for i, text in chunk if i % PAIR_EVERY == 1]
            pair_writer.write(_table(Pair, few))
    # Sealed when the drafts close: row counts are not needed by the stage.


def _prompt(i: int, text: str) -> dict[str, object]:
    return {
        "id": f"{i:024x}",
        "messages": [{"role": "user", "content": text}],
        "source": f"source{i % 5}",
        "references": [],
        "metadata": [],
        "category": CATEGORIES[i % 4],
        "rationale": "",
        "votes": [],
        "status": "scored",
        "judge": "benchmark",
    }


def _suite(i: int, kind: Kind) -> str | None:
    return "harmful" if i % 1000 == 0 and kind != "templated" else None


def _pair(i: int, text: str) -> dict[str, object]:
    return {
        "id": digest(i),
        "prompt_id": f"{i:024x}",
        "messages": [{"role": "user", "content": text}],
        "chosen": f"I would rather not help with {text}.",
        "rejected": f"Of course: {text}.",
        "dimension": "harmless",
        "source": f"source{i % 5}",
    }


def _table(record: type[Record], rows: list[dict[str, object]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=arrow_schema(record))


def run_stage(folder: Path) -> None:
    """One run of the stage in this process; prints seconds and peak memory as JSON."""
    started = time.perf_counter()
    assemble_dataset(
        AssembleDatasetConfig(general_count=10_000),
        labelled_prompts=folder / "labelled",
        pairs=folder / "pairs",
        data_card=folder / "card.md",
        **{name: folder / name for name in PARTS},
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": time.perf_counter() - started, "peak_gb": peak / 1e9}))


def measure_stage(number: int, kind: Kind) -> dict[str, float]:
    """The stage on `number` prompts in a process of its own."""
    with TemporaryDirectory() as name:
        write_inputs(Path(name), number, kind)
        command = [sys.executable, __file__, "--stage-on", name]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return json.loads(done.stdout.splitlines()[-1])


def print_quality(number: int, kind: Kind) -> None:
    """Recall of planted duplicates of Jaccard >= 0.8, precision of all that goes, time and work."""
    rows = list(texts(number, kind))
    plain, origins = normalised(pl.Series([text for text, _ in rows])), [o for _, o in rows]
    del rows  # a million texts count
    started = time.perf_counter()
    found = near_duplicates(plain, threshold=0.8)
    seconds = time.perf_counter() - started
    folded = plain.to_list()
    copies = [(i, origin) for i, origin in enumerate(origins) if origin >= 0]
    planted = [(i, o) for i, o in copies if jaccard(folded[i], folded[o]) >= 0.8]
    goes = found.owner >= 0
    met = sum(bool(goes[i] or goes[origin]) for i, origin in planted)
    (gone,) = np.nonzero(goes)
    right = sum(jaccard(folded[i], folded[found.owner[i]]) >= 0.8 for i in gone.tolist())
    print(
        f"{number} {kind}: {len(planted)} planted, recall {met / max(len(planted), 1):.4f}, "
        f"precision {right / max(len(gone), 1):.4f}; {seconds:.1f} s, {found.num_compared} pairs "
        f"compared, {found.num_cut_short} searches cut short",
        flush=True,
    )


def measure_peer(number: int) -> str:
    """Seconds per row of datasketch and of ours, both from normalised texts to duplicates."""
    try:
        from datasketch import MinHash, MinHashLSH
    except ImportError:
        return "datasketch is not installed: not compared"
    plain = normalised(pl.Series([text for text, _ in texts(number)]))
    started = time.perf_counter()
    duplicate_of(plain, threshold=0.8)
    ours = time.perf_counter() - started
    started = time.perf_counter()
    index = MinHashLSH(threshold=0.8, num_perm=128)
    for i, text in enumerate(plain):
        sketch = MinHash(num_perm=128)
        sketch.update_batch([s.encode() for s in shingles(text)])
        index.query(sketch)
        index.insert(i, sketch)
    theirs = time.perf_counter() - started
    return f"{number} rows: ours {ours:.2f} s, datasketch {theirs:.2f} s, {theirs / ours:.1f} times"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=1_000_000)
    parser.add_argument("--peer-rows", type=int, default=20_000, help="rows given to datasketch")
    parser.add_argument("--templated-only", action="store_true", help="leave the large run out")
    parser.add_argument("--quality-only", action="store_true", help="leave the stage and peer out")
    parser.add_argument("--chinese", action="store_true", help="Chinese-like sentences as well")
    parser.add_argument("--stage-on", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage_on:
        run_stage(arguments.stage_on)
        return
    tenth, rows = arguments.prompts // 10, arguments.prompts
    others: list[Kind] = ["chinese"] if arguments.chinese else []
    small = 0.0
    if not arguments.quality_only:
        small = _print_stage(tenth, "random")
        _print_stage(tenth, "templated")
    for kind in ("random", "templated", *others):
        print_quality(tenth, kind)
    if arguments.templated_only:
        return
    for kind in ("random", *others):
        print_quality(rows, kind)
    if arguments.quality_only:
        return
    large = _print_stage(rows, "random")
    print(f"growth over ten times the rows: {large / small:.1f} times")
    print(measure_peer(arguments.peer_rows))


def _print_stage(number: int, kind: Kind) -> float:
    figures = measure_stage(number, kind)
    print(f"{number} {kind}: {figures['seconds']:.1f} s, peak {figures['peak_gb']:.2f} GB")
    return figures["seconds"]


if __name__ == "__main__":
    main()
