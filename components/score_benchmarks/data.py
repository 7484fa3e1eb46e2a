"""Read a benchmark's local files as the rows that the harness's own task for it expects.

folder -> one Part per leaf task of the harness. The layouts are the ones the sets are published
in; every row is checked where it is converted, so that an error names the file.
"""

import csv
import gzip
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from components.score_benchmarks.config import Benchmark
from equilibrate_core.errors import DataError

Row = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """One leaf task: a subject, a task, a split."""

    name: str
    """What the harness calls this part of the benchmark (`anatomy`); "" if it is the whole."""
    rows: list[Row]
    """Rows to be scored."""
    shots: list[Row]
    """Worked examples, in the order in which prompts use them."""
    description: str | None = None
    """Opening of the prompt, where the data has one of its own."""


def read_parts(benchmark: Benchmark, folder: Path, num_fewshot: int) -> list[Part]:
    """Parts of a benchmark found below `folder`, in name order.

    Where a part has no examples of its own its first `num_fewshot` rows are the examples.
    Raises DataError when there is none, or when a row is not as it should be.
    """
    parts: list[Part] = []
    for part in READERS[benchmark](folder):
        if num_fewshot and not part.shots:
            part = replace(part, rows=part.rows[num_fewshot:], shots=part.rows[:num_fewshot])
        if not part.rows or len(part.shots) < num_fewshot:
            raise DataError(
                f"{folder}: {benchmark} {part.name}: too few rows for {num_fewshot} shots and at "
                "least one question; add rows or lower num_fewshot"
            )
        parts.append(part)
    if not parts:
        raise DataError(f"{folder}: no data of {benchmark}; see data_uri for the expected files")
    return parts


def _ceval(folder: Path) -> Iterable[Part]:
    for path in sorted((folder / "ceval" / "val").rglob("*.jsonl")):
        yield Part(path.stem, _rows(path, _ceval_row), [])


_OPTIONS = re.compile(r"(.*)\nA\. (.*)\nB\. (.*)\nC\. (.*)\nD\. (.*)", re.DOTALL)


def _ceval_row(row: Row) -> Row:
    found = _OPTIONS.fullmatch(row["inputs_pretokenized"])
    if found is None:
        raise ValueError("no options A to D in inputs_pretokenized")
    return dict(zip(("question", "A", "B", "C", "D"), found.groups(), strict=True)) | {
        "answer": "ABCD"[row["label"]]
    }


def _c3(folder: Path) -> Iterable[Part]:
    for part in PARTS["c3"]:
        stems = (f"c3-{part}-test", f"c3-{part}-dev")
        if file := _only(folder / "c3", *stems, endings=(".json",)):
            questions = (
                {"context": texts, **question}
                for texts, questions, _ in _json(file)
                for question in questions
            )
            yield Part(part, _converted(file, questions, c3_row), [])


def c3_row(row: Row) -> Row:
    """A C3 question with its options lettered; `answer` is the index of the right one."""
    choices = list(row["choice"])
    return {
        "context": "\n".join(row["context"]),
        "question": row["question"],
        "options": "\n".join(f"{'ABCD'[i]}. {choice}" for i, choice in enumerate(choices)),
        "letters": list("ABCD"[: len(choices)]),
        "answer": choices.index(row["answer"]),
    }


def _mmlu(folder: Path) -> Iterable[Part]:
    for path in sorted((folder / "mmlu" / "test").glob("*_test.csv")):
        subject = path.name.removesuffix("_test.csv")
        dev = folder / "mmlu" / "dev" / f"{subject}_dev.csv"
        shots = _rows(dev, _mmlu_row) if dev.is_file() else []
        yield Part(subject, _rows(path, _mmlu_row), shots)


def _mmlu_row(row: Row) -> Row:
    answer = int(row["answer"])
    if answer not in range(4):
        raise ValueError(f"answer {answer} is not 0 to 3")
    choices = [row[f"choice{i}"] for i in range(4)]
    return {"question": row["question"], "choices": choices, "answer": answer}


def _race(folder: Path) -> Iterable[Part]:
    parts = {part: _only(folder / "race", f"test_{part}", f"*{part}*") for part in PARTS["race"]}
    if not any(parts.values()):
        parts = {"all": _only(folder / "race", "test", "*test*", "*")}
    for part, path in parts.items():
        if path:
            yield Part(part, _rows(path, race_row), [])


def race_articles(rows: Iterable[Row]) -> Iterator[Row]:
    """Rows of one question each, as most copies have them, as articles with all their questions.

    Questions of an article follow one another under one `example_id`.
    """
    for _, same in groupby(rows, key=lambda row: row["example_id"]):
        of_article = list(same)
        yield race_row(
            {
                "article": of_article[0]["article"],
                "questions": [row["question"] for row in of_article],
                "options": [row["options"] for row in of_article],
                "answers": [row["answer"] for row in of_article],
            }
        )


def race_row(row: Row) -> Row:
    """An article with its questions in the form of the harness's copy: it scores the last one."""
    questions = zip(row["questions"], row["options"], row["answers"], strict=True)
    problems = [{"question": q, "options": o, "answer": a} for q, o, a in questions]
    return {"article": row["article"], "problems": repr(problems)}


