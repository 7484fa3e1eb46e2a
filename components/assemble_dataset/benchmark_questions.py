"""Questions of the benchmarks: training prompts must not give these away either.

folder or s3:// prefix laid out as score_benchmarks wants it -> suite and text of every question.
"""

import csv
import gzip
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from components.assemble_dataset.normalising import normalised
from equilibrate_core.errors import DataError

FIELDS = (
    *("question", "query", "ctx", "sentence", "input", "prompt", "article"),
    "inputs_pretokenized",
)
"""Where the twelve benchmarks' files keep what is asked, at any depth of a row."""
_CHOICES = re.compile(r"\n\s*(?:\(?A[.):]|Options:|Answer:|答案)")
SCHEMA = {"suite": pl.String, "text": pl.String}


def benchmark_questions(uri: str) -> pl.DataFrame:
    """Frame of suite and normalised text of the questions at `uri`, each once; none without one.

    The suite is the name of the benchmark's folder. Raises DataError when there are none.
    """
    if not uri:
        return pl.DataFrame(schema=SCHEMA)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(uri.removeprefix("file://"))
        if uri.startswith("s3://"):
            from equilibrate_core.s3 import download_folder

            folder = Path(scratch)
            download_folder(uri, folder)
        rows = [
            (f"benchmark {path.relative_to(folder).parts[0]}", _question(text))
            for path in sorted(folder.rglob("*"))
            for text in _texts(path)
        ]
    if not rows:
        raise DataError(f"benchmarks_uri: {uri}: no benchmark's questions there; check the path")
    frame = pl.DataFrame(rows, schema=SCHEMA, orient="row")
    return frame.with_columns(normalised(frame["text"])).unique("text", keep="first").sort("text")


def _texts(path: Path) -> Iterator[str]:
    """What the rows of one file ask; nothing for a file of another kind."""
    try:
        if path.suffix == ".csv":
            with path.open(encoding="utf-8-sig", newline="") as file:
                yield from (row["question"] for row in csv.DictReader(file) if row.get("question"))
        elif path.name.endswith((".jsonl", ".jsonl.gz")):
            raw = path.read_bytes()
            lines = (gzip.decompress(raw) if path.suffix == ".gz" else raw).splitlines()
            for line in filter(bytes.strip, lines):
                yield from _asked(json.loads(line))
        elif path.suffix == ".json":
            yield from _asked(json.loads(path.read_bytes()))
    except (ValueError, OSError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a benchmark's file: {error}") from error


def _asked(value: Any, *, is_field: bool = False) -> Iterator[str]:
    """The texts of the question fields in a row, and C3's passages, which stand in no field."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if isinstance(inner, str):
                yield from (inner,) if name in FIELDS else ()
            else:
                yield from _asked(inner, is_field=True)
    elif isinstance(value, list):
        if not is_field and all(isinstance(inner, str) for inner in value):
            yield "\n".join(value)
        for inner in value:
            yield from _asked(inner, is_field=is_field)


def _question(text: str) -> str:
    """The question without the choices that some files write behind it."""
    return _CHOICES.split(text.removeprefix("Question: "))[0]
