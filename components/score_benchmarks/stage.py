"""Take a model through the twelve benchmarks of the paper with lm-evaluation-harness.

model -> benchmark_scores: `scores.json` (a figure per benchmark and their mean) and `items.jsonl`
(one line per question, so that two models can be compared on the same questions).
"""

import json
import logging
import math
import os
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from components.score_benchmarks.config import (
    BENCHMARKS,
    HUB,
    SCORING,
    Benchmark,
    ScoreBenchmarksConfig,
)
from components.score_benchmarks.sandbox import SandboxError
from equilibrate_core.artifacts import write_json
from equilibrate_core.errors import DataError, UserError
from equilibrate_core.progress import Progress
from equilibrate_core.stage import Metrics, stage_main, start_stage

if TYPE_CHECKING:
    from components.score_benchmarks.harness import Item

logger = logging.getLogger(__name__)
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


@dataclass(frozen=True)
class BenchmarkScore:
    """A benchmark's figure, or why there is none: a failed benchmark is not a zero."""

    status: Literal["ok", "failed"]
    error: str | None
    metric: str
    num_fewshot: int
    seconds: float
    score: float | None = None
    """Mean over all items of all leaf tasks."""
    stderr: float | None = None
    """Standard error of that mean; None with fewer than two items."""
    num_items: int = 0
    num_truncated: int = 0
    """Items whose prompt lost its beginning because the model's context is too short."""
    max_gen_tokens: int = 0
    """Longest answer in tokens; 0 where nothing is written."""
    harness_max_gen_tokens: int = 0
    """The same in the harness's own task."""
    num_cut: int = 0
    """Items whose written answer is that long: most of them go on beyond it."""
    leaf_tasks: int = 0
    known_leaf_tasks: int = 0
    """Leaf tasks the full benchmark has; with fewer present, only those are scored."""
    items: list["Item"] = field(default_factory=list)
    may_pass: bool = False
    """Neither the data nor the sandbox is to blame: another attempt may succeed."""


def score_benchmarks(
    config: ScoreBenchmarksConfig, *, model: Path, benchmark_scores: Path
) -> Metrics:
    """Score a model on the configured benchmarks; one that fails does not stop the others."""
    run = start_stage("score_benchmarks", config, model=model)
    local = config.data_uri != HUB
    with _data(config.data_uri) as folder, _offline(local), _bars_for_people_only():
        scores = _score_all(config, model, folder)
    from equilibrate_core.generator_dtype import resolve_dtype  # imports torch, as scoring does

    run = replace(run, resolved={"dtype": resolve_dtype(config.dtype)})
    average = _average(list(scores.values()))
    metrics = _metrics(scores, average)
    with run.output(benchmark_scores, "benchmark_scores") as draft:
        write_json(draft.path / "scores.json", _summary(config, scores, average))
        _write_items(draft.path / "items.jsonl", scores)
        write_json(draft.path / "metrics.json", metrics)
    return metrics


@contextmanager
def _data(uri: str) -> Generator[Path | None]:
    """Folder of the benchmarks' data; None when the harness is to download it."""
    if uri == HUB:
        yield None
    elif uri.startswith("s3://"):
        from equilibrate_core.s3 import download_folder

        with tempfile.TemporaryDirectory() as folder:
            download_folder(uri, Path(folder))
            yield Path(folder)
    else:
        path = Path(uri.removeprefix("file://"))
        if not path.is_dir():
            raise DataError(f"data_uri: {uri}: no such folder; name a folder, s3:// prefix or hub")
        yield path


@contextmanager
def _offline(offline: bool) -> Generator[None]:
    """Keep the Hugging Face libraries off the network while the data is local."""
    before = {name: os.environ.get(name) for name in OFFLINE}
    if offline:
        os.environ.update(OFFLINE)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _bars_for_people_only() -> Generator[None]:
    """Keep the harness's progress bars, several per leaf task, out of logs nobody watches."""
    if sys.stderr.isatty():
        yield
    else:
        with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
            yield


def _score_all(
    config: ScoreBenchmarksConfig, model: Path, folder: Path | None
) -> dict[Benchmark, BenchmarkScore]:
    """Every benchmark once, then again, on a new model, those whose failure may pass."""
    scores: dict[Benchmark, BenchmarkScore] = {}
    left = list(config.benchmarks)
    for attempt in range(1, config.attempts + 1):
        try:
            _score_once(config, left, model, folder, scores)
        except Exception as error:  # the model itself: no reason to lose the scores that are there
            if len(scores) < len(config.benchmarks):
                raise
            logger.exception("attempt %d", attempt)
            reason = f"; attempt {attempt}: {type(error).__name__}: {error}"
            for name in left:
                if scores[name].may_pass:
                    scores[name] = replace(scores[name], error=f"{scores[name].error}{reason}")
        left = [name for name in left if scores[name].may_pass]
        if not left:
            break
    for name in left:
        mend = f"attempts made: {config.attempts}; raise `attempts` to run this stage again"
        scores[name] = replace(scores[name], error=f"{scores[name].error} ({mend})")
    return scores