def _arc(level: str) -> Callable[[Path], Iterable[Part]]:
    def read(folder: Path) -> Iterable[Part]:
        stems = (f"ARC-{level}_{name}" for name in ("test", "test*", "validation", "*"))
        if path := _only(folder / "arc", *stems):
            yield Part("", _rows(path, _arc_row), [])

    return read


def _arc_row(row: Row) -> Row:
    if "query" not in row:
        row["choices"]["label"].index(row["answerKey"])
        return {name: row[name] for name in ("question", "choices", "answerKey")}
    text = row["query"].removeprefix("Question: ").removesuffix("\nAnswer:")
    question, *options = re.split(r"\n [A-Z]\. ", text)
    labels = list(row["choices"])
    if len(options) != len(labels):
        raise ValueError(f"{len(labels)} choices but {len(options)} options in the query")
    choices = {"text": options, "label": labels}
    return {"question": question, "choices": choices, "answerKey": labels[row["gold"]]}


_STEP_BY_STEP = re.compile(r"\nA: Let's think step by step\.\s")


def _bbh(folder: Path) -> Iterable[Part]:
    for path in sorted((folder / "bbh" / "bbh").glob("*.json")):
        prompt = folder / "bbh" / "cot-prompts" / f"{path.stem}.txt"
        if not prompt.is_file():
            raise DataError(f"{prompt}: missing: BBH is asked with its chain-of-thought examples")
        examples = _json(path)["examples"]
        rows = _converted(path, examples, lambda row: {n: row[n] for n in ("input", "target")})
        opening, shots = _cot_examples(prompt)
        yield Part(path.stem, rows, shots, opening)


def _cot_examples(path: Path) -> tuple[str, list[Row]]:
    """Opening and worked examples of a BBH prompt file."""
    _, _, text = path.read_text(encoding="utf-8").partition("\n-----\n")
    opening, *blocks = re.split(r"\n\nQ: ", text.strip())
    shots: list[Row] = []
    for block in blocks:
        question_and_answer = _STEP_BY_STEP.split(block, maxsplit=1)
        if len(question_and_answer) != 2:
            raise DataError(f'{path}: an example without "A: Let\'s think step by step."')
        shots.append(dict(zip(("input", "target"), question_and_answer, strict=True)))
    return f"{opening}\n\n", shots


def _jsonl(name: str, *fields: str, stems: tuple[str, ...]) -> Callable[[Path], Iterable[Part]]:
    """Reader of a benchmark whose rows are already as the harness wants them."""

    def read(folder: Path) -> Iterable[Part]:
        if path := _only(folder / name, *stems, "*"):
            yield Part("", _rows(path, lambda row: {f: row[f] for f in fields}), [])

    return read


VALIDATION = ("validation", "*validation*", "*val*")
READERS: dict[Benchmark, Callable[[Path], Iterable[Part]]] = {
    "ceval": _ceval,
    "c3": _c3,
    "mmlu": _mmlu,
    "commonsenseqa": _jsonl("commonsenseqa", "question", "choices", "answerKey", stems=VALIDATION),
    "race": _race,
    "arc_challenge": _arc("Challenge"),
    "arc_easy": _arc("Easy"),
    "bbh": _bbh,
    "hellaswag": _jsonl(
        "hellaswag", "activity_label", "ctx_a", "ctx_b", "endings", "label", stems=VALIDATION
    ),
    "winogrande": _jsonl(
        "winogrande", "sentence", "option1", "option2", "answer", stems=VALIDATION
    ),
    "gsm8k": _jsonl("gsm8k", "question", "answer", stems=("test", "*test*")),
    "humaneval": _jsonl("humaneval", "prompt", "entry_point", "test", stems=("HumanEval",)),
}

PARTS: dict[Benchmark, tuple[str, ...]] = {"c3": ("d", "m"), "race": ("high", "middle")}
"""Parts of benchmarks that come in several here and in one, or not at all, in the harness."""


def _only(
    folder: Path, *stems: str, endings: tuple[str, ...] = (".jsonl", ".jsonl.gz")
) -> Path | None:
    """The one file that the first of these stems finds: an exact name comes before a pattern.

    Files of training rows are not looked at. Raises DataError when a stem finds several.
    """
    for stem in stems:
        found = (path for ending in endings for path in folder.glob(stem + ending))
        files = sorted(path for path in found if "train" not in path.name.lower())
        if len(files) > 1:
            names = ", ".join(path.name for path in files)
            raise DataError(f"{folder}: {names}: each could be the one to score by; leave one")
        if files:
            return files[0]
    return None


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON: {error}") from error


def _rows(path: Path, convert: Callable[[Row], Row]) -> list[Row]:
    """Converted rows of a CSV file with a header, or of a JSONL file, gzipped or not."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            return _converted(path, csv.DictReader(file), convert)
        return _converted(path, (json.loads(line) for line in file if line.strip()), convert)


def _converted(path: Path, rows: Iterable[Row], convert: Callable[[Row], Row]) -> list[Row]:
    converted: list[Row] = []
    try:
        for row in rows:
            converted.append(convert(row))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, OSError) as error:
        raise DataError(
            f"{path}: row {len(converted) + 1}: {type(error).__name__}: {error}; see data_uri for "
            "the expected files"
        ) from error
    return converted
