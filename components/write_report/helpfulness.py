"""Helpfulness by benchmark, and the benchmarks' average.

benchmark scores and items of every model -> rows.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from statistics import fmean

from components.write_report.inputs import Benchmarks, Evidence, Json
from components.write_report.report import Delta, Figure, Row
from components.write_report.tallies import Statistics, Tally, figures_and_changes

SAME_MEAN = 5e-4
"""A score further than this from its items' mean was not averaged over items."""
NORMAL_95 = 1.959964
PAIR = ("base", "aligned")
"""The models that the average and the gate are about; a control that fails hides its own cell."""


def benchmark_rows(evidence: Evidence, statistics: Statistics) -> tuple[Row, ...]:
    """A row per benchmark, then their average (absent if one failed for base or aligned model)."""
    arms = {name: arm.benchmarks for name, arm in evidence.arms.items()}
    rows = [_benchmark_row(name, arms, statistics) for name in _names(evidence, arms)]
    return (*rows, average_row(evidence, statistics))


def failed_benchmarks(evidence: Evidence, models: Iterable[str] = PAIR) -> list[str]:
    """What base or aligned ran and one of `models` has no score of, as "name (model: reason)"."""
    tasks = {model: evidence.arms[model].benchmarks.tasks for model in models}
    return [
        f"{name} ({model}: {_why_absent(of_model.get(name))})"
        for name in _names(evidence, PAIR)
        for model, of_model in tasks.items()
        if _score(of_model.get(name)) is None
    ]


def _names(evidence: Evidence, models: Iterable[str]) -> list[str]:
    arms = [evidence.arms[model] for model in models]
    return list(dict.fromkeys(task for arm in arms for task in arm.benchmarks.tasks))


def _benchmark_row(name: str, arms: Mapping[str, Benchmarks], statistics: Statistics) -> Row:
    tasks = {arm: scores.tasks.get(name) for arm, scores in arms.items()}
    notes = [f"{arm}: {_why_absent(t)}" for arm, t in tasks.items() if _score(t) is None]
    task = next((task for task in tasks.values() if task), {})
    figures = {arm: _benchmark_figure(name, scores, statistics) for arm, scores in arms.items()}
    return Row(
        key=f"benchmark:{name}",
        label=name,
        unit="share",
        higher_is_better=True,
        note="; ".join([_how_scored(task), *_cut_answers(tasks), *notes]),
        **figures_and_changes(
            figures, lambda a, b: _benchmark_delta(name, arms[a], arms[b], statistics)
        ),
    )


def _how_scored(task: Json) -> str:
    parts = [f"{task.get('metric', 'score')}, {task.get('num_fewshot', 0)}-shot"]
    if task.get("known_leaf_tasks", 0) > task.get("leaf_tasks", 0) > 0:
        parts.append(f"{task['leaf_tasks']} of {task['known_leaf_tasks']} parts")
    if task.get("num_truncated"):
        parts.append(f"{task['num_truncated']} prompts cut to the context length")
    return "; ".join(parts)


def _cut_answers(tasks: Mapping[str, Json | None]) -> list[str]:
    """How many answers of each model are as long as allowed; nothing where none is."""
    written = {arm: task for arm, task in tasks.items() if task and task.get("max_gen_tokens")}
    cut = {arm: task.get("num_cut") or 0 for arm, task in written.items()}
    if not any(cut.values()):
        return []
    limit = next(task["max_gen_tokens"] for task in written.values())
    counts = [f"{n} of {written[arm].get('num_items')} ({arm})" for arm, n in cut.items()]
    return [f"answers that reach the cap of {limit} tokens: {', '.join(counts)}"]


def _benchmark_figure(name: str, scores: Benchmarks, statistics: Statistics) -> Figure | None:
    task = scores.tasks.get(name)
    score = _score(task)
    if task is None or score is None:
        return None
    if _is_item_mean(name, scores):
        figure = statistics.figure([Tally(scores=scores.items[name])])
        assert figure is not None
        return figure.model_copy(update={"value": score})
    slack = _slack(task)
    return Figure(
        value=score,
        low=None if slack is None else score - slack,
        high=None if slack is None else score + slack,
        num_scored=int(task.get("num_items") or 0),
    )


