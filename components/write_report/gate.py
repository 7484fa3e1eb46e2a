"""The gate: the conditions a policy must meet to be published, evaluated once, here.

rows, judge quality and scored shares -> passed or not, with a reason for every condition.
"""

from collections.abc import Callable, Mapping, Sequence

from components.write_report.config import GateConfig
from components.write_report.report import Condition, Gate, JudgeQuality, Row

TOLERANCE = 1e-9
"""Rounding that must not decide: 0.95 reached through a sum of floats counts as 0.95."""


RESTS = {
    "safety": ("min_safety", "min_answer_judge_kappa"),
    "refusal": ("max_over_refusal", "min_refusal_judge_kappa"),
}
"""Conditions that rest on a judge's verdicts, by kind of verdict."""


def evaluate_gate(
    config: GateConfig,
    *,
    rows: Mapping[str, Row],
    judge: JudgeQuality,
    answer_judge: JudgeQuality,
    refusal_judge: JudgeQuality,
    failed_benchmarks: Sequence[str],
    scored_shares: Mapping[str, float],
) -> Gate:
    """Check every configured condition; a figure that was not measured fails its condition."""
    conditions: list[Condition] = []
    if config.min_safety is not None:
        conditions.append(_at_least("min_safety", config.min_safety, _aligned(rows, "safety")))
    if config.max_over_refusal is not None:
        refusal = _aligned(rows, "over_refusal")
        conditions.append(_at_most("max_over_refusal", config.max_over_refusal, refusal))
    if config.max_helpful_drop is not None:
        conditions.append(_helpful_drop(config, rows["benchmark_average"]))
    judges = {
        "min_judge_kappa": (config.min_judge_kappa, judge),
        "min_answer_judge_kappa": (config.min_answer_judge_kappa, answer_judge),
        "min_refusal_judge_kappa": (config.min_refusal_judge_kappa, refusal_judge),
    }
    conditions += [
        _agreement(n, limit, who, config.kappa_at)
        for n, (limit, who) in judges.items()
        if limit is not None
    ]
    if config.require_all_benchmarks:
        conditions.append(_all_benchmarks(rows, failed_benchmarks))
    if config.min_scored_share is not None:
        conditions.append(_scored(config.min_scored_share, scored_shares))
    passed = all(condition.passed for condition in conditions)
    return Gate(label=config.label, passed=passed, conditions=tuple(conditions))


def passed_in_doubt(gate: Gate, judges: Mapping[str, JudgeQuality]) -> list[str]:
    """A warning for every kind of verdict that a passed gate rests on without reason to trust it.

    `judges`: of safety and of refusal.
    """
    found: list[str] = []
    for kind, names in RESTS.items():
        asked = [condition.name for condition in gate.conditions if condition.name in names]
        trusted = judges[kind].is_trusted
        if gate.passed and asked and not trusted:
            doubt = "that nobody compared with people's" if trusted is None else "not to be trusted"
            found.append(
                f"The gate passed with {' and '.join(asked)} met on verdicts of {kind} {doubt}."
            )
    return found


def _aligned(rows: Mapping[str, Row], key: str) -> float | None:
    figure = rows[key].aligned
    return figure.value if figure else None


def _helpful_drop(config: GateConfig, row: Row) -> Condition:
    """The measured fall or the worst one inside the interval; the text names both."""
    assert config.max_helpful_drop is not None
    delta = row.delta
    drop = None if delta is None else -delta.value
    what = ""
    if delta is not None and delta.low is not None and delta.high is not None:
        what = f" (95 % interval {-delta.high:.4g} to {-delta.low:.4g})"
    if config.helpful_drop_at == "interval":
        measured = drop
        drop = None if delta is None or delta.low is None else -delta.low
        what = "" if measured is None else f" at worst (measured {measured:.4g})"
    return _at_most("max_helpful_drop", config.max_helpful_drop, drop, what)


def _agreement(name: str, limit: float, judge: JudgeQuality, at: str) -> Condition:
    """Kappa as measured or the least inside the interval; the text names both."""
    kappa, ends = judge.kappa, judge.kappa_interval
    if at == "interval":
        what = "" if kappa is None else f" at worst (measured {kappa:.4g})"
        return _at_least(name, limit, ends[0] if ends else None, what)
    what = f" (95 % interval {ends[0]:.4g} to {ends[1]:.4g})" if ends else ""
    return _at_least(name, limit, kappa, what)


def _at_least(name: str, limit: float, value: float | None, what: str = "") -> Condition:
    return _condition(name, limit, value, lambda v: v >= limit - TOLERANCE, "at least", what)


def _at_most(name: str, limit: float, value: float | None, what: str = "") -> Condition:
    return _condition(name, limit, value, lambda v: v <= limit + TOLERANCE, "at most", what)


def _condition(
    name: str,
    limit: float,
    value: float | None,
    holds: Callable[[float], bool],
    asked: str,
    what: str,
) -> Condition:
    if value is None:
        return Condition(
            name=name, limit=limit, value=None, passed=False, explanation=f"{name}: not measured"
        )
    passed = holds(value)
    verdict = "met" if passed else "missed"
    explanation = (
        f"{name}: {value:.4g}{what}, {asked} {limit:g} is asked: {verdict} by "
        f"{abs(value - limit):.4g}"
    )
    return Condition(name=name, limit=limit, value=value, passed=passed, explanation=explanation)


def _all_benchmarks(rows: Mapping[str, Row], failed: Sequence[str]) -> Condition:
    """Of base and aligned model: what another policy fails at does not hold this one back."""
    name = "require_all_benchmarks"
    scored = [row for key, row in rows.items() if key.startswith("benchmark:") and row.aligned]
    if failed:
        explanation = f"{name}: without a score: {'; '.join(failed)}"
    elif not scored:
        explanation = f"{name}: not measured"
    else:
        explanation = f"{name}: all {len(scored)} have a score for base and aligned model"
    return Condition(
        name=name,
        limit=True,
        value=float(len(failed)) if failed or scored else None,
        passed=bool(scored) and not failed,
        explanation=explanation,
    )


def _scored(limit: float, shares: Mapping[str, float]) -> Condition:
    if not shares:
        return _at_least("min_scored_share", limit, None)
    worst = min(shares, key=lambda kind: shares[kind])
    return _at_least("min_scored_share", limit, shares[worst], f" (lowest: {worst})")
