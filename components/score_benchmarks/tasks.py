"""Tasks of lm-evaluation-harness over our rows: its own prompts, answer extraction and metrics.

benchmark + rows -> harness task objects. Each task is the harness's shipped YAML with nothing
replaced but where its rows come from, the number of shots and the cap on written tokens. C3, which
it does not ship, is worded like its C-Eval.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import lm_eval
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks._yaml_loader import load_yaml

from components.score_benchmarks.config import Benchmark, ScoreBenchmarksConfig
from components.score_benchmarks.data import PARTS, Part, c3_row, race_articles
from equilibrate_core.errors import DataError

SHIPPED = Path(lm_eval.__file__).parent / "tasks"
SHIPPED_FILES: dict[Benchmark, str] = {
    "ceval": "ceval/ceval-valid_*.yaml",
    "mmlu": "mmlu/default/mmlu_*.yaml",
    "commonsenseqa": "commonsense_qa/default.yaml",
    "race": "race/race.yaml",
    "arc_challenge": "arc/arc_challenge.yaml",
    "arc_easy": "arc/arc_easy.yaml",
    "bbh": "bbh/cot_fewshot/*.yaml",
    "hellaswag": "hellaswag/hellaswag.yaml",
    "winogrande": "winogrande/default.yaml",
    "gsm8k": "gsm8k/gsm8k.yaml",
    "humaneval": "humaneval/humaneval.yaml",
}
"""Each benchmark's YAML in the harness; `*` stands for the part."""

C3: dict[str, Any] = {
    "output_type": "multiple_choice",
    "description": "以下是中文阅读理解的单项选择题，请选出其中的正确答案。\n\n",
    "doc_to_text": "{{context}}\n问题：{{question}}\n{{options}}\n答案：",
    "doc_to_choice": "{{letters}}",
    "doc_to_target": "answer",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}
C3_ON_HUB: dict[str, Any] = {
    "dataset_path": "clue/clue",
    "dataset_name": "c3",
    "validation_split": "validation",
    "process_docs": lambda rows: rows.map(c3_row, remove_columns=rows.column_names),
}
RACE_MIDDLE_ON_HUB: dict[str, Any] = {
    "dataset_path": "ehovy/race",
    "dataset_name": "middle",
    "process_docs": lambda rows: datasets.Dataset.from_list(list(race_articles(rows))),
}
"""The harness's own copy has the articles of high schools alone."""
ON_HUB: dict[str, dict[str, Any]] = {"c3": C3_ON_HUB, "race_middle": RACE_MIDDLE_ON_HUB}
"""Where tasks find rows on the hub that the harness does not ship."""


def local_tasks(
    config: ScoreBenchmarksConfig, benchmark: Benchmark, parts: list[Part]
) -> dict[str, ConfigurableTask]:
    """Harness tasks over rows read from files, by task name."""
    tasks: dict[str, ConfigurableTask] = {}
    for part in parts:
        task = _shipped(config, benchmark, part.name) | _local_rows(part)
        task["num_fewshot"] = config.shots(benchmark)
        if part.description is not None:
            task["description"] = part.description
        task["task"] = "_".join(filter(None, (benchmark, part.name)))
        tasks[task["task"]] = ConfigurableTask(config=task)
    return tasks


def hub_tasks(config: ScoreBenchmarksConfig, benchmark: Benchmark) -> dict[str, ConfigurableTask]:
    """Harness tasks over the rows the harness itself downloads, by task name."""
    tasks: dict[str, ConfigurableTask] = {}
    for name in PARTS["race"] if benchmark == "race" else known_parts(benchmark):
        full_name = "_".join(filter(None, (benchmark, name)))
        task = _shipped(config, benchmark, name) | ON_HUB.get(full_name, {})
        task["num_fewshot"] = config.shots(benchmark)
        task["task"] = full_name
        tasks[full_name] = ConfigurableTask(config=task)
    return tasks


def known_parts(benchmark: Benchmark) -> list[str]:
    """Names of all parts the harness ships for a benchmark; [""] when it is one whole."""
    if benchmark == "c3" or "*" not in SHIPPED_FILES[benchmark]:
        return [""]
    pattern = SHIPPED_FILES[benchmark]
    before, after = Path(pattern).name.split("*")
    names = (path.name for path in sorted(SHIPPED.glob(pattern)))
    return [n.removeprefix(before).removesuffix(after) for n in names if not n.startswith("_")]


def _shipped(config: ScoreBenchmarksConfig, benchmark: Benchmark, part: str) -> dict[str, Any]:
    """The harness's own config of a task, made safe and short."""
    if benchmark == "c3":
        return dict(C3)
    if benchmark == "humaneval":
        return _generate_only(config, "_instruct" if config.apply_chat_template else "")
    path = SHIPPED / SHIPPED_FILES[benchmark].replace("*", part)
    if not path.is_file():
        raise DataError(f"{benchmark}: {part!r} is not one of the parts that lm-eval knows")
    task = load_yaml(path)
    for name in ("tag", "group"):
        task.pop(name, None)
    return _capped(config, benchmark, task)


def _generate_only(config: ScoreBenchmarksConfig, variant: str) -> dict[str, Any]:
    """HumanEval's prompts and stops without its scoring.

    The shipped file loads a metric from the hub and runs what the model wrote in this process;
    its functions are therefore not even resolved.
    """
    path = SHIPPED / "humaneval" / f"humaneval{variant}.yaml"
    task = load_yaml(path, resolve_func=False)
    for name in ("filter_list", "unsafe_code"):
        task.pop(name, None)
    task["metric_list"] = [{"metric": "bypass", "aggregation": "bypass", "higher_is_better": True}]
    return _capped(config, "humaneval", task)


def _capped(
    config: ScoreBenchmarksConfig, benchmark: Benchmark, task: dict[str, Any]
) -> dict[str, Any]:
    if limit := config.answer_tokens(benchmark):
        task["generation_kwargs"] = {**task["generation_kwargs"], "max_gen_toks": limit}
    return task


def _local_rows(part: Part) -> dict[str, Any]:
    """What makes a shipped task read the part's rows instead of a data set of the hub."""
    fields: dict[str, Any] = {
        "custom_dataset": _in_memory(part),
        "dataset_path": None,
        "dataset_name": None,
        "dataset_kwargs": None,
        "training_split": None,
        "validation_split": None,
        "test_split": "rows",
        "fewshot_split": None,
        "fewshot_config": None,
    }
    if part.shots:
        fields |= {"fewshot_split": "shots", "fewshot_config": {"sampler": "first_n"}}
    return fields


def _in_memory(part: Part) -> Callable[..., datasets.DatasetDict]:
    splits = {"rows": datasets.Dataset.from_list(part.rows)}
    if part.shots:
        splits["shots"] = datasets.Dataset.from_list(part.shots)

    def load(**_: Any) -> datasets.DatasetDict:
        return datasets.DatasetDict(splits)

    return load
