"""Scaling curves: one small figure a category, its measures against the number of pairs.

Study -> inline SVGs.
"""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from components.write_report.charts import (
    WIDTH,
    Axis,
    Point,
    axis_over,
    bar,
    diamond,
    dot,
    horizontal_axis,
    line,
    path,
    svg,
    text,
    vertical_axis,
)
from components.write_report.formats import interval, number, percent, short
from components.write_report.report import Curve, Study, StudyArm

LINES = {
    "safety": "safe on harm",
    "over_refusal": "over-refusal",
    "benchmark_average": "helpful average",
    "win_rate": "win rate",
}
"""What a curve shows, all shares of 100 %, and its name in the legend."""
LEFT, RIGHT, TOP, BOTTOM = 46, WIDTH - 14, 52, 262
DODGE = 4
"""Units between the marks of two lines at one size, so that whiskers do not hide each other."""


def scaling_figures(study: Study) -> list[Markup]:
    """One figure for every curve."""
    arms = {arm.name: arm for arm in study.arms}
    keys = [key for key in LINES if any(key in arm.figures for arm in study.arms[1:])]
    return [_curve(curve, arms, keys) for curve in study.curves]


def _curve(curve: Curve, arms: Mapping[str, StudyArm], keys: Sequence[str]) -> Markup:
    x_axis = axis_over((point.num_pairs for point in curve.points), LEFT, RIGHT, pad=0.08)
    y_axis = Axis(0, 1, BOTTOM, TOP)
    ticks = [short(tick) if tick >= 0 and tick == int(tick) else "" for tick in x_axis.ticks()]
    parts = [horizontal_axis(x_axis, BOTTOM, TOP, ticks)]
    parts.append(vertical_axis(y_axis, LEFT, RIGHT, [percent(t, 0) for t in y_axis.ticks()]))
    described: list[str] = []
    for place, key in enumerate(keys):
        shift = DODGE * (place - (len(keys) - 1) / 2)
        parts.append(_legend(key, place))
        points = [
            (x_axis.at(point.num_pairs) + shift, y_axis.at(figure.value), point.num_pairs, figure)
            for point in curve.points
            if (figure := arms[point.arm].figures.get(key)) is not None
        ]
        parts.append(path([(x, y) for x, y, _, _ in points], f"curve-line {key}"))
        for x, y, num_pairs, figure in points:
            if figure.low is not None and figure.high is not None:
                ends = [(x, y_axis.at(min(max(e, 0), 1))) for e in (figure.low, figure.high)]
                parts.append(line(ends[0], ends[1], f"whisker {key}"))
            between = interval(figure.low, figure.high, "share")
            tip = f"{LINES[key]} with {num_pairs} pairs: {percent(figure.value)} ({between})"
            parts.append(_mark(key, (x, y), tip))
        values = [f"{percent(figure.value)} at {n}" for _, _, n, figure in points]
        described.append(f"{LINES[key]}: {', '.join(values)}")
    name = f"{curve.category} pairs trained on"
    parts.append(text((LEFT + RIGHT) / 2, BOTTOM + 34, name, anchor="middle", kind="name"))
    title = f"Figures against the number of {curve.category} pairs"
    return svg(f"scaling-{curve.category}", BOTTOM + 42, title, "; ".join(described), parts)


def _legend(key: str, place: int) -> Markup:
    x, y = LEFT + 190 * (place % 2), 14 + 18 * (place // 2)
    return Markup("").join(
        [_mark(key, (x + 6, y - 4), ""), text(x + 17, y, LINES[key], kind="key")]
    )


def _mark(key: str, at: Point, tip: str) -> Markup:
    """Told apart by shape as well as by colour."""
    x, y = at
    if key == "safety":
        return diamond(x, y, f"mark {key}", radius=6, title=tip)
    if key == "over_refusal":
        return dot(x, y, f"mark {key}", radius=4.5, title=tip)
    if key == "benchmark_average":
        return bar((x - 4, y - 4), (8, 8), f"mark {key}", title=tip)
    return dot(x, y, f"mark open {key}", radius=4.5, title=tip)


def pairs_in_words(arm: StudyArm) -> str:
    """What an arm was trained on: 15 pairs (EHD 5, IHD 5, MHD 5), 3 steps."""
    if not arm.pairs:
        return "not trained"
    parts = ", ".join(f"{category} {number(n)}" for category, n in arm.pairs.items())
    steps = "" if arm.num_steps is None else f", {number(arm.num_steps)} steps"
    return f"{number(sum(arm.pairs.values()))} pairs ({parts}){steps}"
