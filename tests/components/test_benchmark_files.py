"""Which file a benchmark is scored by when its folder holds more than one."""

import gzip
import re
import shutil
from pathlib import Path

import pytest

from components.score_benchmarks.config import Benchmark
from components.score_benchmarks.data import read_parts
from equilibrate_core.digests import ROOT
from equilibrate_core.errors import DataError

SAMPLE = ROOT / "pipelines" / "sample" / "benchmarks"
UNREADABLE = '{"no": "question"}\n'


def copied(tmp_path: Path, folder: str) -> Path:
    return Path(shutil.copytree(SAMPLE / folder, tmp_path / folder))


def num_rows(tmp_path: Path, name: Benchmark) -> dict[str, int]:
    return {part.name: len(part.rows) for part in read_parts(name, tmp_path, 0)}


@pytest.mark.parametrize(
    ("name", "folder", "other"),
    [
        ("gsm8k", "gsm8k", "test_socratic.jsonl"),
        ("hellaswag", "hellaswag", "validation_first_2000.jsonl"),
        ("winogrande", "winogrande", "validation_debiased.jsonl"),
        ("commonsenseqa", "commonsenseqa", "test.jsonl"),
        ("humaneval", "humaneval", "HumanEval_plus.jsonl"),
        ("arc_easy", "arc", "ARC-Easy_validation_2.jsonl"),
    ],
)
def test_the_exact_name_is_taken_alone(
    name: Benchmark, folder: str, other: str, tmp_path: Path
) -> None:
    (copied(tmp_path, folder) / other).write_text(UNREADABLE)
    assert num_rows(tmp_path, name) == {"": 4}


@pytest.mark.parametrize(
    ("name", "known", "names"),
    [
        ("gsm8k", "gsm8k/test.jsonl", ("test_a.jsonl", "test_b.jsonl")),
        ("hellaswag", "hellaswag/validation.jsonl", ("dev.jsonl", "test.jsonl")),
        ("humaneval", "humaneval/HumanEval.jsonl.gz", ("HumanEval.jsonl", "HumanEval.jsonl.gz")),
        ("arc_easy", "arc/ARC-Easy_validation.jsonl", ("ARC-Easy_a.jsonl", "ARC-Easy_b.jsonl")),
        ("race", "race/test_high.jsonl", ("dev_high.jsonl", "val_high.jsonl")),
    ],
)
def test_several_candidates_are_listed_and_none_is_taken(
    name: Benchmark, known: str, names: tuple[str, str], tmp_path: Path
) -> None:
    file = copied(tmp_path, known.split("/")[0]) / Path(known).name
    rows = file.read_bytes()
    file.unlink()
    for other in names:
        (file.parent / other).write_bytes(rows)
    said = rf"{re.escape(str(file.parent))}: {', '.join(names)}: .* leave one$"
    with pytest.raises(DataError, match=said):
        read_parts(name, tmp_path, 0)


@pytest.mark.parametrize(
    ("name", "known", "others"),
    [
        ("hellaswag", "hellaswag/validation.jsonl", ("swag_val.jsonl", "swag_train.jsonl")),
        ("gsm8k", "gsm8k/test.jsonl", ("gsm8k.jsonl.gz", "gsm8k_Train.jsonl")),
        ("arc_easy", "arc/ARC-Easy_validation.jsonl", ("ARC-Easy_a.jsonl", "ARC-Easy_train.jsonl")),
    ],
)
def test_training_rows_are_never_scored(
    name: Benchmark, known: str, others: tuple[str, str], tmp_path: Path
) -> None:
    file = copied(tmp_path, known.split("/")[0]) / Path(known).name
    rows, (kept, train) = file.read_bytes(), others
    file.unlink()
    (file.parent / train).write_bytes(rows)
    with pytest.raises(DataError, match=f"no data of {name}"):
        read_parts(name, tmp_path, 0)
    (file.parent / kept).write_bytes(gzip.compress(rows) if kept.endswith(".gz") else rows)
    (file.parent / train).write_text(UNREADABLE)
    assert num_rows(tmp_path, name) == {"": 4}


def test_race_has_its_two_parts_whatever_lies_beside_them(tmp_path: Path) -> None:
    folder = copied(tmp_path, "race")
    for other in ("train_high.jsonl", "train_middle.jsonl", "dev_high.jsonl", "notes.jsonl"):
        (folder / other).write_text(UNREADABLE)
    assert num_rows(tmp_path, "race") == {"high": 4, "middle": 4}


def test_race_in_one_file_is_one_part(tmp_path: Path) -> None:
    folder = copied(tmp_path, "race")
    (folder / "test_middle.jsonl").unlink()
    (folder / "test_high.jsonl").rename(folder / "test.jsonl")
    assert num_rows(tmp_path, "race") == {"all": 4}


@pytest.mark.parametrize(
    ("name", "file"), [("bbh", "bbh/bbh/date_understanding.json"), ("c3", "c3/c3-d-dev.json")]
)
def test_broken_json_is_a_mistake_in_the_data(name: Benchmark, file: str, tmp_path: Path) -> None:
    copied(tmp_path, name)
    (tmp_path / file).write_text("[half")
    with pytest.raises(DataError, match=rf"{Path(file).name}: not valid JSON"):
        read_parts(name, tmp_path, 0)
