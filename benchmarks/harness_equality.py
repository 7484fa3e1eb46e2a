"""Compare our scores with those of lm-evaluation-harness's own command line, to the last digit.

    python benchmarks/harness_equality.py --model FOLDER --data FOLDER [--limit N] [--parts N]

DATA has the public sets as published, in the layout that score_benchmarks reads. Runs it, then
`lm_eval` as a user would, on the same model, rows and limit, leaf task by leaf task. `lm_eval` gets
the harness's shipped tasks over rows in the layout of the harness's own sources, which this file
writes by itself: what score_benchmarks makes of a published row is compared too. C3 is not among
the shipped tasks; HumanEval's shipped task runs what the model wrote unprotected, with a metric
from a hub. Ends with 1 when one figure differs.
"""

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.score_benchmarks.config import SCORING, Benchmark, ScoreBenchmarksConfig
from components.score_benchmarks.stage import score_benchmarks
from equilibrate_core.stage import configure_logging

FILES: dict[str, tuple[Benchmark, str]] = {
    # published files whose rows the shipped task reads as they are
    "arc/ARC-Easy_validation.jsonl": ("arc_easy", "arc/arc_easy.yaml"),
    "arc/ARC-Challenge_validation.jsonl": ("arc_challenge", "arc/arc_challenge.yaml"),
    "hellaswag/validation*.jsonl": ("hellaswag", "hellaswag/hellaswag.yaml"),
    "winogrande/validation.jsonl": ("winogrande", "winogrande/default.yaml"),
    "commonsenseqa/validation.jsonl": ("commonsenseqa", "commonsense_qa/default.yaml"),
    "gsm8k/test.jsonl": ("gsm8k", "gsm8k/gsm8k.yaml"),
}
MAX_GEN_TOKENS = 64
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
Row = dict[str, Any]


@dataclass(frozen=True)
class Leaf:
    """A leaf task of the harness over some rows."""

    benchmark: Benchmark
    part: str
    shipped: str
    """The harness's YAML."""
    published: list[Path]
    """Files that score_benchmarks reads."""
    rows: list[Row]
    """The same questions in the layout of the harness's own source."""
    shots: list[Row] = field(default_factory=list)

    @property
    def name(self) -> str:
        """As score_benchmarks calls it."""
        return "_".join(filter(None, (self.benchmark, self.part)))


def leaves(data: Path, parts: int) -> Iterator[Leaf]:
    """Whole benchmarks, and the first `parts` parts of those that have many."""
    for pattern, (benchmark, shipped) in FILES.items():
        (path,) = data.glob(pattern)
        yield Leaf(benchmark, "", shipped, [path], _jsonl(path))
    for path in sorted((data / "mmlu/test").glob("*_test.csv"))[:parts]:
        subject = path.stem.removesuffix("_test")
        rows = [_mmlu(row) for row in csv.DictReader(path.read_text("utf-8").splitlines(True))]
        yield Leaf("mmlu", subject, f"mmlu/default/mmlu_{subject}.yaml", [path], rows)
    shots = SCORING["ceval"].num_fewshot
    for path in sorted((data / "ceval/val").rglob("*.jsonl"), key=lambda p: p.stem)[:parts]:
        rows = [_ceval(row) for row in _jsonl(path)]
        shipped = f"ceval/ceval-valid_{path.stem}.yaml"
        yield Leaf("ceval", path.stem, shipped, [path], rows[shots:], rows[:shots])
    for part in ("high", "middle"):
        for path in data.glob(f"race/*{part}*.jsonl"):
            yield Leaf("race", part, "race/race.yaml", [path], [_race(r) for r in _jsonl(path)])
    for path in sorted((data / "bbh/bbh").glob("*.json"))[:parts]:
        examples = data / "bbh/cot-prompts" / f"{path.stem}.txt"
        rows = json.loads(path.read_bytes())["examples"]
        shipped = f"bbh/cot_fewshot/{path.stem}.yaml"
        yield Leaf("bbh", path.stem, shipped, [path, examples], rows)


def _mmlu(row: Row) -> Row:
    """As cais/mmlu has it."""
    choices = [row["choice0"], row["choice1"], row["choice2"], row["choice3"]]
    return {"question": row["question"], "choices": choices, "answer": int(row["answer"])}


def _ceval(row: Row) -> Row:
    """As ceval/ceval-exam has it."""
    text, found = row["inputs_pretokenized"], {}
    for letter in "DCBA":
        text, _, found[letter] = text.rpartition(f"\n{letter}. ")
    return {"question": text, **found, "answer": row["targets_pretokenized"][0].strip()}


