"""The twelve benchmarks: rows into the harness's own tasks, figures out, failures apart."""

import ast
import csv
import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import datasets
import pytest
from lm_eval.api.model import LM
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks._yaml_loader import load_yaml
from pydantic import ValidationError

from components.score_benchmarks import sandbox, stage
from components.score_benchmarks.config import BENCHMARKS, SCORING, Benchmark, ScoreBenchmarksConfig
from components.score_benchmarks.data import READERS, read_parts
from components.score_benchmarks.harness import Item, open_model, score_tasks
from components.score_benchmarks.stage import score_benchmarks
from components.score_benchmarks.tasks import (
    SHIPPED,
    SHIPPED_FILES,
    hub_tasks,
    known_parts,
    local_tasks,
)
from equilibrate_core.artifacts import read_manifest, verify_artifact
from equilibrate_core.digests import ROOT
from equilibrate_core.errors import DataError
from pipelines.console import PROGRESS

SAMPLE = ROOT / "pipelines" / "sample" / "benchmarks"
AS_PUBLISHED: tuple[tuple[Benchmark, str], ...] = (
    ("arc_easy", "arc/ARC-Easy_validation.jsonl"),
    ("arc_challenge", "arc/ARC-Challenge_validation.jsonl"),
    ("hellaswag", "hellaswag/validation.jsonl"),
    ("winogrande", "winogrande/validation.jsonl"),
    ("commonsenseqa", "commonsenseqa/validation.jsonl"),
    ("gsm8k", "gsm8k/test.jsonl"),
)
"""Sets whose published rows the shipped tasks can read without us."""

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def config(**fields: Any) -> ScoreBenchmarksConfig:
    values = {"data_uri": str(SAMPLE), "dtype": "float32", "max_gen_tokens": 8} | fields
    return ScoreBenchmarksConfig.model_validate(values)


def read_scores(artifact: Path) -> dict[str, Any]:
    return json.loads((artifact / "scores.json").read_text())


