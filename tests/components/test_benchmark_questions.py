"""Benchmark questions are found in every layout that score_benchmarks reads, choices are not."""

import gzip
import json
from pathlib import Path

import polars as pl
import pytest

from components.assemble_dataset.benchmark_questions import benchmark_questions
from components.score_benchmarks.config import BENCHMARKS
from equilibrate_core.errors import DataError
from equilibrate_core.s3 import upload_folder
from pipelines.run_config import load_run

pytest_plugins = ["tests.s3_store"]

SAMPLE = Path("pipelines/sample/benchmarks")
CONFIGS = Path("pipelines/configs")
PACKED = gzip.compress(b'{"question": "Which tool?"}\n' * 99, mtime=0)
ASKED = {
    "arc": (
        {"query": "Question: Which tool?\n A. goggles\n B. a hat\nAnswer:"},
        ("which tool", ["goggles", "a hat"]),
    ),
    "race": (
        {"article": "Long ago.", "questions": ["Who?"], "options": [["he"]]},
        ("long ago", []),
    ),
    "hellaswag": (
        {"ctx": "A man. he", "ctx_a": "A man.", "endings": ["sleeps", "Eats."]},
        ("a man he", ["sleeps", "eats"]),
    ),
    "ceval": (
        {"inputs_pretokenized": "它始于____。\nA. 汉代\nB. 唐代"},
        ("它始于", ["汉代", "唐代"]),
    ),
    "commonsenseqa": (
        {"question": "Why?", "choices": {"text": ["x", "y"]}},
        ("why", ["x", "y"]),
    ),
    "bbh": (
        {"input": "Is it?\nOptions:\n(A) 1/2\n(B) No", "target": "(A)"},
        ("is it", ["1 / 2", "no"]),
    ),
    "winogrande": (
        {"sentence": "_ slept.", "option1": "Al", "option2": "Bo"},
        ("slept", ["al", "bo"]),
    ),
}


def test_the_sample_has_questions_of_every_benchmark() -> None:
    found = benchmark_questions(str(SAMPLE))
    folders = {name.partition("_")[0] for name in BENCHMARKS}
    assert {suite.removeprefix("benchmark ") for suite in found["suite"]} == folders
    assert found["text"].is_unique().all()


@pytest.mark.parametrize("name", ASKED)
def test_what_is_asked_is_taken_apart_from_its_choices(name: str, tmp_path: Path) -> None:
    row, asked = ASKED[name]
    (tmp_path / name).mkdir()
    (tmp_path / name / "test.jsonl").write_text(json.dumps(row) + "\n\n")
    found = benchmark_questions(str(tmp_path))
    assert found.rows() == [(f"benchmark {name}", *asked)]


def test_a_stem_with_other_choices_is_another_question(tmp_path: Path) -> None:
    (tmp_path / "mmlu").mkdir()
    rows = "question,choice0,choice1\nYes?,cats,dogs\nYes?,figs,nuts\nYes!,Cats,dogs"
    (tmp_path / "mmlu" / "test.csv").write_text(rows)
    found = benchmark_questions(str(tmp_path)).select("text", "choices").rows()
    assert found == [("yes", ["cats", "dogs"]), ("yes", ["figs", "nuts"])]


def test_c3_has_its_passages_and_its_questions(tmp_path: Path) -> None:
    (tmp_path / "c3").mkdir()
    problem = {"question": "外面天气怎么样？", "choice": ["雨", "雪"]}
    row = [["男：下雨了。", "女：带伞吧。"], [problem], "1"]
    (tmp_path / "c3" / "c3-d-dev.json").write_text(json.dumps([row]))
    texts = set(benchmark_questions(str(tmp_path))["text"])
    assert texts == {"男下雨了女带伞吧", "外面天气怎么样"}
    assert sorted(map(len, benchmark_questions(str(tmp_path))["choices"])) == [0, 2]


def test_a_prefix_in_s3_says_what_its_folder_says(bucket: str) -> None:
    upload_folder(SAMPLE / "mmlu", f"{bucket}/benchmarks/mmlu")
    found = benchmark_questions(f"{bucket}/benchmarks")
    whole = benchmark_questions(str(SAMPLE))
    assert found.equals(whole.filter(pl.col("suite") == "benchmark mmlu"))
    assert len(found) > 5


def test_a_folder_without_questions_or_with_a_broken_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no benchmark's questions"):
        benchmark_questions(str(tmp_path))
    (tmp_path / "bad.jsonl").write_text('{"question": ')
    with pytest.raises(DataError, match=r"bad\.jsonl: cannot be read"):
        benchmark_questions(str(tmp_path))
    assert len(benchmark_questions("")) == 0


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("cut.jsonl.gz", PACKED[:-9], "end-of-stream"),
        ("altered.jsonl.gz", PACKED[:12] + b"\xff" * 8 + PACKED[20:], "decompress"),
        ("deep.json", b"[" * 100_000, "recursion"),
        ("wide.csv", b"question\n" + b"x" * 20_000_000, "field larger"),
    ],
    ids=["cut", "altered", "deep", "wide"],
)
def test_a_broken_file_is_one_line_that_names_it(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words) as caught:
        benchmark_questions(str(tmp_path))
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_among_others_that_yields_nothing_is_named(tmp_path: Path) -> None:
    for name in ("arc", "mmlu", ".cache"):
        (tmp_path / name).mkdir()
    (tmp_path / "README.md").write_text("Ours.")
    (tmp_path / ".cache" / "lock").write_text("")
    (tmp_path / "arc" / "test.jsonl").write_text(json.dumps(ASKED["arc"][0]))
    assert len(benchmark_questions(str(tmp_path))) == 1  # an empty folder promises nothing
    (tmp_path / "mmlu" / "test.csv").write_text("Which tool?,goggles,a hat,0\n")  # no header
    with pytest.raises(
        DataError, match=r"questions there in mmlu; .*\.csv.*question, query"
    ) as error:
        benchmark_questions(str(tmp_path))
    assert error.value.exit_code == 2
    assert "arc" not in str(error.value).replace(str(tmp_path), "")


def test_a_run_compares_with_the_benchmarks_it_scores_by() -> None:
    run = load_run(CONFIGS / "laptop.yaml")
    assert run.assembly.benchmarks_uri == run.score_benchmarks.data_uri
    hub = run.score_benchmarks.model_copy(update={"data_uri": "hub"})
    assert run.model_copy(update={"score_benchmarks": hub}).assembly.benchmarks_uri == ""
    own = run.assemble_dataset.model_copy(update={"benchmarks_uri": "./mine"})
    kept = run.model_copy(update={"assemble_dataset": own}).assembly
    assert kept.benchmarks_uri == "./mine"
