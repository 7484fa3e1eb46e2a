"""Questions of the benchmarks: training prompts must not give these away either.

folder or s3:// prefix laid out as score_benchmarks wants it -> questions: suite, text and choices.
"""

import csv
import gzip
import json
import re
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from equilibrate_core.errors import DataError
from equilibrate_core.likeness.normalising import normalised

FIELDS = (
    *("question", "query", "ctx", "sentence", "input", "prompt", "article"),
    "inputs_pretokenized",
)
"""Where the twelve benchmarks' files keep what is asked, at any depth of a row."""
CHOICES = ("choices", "choice", "options", "endings")
"""Where a row keeps what may be answered, if not one by one or behind the question."""
_ONE_CHOICE = re.compile(r"(choice|option)\d|[A-E]")
_INLINE = re.compile(r"\n\s*(?:\(?A[.):]|Options:|Answer:|答案)")
_INLINE_CHOICE = re.compile(r"^\s*(?:\(?[A-Z][.):]|-)\s*(\S.*)$", re.MULTILINE)
BROKEN = (ValueError, OSError, EOFError, zlib.error, RecursionError, csv.Error)
"""What reading a file raises that is damaged, cut or of another kind than its name says."""
SCHEMA = {"suite": pl.String, "text": pl.String, "choices": pl.List(pl.String)}
Asked = tuple[str, list[str]]


def benchmark_questions(uri: str) -> pl.DataFrame:
    """Suite, normalised text and choices of the questions at `uri`, each once; none without one.

    The suite is the name of the benchmark's folder. Raises DataError where a folder has none.
    """
    if not uri:
        return pl.DataFrame(schema=SCHEMA)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(uri.removeprefix("file://"))
        if uri.startswith("s3://"):
            from equilibrate_core.s3 import download_folder

            folder = Path(scratch)
            download_folder(uri, folder)
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        rows = [
            (path.relative_to(folder).parts[0], *asked)
            for path in files
            for asked in _asked_in(path)
        ]
    inside = (path.relative_to(folder).parts for path in files)
    silent = {parts[0] for parts in inside if len(parts) > 1 and parts[0][0] != "."}
    silent -= {name for name, _, _ in rows}
    if silent or not rows:
        where = f" in {', '.join(sorted(silent))}" if silent else ""
        raise DataError(
            f"benchmarks_uri: {uri}: no benchmark's questions there{where}; looked in .csv, .json, "
            f".jsonl and .jsonl.gz files for the fields {', '.join(FIELDS)}: check the path, lay "
            "the folder out as score_benchmarks.data_uri or take it away"
        )
    return _each_once(rows)


def _each_once(rows: list[tuple[str, str, list[str]]]) -> pl.DataFrame:
    texts = normalised(pl.Series([text for _, text, _ in rows])).to_list()
    flat = normalised(pl.Series([c for *_, own in rows for c in own], dtype=pl.String))
    choices = iter(flat.to_list())
    found: dict[tuple[str, tuple[str, ...]], str] = {}
    for (suite, _, own), text in zip(rows, texts, strict=True):
        said = tuple(choice for choice in (next(choices) for _ in own) if choice)
        if text:
            found.setdefault((text, said), f"benchmark {suite}")
    listed = [(suite, text, list(own)) for (text, own), suite in sorted(found.items())]
    return pl.DataFrame(listed, schema=SCHEMA, orient="row")


def _asked_in(path: Path) -> Iterator[Asked]:
    """What the rows of one file ask; nothing for a file of another kind."""
    try:
        if path.suffix == ".csv":
            with path.open(encoding="utf-8-sig", newline="") as file:
                rows = (row for row in csv.DictReader(file) if row.get("question"))
                yield from ((row["question"], _choices(row)) for row in rows)
        elif path.name.endswith((".jsonl", ".jsonl.gz")):
            raw = path.read_bytes()
            lines = (gzip.decompress(raw) if path.suffix == ".gz" else raw).splitlines()
            for line in filter(bytes.strip, lines):
                yield from _asked(json.loads(line))
        elif path.suffix == ".json":
            yield from _asked(json.loads(path.read_bytes()))
    except BROKEN as error:
        raise DataError(f"{path}: cannot be read as a benchmark's file: {error}") from error


def _asked(value: Any, *, is_field: bool = False) -> Iterator[Asked]:
    """The texts of the question fields in a row, and C3's passages, which stand in no field."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if not isinstance(inner, str):
                yield from _asked(inner, is_field=True)
            elif name in FIELDS:
                yield _parted(inner, _choices(value))
    elif isinstance(value, list):
        if not is_field and all(isinstance(inner, str) for inner in value):
            yield "\n".join(value), []
        for inner in value:
            yield from _asked(inner, is_field=is_field)


def _choices(row: dict[str, Any]) -> list[str]:
    """What may be answered, from the fields beside the question."""
    listed: Any = next((row[name] for name in CHOICES if name in row), None)
    if isinstance(listed, dict):
        listed = listed.get("text")
    if not isinstance(listed, list):
        listed = [value for name, value in row.items() if _ONE_CHOICE.fullmatch(str(name))]
    return [choice for choice in listed if isinstance(choice, str)]


def _parted(text: str, choices: list[str]) -> Asked:
    """The question without the choices that some files write behind it, and the choices."""
    question = _INLINE.split(text.removeprefix("Question: "))[0]
    return question, choices or _INLINE_CHOICE.findall(text[len(question) :])