def _race(row: Row) -> Row:
    """As EleutherAI/race has it: its problems are Python source."""
    problems = [
        {"question": question, "answer": answer, "options": options}
        for question, answer, options in zip(
            row["questions"], row["answers"], row["options"], strict=True
        )
    ]
    return {"article": row["article"], "problems": str(problems)}


def _jsonl(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line.strip()]


def ours(
    model: Path, data: Path, found: list[Leaf], limit: int, folder: Path
) -> dict[str, float | None]:
    """Scores of the stage, on a folder with the published files alone."""
    for leaf in found:
        for path in leaf.published:
            copy = folder / "data" / path.relative_to(data)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
    parts = max(sum(leaf.benchmark == other.benchmark for other in found) for leaf in found)
    config = ScoreBenchmarksConfig(
        data_uri=str(folder / "data"),
        benchmarks=tuple(dict.fromkeys(leaf.benchmark for leaf in found)),
        items_per_benchmark=limit * parts,
        dtype="float32",
        max_gen_tokens=MAX_GEN_TOKENS,
    )
    score_benchmarks(config, model=model, benchmark_scores=folder / "ours")
    correct: dict[str, dict[int, int]] = defaultdict(dict)
    for item in _jsonl(folder / "ours" / "items.jsonl"):
        if item["index"] < limit:
            correct[item["leaf"]][item["index"]] = item["correct"]
    return {name: sum(items.values()) / len(items) for name, items in correct.items()}


def theirs(model: Path, found: list[Leaf], limit: int, folder: Path) -> dict[str, float]:
    """Scores of `lm_eval` on tasks that include the shipped files and name local rows."""
    tasks = folder / "tasks"
    tasks.mkdir()
    for leaf in found:
        (tasks / f"{leaf.name}.yaml").write_text(json.dumps(task_file(leaf, folder)))
    command = [
        sys.executable, "-m", "lm_eval", "--model", "hf",
        "--model_args", f"pretrained={model},dtype=float32",
        "--include_path", str(tasks), "--tasks", ",".join(f"local_{leaf.name}" for leaf in found),
        "--limit", str(limit), "--batch_size", "8", "--output_path", str(folder / "theirs"),
    ]  # fmt: skip
    subprocess.run(command, check=True, env={**os.environ, **OFFLINE}, stdout=subprocess.DEVNULL)
    (path,) = (folder / "theirs").rglob("results_*.json")
    results = json.loads(path.read_text())["results"]
    return {leaf.name: results[f"local_{leaf.name}"][_metric(leaf)] for leaf in found}


def _metric(leaf: Leaf) -> str:
    scoring = SCORING[leaf.benchmark]
    return f"{scoring.metric},{scoring.filter}"


def task_file(leaf: Leaf, folder: Path) -> dict[str, Any]:
    """A task as the harness's manual says to write one over local files."""
    import lm_eval
    from lm_eval.tasks._yaml_loader import load_yaml

    shipped = Path(lm_eval.__file__).parent / "tasks" / leaf.shipped
    files: dict[str, str] = {}
    for split, rows in {"rows": leaf.rows, "shots": leaf.shots}.items():
        if rows:
            path = folder / f"{leaf.name}.{split}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            files[split] = str(path)
    task: dict[str, Any] = {
        "include": str(shipped),
        "task": f"local_{leaf.name}",
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": files},
        "training_split": None,
        "validation_split": None,
        "test_split": "rows",
        "fewshot_split": "shots" if leaf.shots else "rows",
        "num_fewshot": SCORING[leaf.benchmark].num_fewshot,
    }
    if SCORING[leaf.benchmark].max_gen_tokens:
        asked = load_yaml(shipped, resolve_func=False)["generation_kwargs"]
        task["generation_kwargs"] = {**asked, "max_gen_toks": MAX_GEN_TOKENS}
    return task


def main() -> int:
    """Score on both sides and print leaf beside leaf."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="a model artifact")
    parser.add_argument("--data", type=Path, required=True, help="folder with the public sets")
    parser.add_argument("--limit", type=int, default=10, help="items per leaf task")
    parser.add_argument("--parts", type=int, default=3, help="subjects of MMLU and C-Eval, of BBH")
    given = parser.parse_args()
    configure_logging()
    found = list(leaves(given.data, given.parts))
    with tempfile.TemporaryDirectory() as scratch:
        mine = ours(given.model, given.data, found, given.limit, Path(scratch))
        peers = theirs(given.model, found, given.limit, Path(scratch))
    names = [leaf.name for leaf in found]
    different = [name for name in names if mine[name] != peers[name]]
    for name in names:
        said = "differs" if name in different else "equal"
        print(f"{name:32} ours {mine[name]!r:22} lm_eval {peers[name]!r:22} {said}")
    return 1 if different else 0


if __name__ == "__main__":
    raise SystemExit(main())