def _score_once(
    config: ScoreBenchmarksConfig,
    names: list[Benchmark],
    model: Path,
    folder: Path | None,
    scores: dict[Benchmark, BenchmarkScore],
) -> None:
    """Load the model and put these benchmarks' results into `scores`."""
    # Seconds to import, and they read the environment that the stage sets when imported.
    from components.score_benchmarks.harness import open_model

    with (
        open_model(config, model) as lm,
        Progress("score_benchmarks", total=len(names), unit="benchmark") as progress,
    ):
        for name in names:
            scores[name] = _score(config, name, lm, folder)
            _log(name, scores[name])
            progress.advance(1, name)


def _score(
    config: ScoreBenchmarksConfig, name: Benchmark, lm: Any, folder: Path | None
) -> BenchmarkScore:
    from components.score_benchmarks.data import PARTS, read_parts
    from components.score_benchmarks.harness import score_tasks
    from components.score_benchmarks.tasks import hub_tasks, known_parts, local_tasks

    started = time.monotonic()
    asked = {
        "metric": SCORING[name].metric,
        "num_fewshot": config.shots(name),
        "max_gen_tokens": config.answer_tokens(name),
        "harness_max_gen_tokens": SCORING[name].max_gen_tokens,
    }

    def seconds() -> dict[str, float]:
        return {"seconds": round(time.monotonic() - started, 3)}

    try:
        if folder is None:
            tasks = hub_tasks(config, name)
        else:
            parts = read_parts(name, folder, config.shots(name))
            tasks = local_tasks(config, name, parts)
        items = score_tasks(config, name, lm, tasks)
    except Exception as error:  # whatever went wrong, it is this benchmark's alone
        logger.exception("%s failed", name)
        reason = f"{type(error).__name__}: {error}"
        may_pass = not isinstance(error, UserError | SandboxError)
        return BenchmarkScore("failed", reason, **asked, **seconds(), may_pass=may_pass)
    correct = [item.correct for item in items]
    return BenchmarkScore(
        "ok",
        None,
        **asked,
        **seconds(),
        score=sum(correct) / len(correct),
        stderr=_stderr(correct),
        num_items=len(items),
        num_truncated=sum(item.truncated for item in items),
        num_cut=sum(item.cut for item in items),
        leaf_tasks=len(tasks),
        known_leaf_tasks=len(tasks) if folder is None else len(PARTS.get(name, known_parts(name))),
        items=items,
    )


def _stderr(correct: list[int]) -> float | None:
    """Standard error of the mean of zeros and ones (sample deviation, as the harness has it)."""
    number, mean = len(correct), sum(correct) / len(correct)
    return math.sqrt(mean * (1 - mean) / (number - 1)) if number > 1 else None


def _average(scores: list[BenchmarkScore]) -> float | None:
    """Unweighted mean over the configured benchmarks; None as soon as one of them has no figure."""
    figures = [score.score for score in scores if score.score is not None]
    return sum(figures) / len(figures) if len(figures) == len(scores) else None


def _metrics(scores: dict[Benchmark, BenchmarkScore], average: float | None) -> Metrics:
    metrics: Metrics = {n: s.score for n, s in scores.items() if s.score is not None}
    if average is not None:
        metrics["average"] = average
    metrics["num_failed"] = sum(score.status == "failed" for score in scores.values())
    return metrics


def _summary(
    config: ScoreBenchmarksConfig, scores: dict[Benchmark, BenchmarkScore], average: float | None
) -> dict[str, Any]:
    tasks = {name: asdict(score) for name, score in scores.items()}
    for task in tasks.values():
        del task["items"], task["may_pass"]
    return {
        "items_are_samples": config.items_are_samples,
        "harness_version": version("lm-eval"),
        "backend": config.backend,
        "left_out": [name for name in BENCHMARKS if name not in config.benchmarks],
        "tasks": tasks,
        "average": average,
    }


def _write_items(path: Path, scores: dict[Benchmark, BenchmarkScore]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for score in scores.values():
            for item in score.items:
                file.write(json.dumps(asdict(item)) + "\n")


def _log(label: str, score: BenchmarkScore) -> None:
    if score.score is None:
        logger.error("%s: failed after %.1f s: %s", label, score.seconds, score.error)
        return
    parts = f"{score.leaf_tasks} of {score.known_leaf_tasks} parts"
    logger.info(
        "%s: %s %.4f on %d items (%s, %d prompts and %d answers cut), %.1f s",
        label,
        score.metric,
        score.score,
        score.num_items,
        parts,
        score.num_truncated,
        score.num_cut,
        score.seconds,
    )


if __name__ == "__main__":
    raise SystemExit(stage_main(score_benchmarks, ScoreBenchmarksConfig))
