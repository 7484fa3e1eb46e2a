"""Compare our scores with those of lm-evaluation-harness's own command line, to the last digit.

    python benchmarks/harness_equality.py --model FOLDER [--data FOLDER] [--limit N]

Runs score_benchmarks, then `lm_eval` as a user would, on the same model, rows and limit, for the
benchmarks whose published rows the harness's shipped tasks read as they are. Ends with 1 when one
figure differs. Without --data: the sample that comes with the package.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from components.score_benchmarks.config import SCORING, Benchmark, ScoreBenchmarksConfig
from components.score_benchmarks.stage import score_benchmarks
from components.score_benchmarks.tasks import SHIPPED, SHIPPED_FILES
from equilibrate_core.digests import ROOT
from equilibrate_core.stage import configure_logging

SAMPLE = ROOT / "pipelines" / "sample" / "benchmarks"
FILES: dict[Benchmark, str] = {
    "arc_easy": "arc/ARC-Easy_validation.jsonl",
    "arc_challenge": "arc/ARC-Challenge_validation.jsonl",
    "hellaswag": "hellaswag/validation*.jsonl",
    "winogrande": "winogrande/validation.jsonl",
    "commonsenseqa": "commonsenseqa/validation.jsonl",
    "gsm8k": "gsm8k/test.jsonl",
}
MAX_GEN_TOKENS = 64
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


def same_rows(data: Path, folder: Path) -> Path:
    """A folder with these files alone: where a set has several, both sides read the same one."""
    for file in FILES.values():
        (rows,) = data.glob(file)
        copy = folder / rows.relative_to(data)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(rows, copy)
    return folder


def ours(model: Path, data: Path, limit: int, folder: Path) -> dict[str, float | None]:
    config = ScoreBenchmarksConfig(
        data_uri=str(data),
        benchmarks=tuple(FILES),
        items_per_benchmark=limit,
        dtype="float32",
        max_gen_tokens=MAX_GEN_TOKENS,
    )
    score_benchmarks(config, model=model, benchmark_scores=folder / "ours")
    tasks = json.loads((folder / "ours" / "scores.json").read_text())["tasks"]
    return {name: task["score"] for name, task in tasks.items()}


def theirs(model: Path, data: Path, limit: int, folder: Path) -> dict[str, float]:
    """Scores of `lm_eval` on tasks that include the shipped files and name local rows."""
    tasks = folder / "tasks"
    tasks.mkdir()
    for name, file in FILES.items():
        (rows,) = data.glob(file)
        (tasks / f"{name}.yaml").write_text(json.dumps(task_file(name, rows)))
    command = [
        sys.executable, "-m", "lm_eval", "--model", "hf",
        "--model_args", f"pretrained={model},dtype=float32",
        "--include_path", str(tasks), "--tasks", ",".join(f"local_{name}" for name in FILES),
        "--limit", str(limit), "--batch_size", "8", "--num_fewshot", "0",
        "--output_path", str(folder / "theirs"),
    ]  # fmt: skip
    subprocess.run(command, check=True, env={**os.environ, **OFFLINE}, stdout=subprocess.DEVNULL)
    (found,) = (folder / "theirs").rglob("results_*.json")
    results = json.loads(found.read_text())["results"]
    return {
        name: results[f"local_{name}"][f"{SCORING[name].metric},{SCORING[name].filter}"]
        for name in FILES
    }


def task_file(name: Benchmark, rows: Path) -> dict[str, Any]:
    """A task as the harness's manual says to write one over local files."""
    task: dict[str, Any] = {
        "include": str(SHIPPED / SHIPPED_FILES[name]),
        "task": f"local_{name}",
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {"rows": str(rows.resolve())}},
        "training_split": None,
        "validation_split": None,
        "test_split": "rows",
        "fewshot_split": "rows",
    }
    if SCORING[name].max_gen_tokens:
        limit = min(SCORING[name].max_gen_tokens, MAX_GEN_TOKENS)
        task["generation_kwargs"] = {
            "until": ["Question:", "</s>", "<|im_end|>"],
            "do_sample": False,
            "temperature": 0.0,
            "max_gen_toks": limit,
        }
    return task


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="a model artifact")
    parser.add_argument("--data", type=Path, default=SAMPLE)
    parser.add_argument("--limit", type=int, default=4, help="items per benchmark")
    arguments = parser.parse_args()
    configure_logging()
    with tempfile.TemporaryDirectory() as scratch:
        data = same_rows(arguments.data, Path(scratch) / "data")
        given = (arguments.model, data, arguments.limit, Path(scratch))
        mine, peers = ours(*given), theirs(*given)
    different = [name for name in FILES if mine[name] != peers[name]]
    for name in FILES:
        said = "differs" if name in different else "equal"
        print(f"{name:14} ours {mine[name]!r:22} lm_eval {peers[name]!r:22} {said}")
    return 1 if different else 0


if __name__ == "__main__":
    raise SystemExit(main())