def read_items(artifact: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (artifact / "items.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def scored(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's scores on two items of each benchmark of the sample."""
    output = tmp_path_factory.mktemp("scored") / "benchmark_scores"
    metrics = score_benchmarks(
        config(items_are_samples=True, items_per_benchmark=2),
        model=tiny_model,
        benchmark_scores=output,
    )
    assert json.loads((output / "metrics.json").read_text()) == metrics
    return output


def test_all_twelve_run_on_the_sample(scored: Path) -> None:
    tasks = read_scores(scored)["tasks"]
    assert tuple(tasks) == BENCHMARKS
    assert {name: task["error"] for name, task in tasks.items()} == dict.fromkeys(BENCHMARKS)
    assert all(task["num_items"] == 2 for task in tasks.values())
    assert verify_artifact(scored, "benchmark_scores").inputs.keys() == {"model"}


def test_chats_are_rendered_with_the_date_of_training(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder, ignore=shutil.ignore_patterns("manifest.json"))
    template = folder / "chat_template.jinja"
    template.write_text("{{ strftime_now('%d %b %Y') }}" + template.read_text())
    with open_model(config(backend="transformers"), folder) as lm:
        text = lm.apply_chat_template([{"role": "user", "content": "x"}])
    assert text == "26 Jul 2024<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n"


def test_average_is_the_unweighted_mean(scored: Path) -> None:
    scores = read_scores(scored)
    figures = [task["score"] for task in scores["tasks"].values()]
    assert scores["average"] == pytest.approx(sum(figures) / 12)
    assert json.loads((scored / "metrics.json").read_text())["num_failed"] == 0


def test_output_says_that_the_items_are_samples(scored: Path) -> None:
    scores = read_scores(scored)
    assert scores["items_are_samples"] is True
    assert (scores["harness_version"], scores["backend"]) == ("0.4.13", "transformers")
    manifest = read_manifest(scored)
    assert manifest.resolved == {"dtype": "float32"}
    assert manifest.packages["lm-eval"] == "0.4.13" and "torch" in manifest.packages


def test_output_tells_the_cap_on_answers_and_how_many_reached_it(scored: Path) -> None:
    tasks = read_scores(scored)["tasks"]
    caps = {n: (t["max_gen_tokens"], t["harness_max_gen_tokens"]) for n, t in tasks.items()}
    written = {"bbh": (8, 1024), "gsm8k": (8, 256), "humaneval": (8, 1024)}
    assert caps == dict.fromkeys(BENCHMARKS, (0, 0)) | written
    cut = {item["benchmark"] for item in read_items(scored) if item["cut"]}
    assert cut == {name for name, task in tasks.items() if task["num_cut"]} <= written.keys()


def test_the_benchmarks_that_were_not_asked_for_are_named(scored: Path, tmp_path: Path) -> None:
    assert read_scores(scored)["left_out"] == []
    chosen = config(benchmarks=BENCHMARKS[2:])
    summary = stage._summary(chosen, {}, None)
    assert summary["left_out"] == list(BENCHMARKS[:2])


def test_items_give_the_scores(scored: Path) -> None:
    items = read_items(scored)
    for name, task in read_scores(scored)["tasks"].items():
        correct = [item["correct"] for item in items if item["benchmark"] == name]
        assert sum(correct) / len(correct) == task["score"]
        assert set(correct) <= {0, 1}


def test_items_are_spread_over_the_parts(scored: Path) -> None:
    leaves = {(item["leaf"], item["index"]) for item in read_items(scored)}
    mmlu = {leaf for leaf in leaves if leaf[0].startswith("mmlu")}
    assert mmlu == {("mmlu_abstract_algebra", 0), ("mmlu_world_religions", 0)}
    assert {leaf for leaf in leaves if leaf[0] == "arc_easy"} == {("arc_easy", 0), ("arc_easy", 1)}


def test_missing_parts_are_told(scored: Path) -> None:
    tasks = read_scores(scored)["tasks"]
    assert (tasks["mmlu"]["leaf_tasks"], tasks["mmlu"]["known_leaf_tasks"]) == (2, 57)
    assert (tasks["ceval"]["leaf_tasks"], tasks["ceval"]["known_leaf_tasks"]) == (2, 52)
    assert (tasks["bbh"]["leaf_tasks"], tasks["bbh"]["known_leaf_tasks"]) == (2, 27)
    assert (tasks["race"]["leaf_tasks"], tasks["race"]["known_leaf_tasks"]) == (2, 2)


def test_failed_benchmark_is_no_zero_and_stops_no_other(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(SAMPLE / "arc", tmp_path / "data" / "arc")
    metrics = score_benchmarks(
        config(data_uri=str(tmp_path / "data"), benchmarks=("gsm8k", "arc_easy")),
        model=tiny_model,
        benchmark_scores=tmp_path / "scores",
    )
    scores = read_scores(tmp_path / "scores")
    assert metrics.keys() == {"arc_easy", "num_failed"}
    assert metrics["num_failed"] == 1
    assert scores["average"] is None
    assert scores["tasks"]["gsm8k"]["status"] == "failed"
    assert scores["tasks"]["gsm8k"]["score"] is None
    assert "no data of gsm8k" in scores["tasks"]["gsm8k"]["error"]
    assert scores["tasks"]["arc_easy"]["status"] == "ok"


def test_unprotected_host_fails_humaneval_and_runs_nothing(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = tmp_path / "child.py"
    child.write_text('import os, sys\nos.write(int(sys.argv[1]), b\'{"refused": "seccomp: no"}\')')
    monkeypatch.setattr(sandbox, "CHILD", child)
    score_benchmarks(
        config(benchmarks=("humaneval",)), model=tiny_model, benchmark_scores=tmp_path / "scores"
    )
    task = read_scores(tmp_path / "scores")["tasks"]["humaneval"]
    assert (task["status"], task["score"], task["num_items"]) == ("failed", None, 0)
    assert "seccomp: no" in task["error"]


def test_prompts_cut_by_a_short_context_are_counted(tiny_model: Path, tmp_path: Path) -> None:
    score_benchmarks(
        config(benchmarks=("race", "winogrande"), items_per_benchmark=2, max_length=128),
        model=tiny_model,
        benchmark_scores=tmp_path / "scores",
    )
    tasks = read_scores(tmp_path / "scores")["tasks"]
    assert (tasks["race"]["num_truncated"], tasks["winogrande"]["num_truncated"]) == (2, 0)


def test_chat_template_is_applied_when_asked(tiny_model: Path, tmp_path: Path) -> None:
    metrics = score_benchmarks(
        config(
            benchmarks=("arc_easy", "humaneval"), items_per_benchmark=1, apply_chat_template=True
        ),
        model=tiny_model,
        benchmark_scores=tmp_path / "scores",
    )
    assert metrics["num_failed"] == 0


def test_missing_data_folder_is_the_users_mistake(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        score_benchmarks(
            config(data_uri=str(tmp_path / "none")),
            model=tiny_model,
            benchmark_scores=tmp_path / "scores",
        )


class Scripted(LM):
    """A model that writes what it is told to and remembers what it was asked."""

    def __init__(self, answers: list[str]) -> None:
        super().__init__()
        self.answers = answers
        self.asked: list[Any] = []
        self.max_length = 10_000

    def generate_until(self, requests: list[Any], *_: Any) -> list[str]:
        self.asked += [request.args for request in requests]
        return self.answers

    def loglikelihood(self, requests: list[Any], *_: Any) -> list[tuple[float, bool]]:
        self.asked += [request.args for request in requests]
        return [(-float(len(request.args[1])), False) for request in requests]

    def loglikelihood_rolling(self, requests: list[Any], *_: Any) -> list[float]:
        raise NotImplementedError

    def tok_encode(self, string: str, **_: Any) -> list[int]:
        return list(string.encode())


class ChatScripted(Scripted):
    """The same with a chat template."""

    tokenizer_name = "scripted"

    def apply_chat_template(self, history: list[dict[str, str]], **_: Any) -> str:
        return "\n".join(message["content"] for message in history)

    def chat_template(self, *_: Any) -> str:
        return ""


def score_with(model: Scripted, name: Benchmark, **fields: Any) -> list[Item]:
    settings = config(**fields)
    parts = read_parts(name, SAMPLE, settings.shots(name))
    return score_tasks(settings, name, model, local_tasks(settings, name, parts))


def test_humaneval_passes_right_programs_only() -> None:
    (part,) = READERS["humaneval"](SAMPLE)
    solutions = [solution(row["prompt"]) for row in part.rows]
    solutions[1] = "    return None\n"
    items = score_with(Scripted(solutions), "humaneval")
    assert [item.correct for item in items] == [1, 0, 1, 1]


def test_chat_answer_to_humaneval_ends_with_its_code_fence() -> None:
    (part,) = READERS["humaneval"](SAMPLE)
    fenced = [solution(row["prompt"]) + "```\nThat is it." for row in part.rows]
    plain = score_with(Scripted(fenced), "humaneval")
    chat = score_with(ChatScripted(fenced), "humaneval", apply_chat_template=True)
    assert [item.correct for item in plain] == [0, 0, 0, 0]
    assert [item.correct for item in chat] == [1, 1, 1, 1]


def solution(prompt: str) -> str:
    with gzip.open(SAMPLE / "humaneval" / "HumanEval.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    (found,) = [row["canonical_solution"] for row in rows if row["prompt"] == prompt]
    return found


def test_gsm8k_takes_the_last_number_written() -> None:
    (part,) = READERS["gsm8k"](SAMPLE)
    right = [row["answer"].split("#### ")[1] for row in part.rows]
    answers = [f"First 7, so the answer is {number}." for number in right]
    answers[0] = f"{right[0]}, no: 123456"
    assert [item.correct for item in score_with(Scripted(answers), "gsm8k")] == [0, 1, 1, 1]


def test_written_answers_are_capped_as_configured() -> None:
    model = Scripted(["no"] * 4)
    score_with(model, "gsm8k", max_gen_tokens=33)
    assert {settings["max_gen_toks"] for _, settings in model.asked} == {33}
    model = Scripted(["no"] * 4)
    score_with(model, "gsm8k", max_gen_tokens=9999)
    assert {settings["max_gen_toks"] for _, settings in model.asked} == {256}


def test_answers_as_long_as_allowed_are_told_from_shorter_ones() -> None:
    """A token of the scripted model is a byte."""
    model = Scripted(["12345678", "1234567", "123456789", ""])
    items = score_with(model, "gsm8k", max_gen_tokens=8)
    assert [item.cut for item in items] == [True, False, True, False]
    assert not any(item.cut for item in score_with(Scripted([]), "arc_easy"))


def test_race_of_the_hub_has_both_of_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness's own copy has high schools alone; the other has a row for each question."""
    local = {part.name: part.rows for part in read_parts("race", SAMPLE, 0)}
    ours = local_tasks(config(), "race", read_parts("race", SAMPLE, 0))
    asked: list[tuple[str, str]] = []

    def download(self: ConfigurableTask, _: Any = None, **__: Any) -> None:
        of = (str(self.config.dataset_path), str(self.config.dataset_name))
        asked.append(of)
        rows = local["high"]
        if of[1] == "middle":
            rows = [
                {
                    "example_id": f"middle{i}.txt", "article": row["article"],
                    "question": problem["question"], "options": problem["options"],
                    "answer": problem["answer"],
                }
                for i, row in enumerate(local["middle"])
                for problem in ast.literal_eval(row["problems"])
            ]  # fmt: skip
        self.dataset = datasets.DatasetDict({"test": datasets.Dataset.from_list(rows)})

    monkeypatch.setattr(ConfigurableTask, "download", download)
    tasks = hub_tasks(config(data_uri="hub"), "race")
    assert asked == [("EleutherAI/race", "high"), ("ehovy/race", "middle")]
    assert list(tasks) == list(ours) == ["race_high", "race_middle"]
    for name, task in tasks.items():
        for each in (task, ours[name]):
            each.build_all_requests(rank=0, world_size=1)
        requests = [[request.args for request in t.instances] for t in (task, ours[name])]
        assert requests[0] == requests[1] and requests[0]


@pytest.mark.parametrize(("name", "file"), AS_PUBLISHED)
def test_requests_are_those_of_the_shipped_task(name: Benchmark, file: str, tmp_path: Path) -> None:
    settings = config(max_gen_tokens=256)
    (ours,) = local_tasks(settings, name, read_parts(name, SAMPLE, 0)).values()
    files = {split: str(SAMPLE / file) for split in ("train", "validation", "test")}
    shipped = load_yaml(SHIPPED / SHIPPED_FILES[name]) | {
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": files, "cache_dir": str(tmp_path)},
        "num_fewshot": 0,
    }
    shipped.pop("tag", None)
    if name == "gsm8k":  # theirs leaves the length to the model class
        shipped["generation_kwargs"]["max_gen_toks"] = 256
    theirs = ConfigurableTask(config=shipped)
    for task in (ours, theirs):
        task.build_all_requests(rank=0, world_size=1)
    requests = [[request.args for request in task.instances] for task in (ours, theirs)]
    assert requests[0] == requests[1]
    assert len(requests[0]) >= 4


def test_ceval_shots_are_the_first_rows_and_are_not_scored() -> None:
    rows = [len(part.rows) for part in READERS["ceval"](SAMPLE)]
    parts = read_parts("ceval", SAMPLE, 5)
    assert [len(part.rows) + 5 for part in parts] == rows
    model = Scripted([])
    score_with(model, "ceval")
    for part in parts:
        prompts = [context for context, _ in model.asked if part.rows[0]["question"] in context]
        assert all(shot["question"] in prompts[0] for shot in part.shots)
        assert prompts[0].index(part.shots[0]["question"]) < prompts[0].index(
            part.shots[4]["question"]
        )


def test_shots_can_be_overridden() -> None:
    model = Scripted([])
    score_with(model, "mmlu", num_fewshot={"mmlu": 2})
    dev = SAMPLE / "mmlu" / "dev" / "abstract_algebra_dev.csv"
    with dev.open(encoding="utf-8", newline="") as file:
        questions = [row["question"] for row in csv.DictReader(file)]
    asked = model.asked[0][0]
    assert [question in asked for question in questions] == [True, True, False, False, False]


def test_bbh_prompt_opens_as_the_prompt_file_does() -> None:
    model = Scripted(["So the answer is (A)."] * 8)
    score_with(model, "bbh")
    text = (SAMPLE / "bbh" / "cot-prompts" / "boolean_expressions.txt").read_text()
    asked = model.asked[0][0]
    assert asked.startswith(text.partition("-----\n")[2].strip())


def test_arc_rows_with_options_in_the_query_are_read_like_the_others(tmp_path: Path) -> None:
    shutil.copytree(SAMPLE / "arc", tmp_path / "arc")
    (validation,) = read_parts("arc_easy", tmp_path, 0)
    with (tmp_path / "arc" / "ARC-Easy_test_olmes_mc.jsonl").open("w") as file:
        for row in validation.rows:
            labels = row["choices"]["label"]
            options = "".join(
                f"\n {label}. {text}"
                for label, text in zip(labels, row["choices"]["text"], strict=True)
            )
            query = f"Question: {row['question']}{options}\nAnswer:"
            gold = labels.index(row["answerKey"])
            file.write(json.dumps({"query": query, "choices": labels, "gold": gold}) + "\n")
    (test,) = read_parts("arc_easy", tmp_path, 0)
    assert test.rows == validation.rows


def test_c3_answer_is_the_letter_of_the_right_option() -> None:
    for part in read_parts("c3", SAMPLE, 0):
        for row in part.rows:
            lines = row["options"].splitlines()
            assert lines[row["answer"]].startswith(f"{row['letters'][row['answer']]}. ")
            assert len(lines) == len(row["letters"])


def test_broken_row_is_named_by_file_and_number(tmp_path: Path) -> None:
    shutil.copytree(SAMPLE / "ceval", tmp_path / "ceval")
    path = tmp_path / "ceval" / "val" / "Humanities" / "law.jsonl"
    lines = path.read_text().splitlines()
    lines[2] = json.dumps(json.loads(lines[2]) | {"inputs_pretokenized": "no options"})
    path.write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"law\.jsonl: row 3: .*no options A to D"):
        read_parts("ceval", tmp_path, 5)


def test_too_few_rows_for_the_shots_is_an_error() -> None:
    with pytest.raises(DataError, match="too few rows for 4 shots"):
        read_parts("arc_easy", SAMPLE, 4)


def test_unknown_part_is_an_error(tmp_path: Path) -> None:
    shutil.copytree(SAMPLE / "mmlu", tmp_path / "mmlu")
    known = tmp_path / "mmlu" / "test" / "world_religions_test.csv"
    known.rename(known.with_name("astrology_test.csv"))
    with pytest.raises(DataError, match="'astrology' is not one of the parts"):
        local_tasks(config(), "mmlu", read_parts("mmlu", tmp_path, 0))


def test_every_benchmark_has_a_scoring_a_reader_and_its_parts() -> None:
    assert set(SCORING) == set(READERS) == set(BENCHMARKS) == {*SHIPPED_FILES, "c3"}
    counts = {name: len(known_parts(name)) for name in BENCHMARKS}
    assert {n: c for n, c in counts.items() if c > 1} == {"ceval": 52, "mmlu": 57, "bbh": 27}


@pytest.mark.parametrize(
    "fields",
    [
        {"benchmarks": ("mmlu", "mmlu")},
        {"benchmarks": ()},
        {"benchmarks": ("trivia",)},
        {"num_fewshot": {"bbh": 4}},
        {"num_fewshot": {"arc_easy": -1}},
        {"num_fewshot": {"humaneval": 1}},
        {"items_per_benchmark": 0},
    ],
)
def test_config_refuses_what_cannot_be_run(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        config(**fields)


def test_progress_is_told_in_lines_that_the_console_reads(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "equilibrate_core")
    chosen = config(items_per_benchmark=1, benchmarks=("winogrande",))
    score_benchmarks(chosen, model=tiny_model, benchmark_scores=tmp_path / "scores")
    lines = [f"2026-01-01 00:00:00,000 {r.levelname} {r.getMessage()}" for r in caplog.records]
    assert any(
        (match := PROGRESS.search(line)) and match["label"] == "score_benchmarks" for line in lines
    )