def _benchmark_delta(
    name: str, base: Benchmarks, aligned: Benchmarks, statistics: Statistics
) -> Delta | None:
    tasks = (base.tasks.get(name), aligned.tasks.get(name))
    scores = [_score(task) for task in tasks]
    if scores[0] is None or scores[1] is None:
        return None
    if _is_item_mean(name, base) and _is_item_mean(name, aligned):
        paired = statistics.delta([base.items[name]], [aligned.items[name]])
        if paired is not None:
            return paired
    slacks = [_slack(task or {}) for task in tasks]
    value = scores[1] - scores[0]
    if slacks[0] is None or slacks[1] is None:
        return Delta(value=value)
    slack = (slacks[0] ** 2 + slacks[1] ** 2) ** 0.5
    return Delta(value=value, low=value - slack, high=value + slack)


def average_row(evidence: Evidence, statistics: Statistics) -> Row:
    """The unweighted mean of the benchmarks; a control has one where all three models have."""
    names = _names(evidence, PAIR)
    arms = {name: arm.benchmarks for name, arm in evidence.arms.items()}
    failed = {name: failed_benchmarks(evidence, [name]) for name in arms}
    note = f"Unweighted mean of {len(names)} benchmarks."
    if any(failed.values()):
        note += f" Absent: {'; '.join(chain.from_iterable(failed.values()))}."
    has_mean = {n: bool(names) and not any(failed[m] for m in (*PAIR, n)) for n in arms}
    figures = {n: _average(names, arms[n], statistics) if has_mean[n] else None for n in arms}
    return Row(
        key="benchmark_average",
        label="Helpful average",
        unit="share",
        higher_is_better=True,
        note=note,
        **figures_and_changes(
            figures,
            lambda a, b: (
                _average_delta(names, arms[a], arms[b], statistics)
                if has_mean[a] and has_mean[b]
                else None
            ),
        ),
    )


def _average(names: Sequence[str], scores: Benchmarks, statistics: Statistics) -> Figure:
    tasks = [scores.tasks[name] for name in names]
    mean = fmean(task["score"] for task in tasks)
    total = sum(int(task.get("num_items") or 0) for task in tasks)
    if not all(_is_item_mean(name, scores) for name in names):
        return Figure(value=mean, num_scored=total)
    figure = statistics.figure([Tally(scores=scores.items[name]) for name in names])
    assert figure is not None
    return figure.model_copy(update={"value": mean})


def _average_delta(
    names: Sequence[str], base: Benchmarks, aligned: Benchmarks, statistics: Statistics
) -> Delta:
    if all(_is_item_mean(name, scores) for name in names for scores in (base, aligned)):
        paired = statistics.delta(
            [base.items[name] for name in names], [aligned.items[name] for name in names]
        )
        if paired is not None:
            return paired
    means = [fmean(scores.tasks[name]["score"] for name in names) for scores in (base, aligned)]
    return Delta(value=means[1] - means[0])


def _score(task: Json | None) -> float | None:
    if task is None or task.get("status", "ok") != "ok" or task.get("score") is None:
        return None
    return float(task["score"])


def _why_absent(task: Json | None) -> str:
    if task is None:
        return "not run"
    return str(task.get("error") or "no score")


def _slack(task: Json) -> float | None:
    stderr = task.get("stderr")
    return None if stderr is None else NORMAL_95 * float(stderr)


def _is_item_mean(name: str, scores: Benchmarks) -> bool:
    """Whether the score is the mean of the recorded items, so that resampling them is sound."""
    values = [value for of_item in scores.items.get(name, {}).values() for value in of_item]
    score = _score(scores.tasks.get(name))
    return bool(values) and score is not None and abs(fmean(values) - score) < SAME_MEAN
