"""Helpfulness: wins against the base model, and the benchmarks with their average.

preference verdicts in both orders, benchmark scores and items -> rows.
"""

from collections.abc import Sequence
from statistics import fmean

from components.write_report.inputs import Benchmarks, Evidence, Json
from components.write_report.report import Delta, Figure, Row
from components.write_report.tallies import WIN_CREDIT, Statistics, Tally, judged_by
from equilibrate_core.errors import DataError
from equilibrate_core.records import Verdict

SAME_MEAN = 5e-4
"""A score further than this from its items' mean was not averaged over items."""
NORMAL_95 = 1.959964


def win_rate_row(evidence: Evidence, statistics: Statistics) -> Row:
    """Wins of the aligned over the base model, ties half, over prompts judged in both orders."""
    by_prompt = _preferences(evidence)
    tally = Tally()
    for prompt, orders in by_prompt.items():
        values = [_credit(verdict) for verdict in orders.values()]
        if len(orders) == 2 and None not in values:
            tally.scores[prompt] = [fmean(value for value in values if value is not None)]
            tally.labels.update(str(verdict.label) for verdict in orders.values())
        else:
            tally.num_unscored += 1
    even = {prompt: [0.5] for prompt in tally.scores}
    note = "Against the base model, ties half; 50 % is even. "
    return Row(
        key="win_rate",
        label="Helpfulness win rate",
        unit="share",
        higher_is_better=True,
        base=None,
        aligned=statistics.figure([tally]),
        delta=statistics.delta([even], [tally.scores]),
        note=note + _position_bias(by_prompt) + judged_by(evidence, "preference"),
    )


def benchmark_rows(evidence: Evidence, statistics: Statistics) -> tuple[Row, ...]:
    """A row per benchmark, then their average (absent if one failed for either model)."""
    base, aligned = evidence.base.benchmarks, evidence.aligned.benchmarks
    names = list(dict.fromkeys([*base.tasks, *aligned.tasks]))
    rows = [_benchmark_row(name, base, aligned, statistics) for name in names]
    return (*rows, _average_row(names, rows, evidence, statistics))


def failed_benchmarks(evidence: Evidence) -> list[str]:
    """Benchmarks that lack a score for either model, as "name (model: reason)"."""
    tasks = {name: arm.benchmarks.tasks for name, arm in evidence.arms.items()}
    names = dict.fromkeys(name for of_arm in tasks.values() for name in of_arm)
    return [
        f"{name} ({arm}: {_why_absent(of_arm.get(name))})"
        for name in names
        for arm, of_arm in tasks.items()
        if _score(of_arm.get(name)) is None
    ]


def _preferences(evidence: Evidence) -> dict[str, dict[str, Verdict]]:
    """Preference verdicts by prompt and order, all seen from the aligned model."""
    prompts = {answer.id: answer.prompt_id for answer in evidence.aligned.answers}
    found: dict[str, dict[str, Verdict]] = {}
    for verdict in evidence.aligned.verdicts:
        if verdict.kind != "preference":
            continue
        prompt = prompts.get(verdict.generation_id)
        if prompt is None or verdict.order is None:
            raise DataError(
                f"verdict {verdict.id}: a preference needs an order and one of the aligned "
                "model's answers; judge the aligned answers against the base's"
            )
        orders = found.setdefault(prompt, {})
        if verdict.order in orders:
            raise DataError(f"verdict {verdict.id}: prompt {prompt} has two {verdict.order} orders")
        orders[verdict.order] = verdict
    return found


def _credit(verdict: Verdict) -> float | None:
    if verdict.status == "unscored" or verdict.label is None:
        return None
    if verdict.label not in WIN_CREDIT:
        raise DataError(
            f"verdict {verdict.id}: preference label {verdict.label!r} is not one of "
            f"{', '.join(WIN_CREDIT)}; judge the answers again"
        )
    return WIN_CREDIT[verdict.label]


def _position_bias(by_prompt: dict[str, dict[str, Verdict]]) -> str:
    """How often the first place won and the two orders agreed, over prompts with both."""
    both: list[tuple[float, float]] = []
    for orders in by_prompt.values():
        first, second = (_credit(orders[o]) if o in orders else None for o in ("first", "second"))
        if first is not None and second is not None:
            both.append((first, second))
    if not both:
        return "No prompt was judged in both orders. "
    first_place = fmean((first + 1 - second) / 2 for first, second in both)
    agree = fmean(first == second for first, second in both)
    return (
        f"Position bias: the answer shown first won {100 * first_place:.0f} % "
        f"(50 % is none), both orders agreed on {100 * agree:.0f} % of prompts. "
    )


def _benchmark_row(name: str, base: Benchmarks, aligned: Benchmarks, statistics: Statistics) -> Row:
    figures = [_benchmark_figure(name, scores, statistics) for scores in (base, aligned)]
    tasks = {"base": base.tasks.get(name), "aligned": aligned.tasks.get(name)}
    notes = [f"{arm}: {_why_absent(t)}" for arm, t in tasks.items() if _score(t) is None]
    task = tasks["base"] or tasks["aligned"] or {}
    return Row(
        key=f"benchmark:{name}",
        label=name,
        unit="share",
        higher_is_better=True,
        base=figures[0],
        aligned=figures[1],
        delta=_benchmark_delta(name, base, aligned, statistics),
        note="; ".join([_how_scored(task), *notes]),
    )


def _how_scored(task: Json) -> str:
    parts = [f"{task.get('metric', 'score')}, {task.get('num_fewshot', 0)}-shot"]
    if task.get("known_leaf_tasks", 0) > task.get("leaf_tasks", 0) > 0:
        parts.append(f"{task['leaf_tasks']} of {task['known_leaf_tasks']} parts")
    if task.get("num_truncated"):
        parts.append(f"{task['num_truncated']} prompts cut to the context length")
    return "; ".join(parts)


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


def _average_row(
    names: Sequence[str], rows: Sequence[Row], evidence: Evidence, statistics: Statistics
) -> Row:
    failed = failed_benchmarks(evidence)
    note = f"Unweighted mean of {len(names)} benchmarks."
    if failed:
        note += f" Absent: {'; '.join(failed)}."
    complete = bool(rows) and not failed
    return Row(
        key="benchmark_average",
        label="Helpful average",
        unit="share",
        higher_is_better=True,
        base=_average(names, evidence.base.benchmarks, statistics) if complete else None,
        aligned=_average(names, evidence.aligned.benchmarks, statistics) if complete else None,
        delta=_average_delta(names, evidence, statistics) if complete else None,
        note=note,
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


def _average_delta(names: Sequence[str], evidence: Evidence, statistics: Statistics) -> Delta:
    base, aligned = evidence.base.benchmarks, evidence.aligned.benchmarks
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
