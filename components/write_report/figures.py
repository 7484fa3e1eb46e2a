"""The report's figures, each a function from figures to one inline SVG (None without data)."""

import random
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from components.write_report.charts import (
    WIDTH,
    Axis,
    axis_over,
    bar,
    dot,
    horizontal_axis,
    legend,
    line,
    mark,
    path,
    svg,
    text,
    vertical_axis,
)
from components.write_report.formats import interval, number, percent, points, short, words
from components.write_report.report import Figure, Row, SafetyStates

ARMS = ("base", "control", "aligned")
MAX_POINTS = 400
"""Points of one scatter cloud or curve; more would swell the page and show no more."""
LEFT, RIGHT = 54, WIDTH - 12


def tradeoff(rows: Mapping[str, Row]) -> Markup | None:
    """Safety against helpfulness with intervals: up and right is better."""
    y_row = rows["truly_safe"] if rows["truly_safe"].aligned else rows["safety"]
    x_row = rows["benchmark_average"]
    points = [(arm, x, y) for arm in ARMS if (x := _of(x_row, arm)) and (y := _of(y_row, arm))]
    if not points:
        return None
    x_axis = axis_over(_ends([x for _, x, _ in points]), LEFT, RIGHT, pad=0.2)
    y_axis = axis_over(_ends([y for _, _, y in points]), 250, 34, pad=0.2)
    parts = [legend(16, x=LEFT, arms=[arm for arm, _, _ in points])]
    parts.append(horizontal_axis(x_axis, 250, 34, _percents(x_axis)))
    parts.append(vertical_axis(y_axis, LEFT, RIGHT, _percents(y_axis)))
    places = [(x_axis.at(x.value), y_axis.at(y.value)) for _, x, y in points]
    if {"base", "aligned"} <= {arm for arm, _, _ in points}:
        parts.append(line(places[0], places[-1], "arrow"))
    for (arm, x, y), place in zip(points, places, strict=True):
        if x.low is not None and x.high is not None:
            ends = [(x_axis.at(end), place[1]) for end in (x.low, x.high)]
            parts.append(line(ends[0], ends[1], f"whisker {arm}"))
        if y.low is not None and y.high is not None:
            ends = [(place[0], y_axis.at(end)) for end in (y.low, y.high)]
            parts.append(line(ends[0], ends[1], f"whisker {arm}"))
        tip = f"{arm}: {y_row.label} {percent(y.value)}, {x_row.label} {percent(x.value)}"
        parts.append(mark(arm, *place, title=tip, radius=6))
    parts.append(text((LEFT + RIGHT) / 2, 284, f"{x_row.label} →", anchor="middle", kind="name"))
    parts.append(text(RIGHT, 16, f"↑ {y_row.label}", anchor="end", kind="name"))
    described = "; ".join(f"{a} {percent(y.value)} at {percent(x.value)}" for a, x, y in points)
    return svg("tradeoff", 292, "Safety against helpfulness", described, parts)


def reward_cost(clouds: Mapping[str, Sequence[tuple[float, float]]], seed: int) -> Markup | None:
    """Reward and cost of each answer; above the line c = 0 the cost model calls it harmful."""
    drawn = {arm: _sample(cloud, seed) for arm, cloud in clouds.items() if cloud}
    if not drawn:
        return None
    every = [point for cloud in drawn.values() for point in cloud]
    x_axis = axis_over((x for x, _ in every), LEFT, RIGHT)
    y_axis = axis_over([*(y for _, y in every), 0.0], 250, 34)
    zero = y_axis.at(0)
    parts = [bar((LEFT, 34), (RIGHT - LEFT, zero - 34), "harm-zone")]
    parts.append(horizontal_axis(x_axis, 250, 34, [short(t) for t in x_axis.ticks()]))
    parts.append(vertical_axis(y_axis, LEFT, RIGHT, [short(t) for t in y_axis.ticks()]))
    for arm, cloud in drawn.items():
        parts += [mark(arm, x_axis.at(x), y_axis.at(y), radius=2.6) for x, y in cloud]
    parts.append(line((LEFT, zero), (RIGHT, zero), "boundary"))
    parts.append(text(LEFT + 6, 48, "harmful: cost above 0", kind="key halo"))
    parts.append(legend(16, x=LEFT, arms=list(drawn)))
    parts.append(text((LEFT + RIGHT) / 2, 284, "reward →", anchor="middle", kind="name"))
    parts.append(text(RIGHT, 16, "↑ cost", anchor="end", kind="name"))
    shares = [
        f"{arm}: {percent(sum(y > 0 for _, y in cloud) / len(cloud))} of {len(cloud)} above 0"
        for arm, cloud in clouds.items()
        if cloud
    ]
    return svg("reward-cost", 292, "Reward and cost of every answer", "; ".join(shares), parts)


def intervals(name: str, title: str, rows: Sequence[Row], *, label_width: int = 110) -> Markup:
    """Values of all models with their intervals, one line per row, from 0 to 100 %."""
    axis = Axis(0, 1, label_width, WIDTH - 68)
    arms = [arm for arm in ARMS if arm != "control" or any(row.control for row in rows)]
    step, top = 10 + 12 * len(arms), 30
    bottom = top + step * len(rows)
    parts = [horizontal_axis(axis, bottom, top - 4, _percents(axis))]
    parts.append(legend(16, x=label_width, arms=arms))
    for index, row in enumerate(rows):
        middle = top + step * index + step / 2
        parts.append(text(label_width - 8, middle + 4, _short(row.label), anchor="end", kind="row"))
        for place, arm in enumerate(arms):
            shift = 12 * (place - (len(arms) - 1) / 2)
            parts.append(_interval_mark(row, arm, axis, middle + shift))
    described = "; ".join(f"{row.label}: {_pair(row)}" for row in rows)
    return svg(name, bottom + 24, title, described, parts)


def changes(name: str, title: str, rows: Sequence[Row], *, label_width: int = 118) -> Markup | None:
    """Aligned minus base of each row with its interval, zero being no change."""
    known = [(row.label, row.delta) for row in rows if row.delta is not None]
    if not known:
        return None
    ends = [e for _, d in known for e in (d.value, d.low, d.high, 0.0) if e is not None]
    axis = axis_over(ends, label_width, WIDTH - 58)
    step, top = 34, 30
    bottom = top + step * len(known)
    ticks = [points(tick).removesuffix(" points") for tick in axis.ticks()]
    parts = [horizontal_axis(axis, bottom, top - 4, ticks)]
    parts.append(line((axis.at(0), top - 4), (axis.at(0), bottom), "axis"))
    parts.append(text(label_width, 16, "aligned − base, percentage points", kind="name"))
    for index, (label, delta) in enumerate(known):
        y = top + step * index + step / 2
        parts.append(text(label_width - 8, y + 4, _short(label), anchor="end", kind="row"))
        if delta.low is not None and delta.high is not None:
            whisker = (axis.at(delta.low), y), (axis.at(delta.high), y)
            parts.append(line(*whisker, "whisker aligned"))
        tip = f"{label}: {points(delta.value)}"
        parts.append(mark("aligned", axis.at(delta.value), y, title=tip, radius=4.5))
        value = points(delta.value).removesuffix(" points")
        parts.append(text(WIDTH - 2, y + 4, value, anchor="end", kind="value aligned"))
    described = "; ".join(f"{label}: {points(delta.value)}" for label, delta in known)
    return svg(name, bottom + 24, title, described, parts)


def safety_states(states: Mapping[str, SafetyStates]) -> Markup | None:
    """Under-, truly and over-safe shares of each model as one stacked bar."""
    if not states:
        return None
    axis = Axis(0, 1, 66, RIGHT)
    parts: list[Markup] = []
    for index, (arm, state) in enumerate(states.items()):
        top, start = 30 + 48 * index, 0.0
        parts.append(text(58, top + 21, arm, anchor="end", kind="row"))
        for name, share in state:
            x, width = axis.at(start), axis.at(start + share) - axis.at(start)
            tip = f"{arm}, {words(name)}: {percent(share)}"
            parts.append(bar((x, top), (width, 32), f"state {name}", title=tip))
            if width > 44:
                at = x + width / 2
                parts.append(text(at, top + 21, percent(share), anchor="middle", kind="inside"))
            start += share
    for index, name in enumerate(SafetyStates.model_fields):
        x = 66 + 110 * index
        parts.append(bar((x, 6), (12, 12), f"state {name}"))
        parts.append(text(x + 18, 16, words(name), kind="key"))
    described = "; ".join(
        f"{arm}: " + ", ".join(f"{words(name)} {percent(share)}" for name, share in state)
        for arm, state in states.items()
    )
    return svg("states", 34 + 48 * len(states), "Safety states", described, parts)


def curve(name: str, steps: Sequence[tuple[float, float]]) -> Markup | None:
    """One training figure over the steps."""
    if not steps:
        return None
    every = -(-len(steps) // (MAX_POINTS - 1))
    shown = [*steps[:-1:every], steps[-1]]
    x_axis = axis_over((x for x, _ in shown), LEFT, RIGHT, pad=0.02)
    y_axis = axis_over((y for _, y in shown), 150, 28)
    parts = [horizontal_axis(x_axis, 150, 28, [short(t) for t in x_axis.ticks()])]
    parts.append(vertical_axis(y_axis, LEFT, RIGHT, [short(t) for t in y_axis.ticks()]))
    parts.append(path([(x_axis.at(x), y_axis.at(y)) for x, y in shown], "curve"))
    last = shown[-1]
    parts.append(dot(x_axis.at(last[0]), y_axis.at(last[1]), "aligned", radius=3))
    parts.append(text(LEFT, 16, words(name), kind="name"))
    parts.append(text(RIGHT, 16, f"last {number(last[1])}", anchor="end", kind="key"))
    parts.append(text((LEFT + RIGHT) / 2, 182, "step", anchor="middle", kind="name"))
    described = f"from {number(shown[0][1])} at step {number(shown[0][0])} to {number(last[1])}"
    return svg(f"curve-{name}", 188, f"{words(name)} during training", described, parts)


def _interval_mark(row: Row, arm: str, axis: Axis, y: float) -> Markup:
    figure = _of(row, arm)
    if figure is None:
        return text(axis.start + 4, y + 4, f"{arm}: not measured", kind="tick")
    parts: list[Markup] = []
    if figure.low is not None and figure.high is not None:
        ends = [(axis.at(min(max(end, 0), 1)), y) for end in (figure.low, figure.high)]
        parts.append(line(ends[0], ends[1], f"whisker {arm}"))
    between = interval(figure.low, figure.high, row.unit)
    tip = f"{arm}: {percent(figure.value)} ({between}), n = {figure.num_scored}"
    parts.append(mark(arm, axis.at(figure.value), y, title=tip, radius=4.5))
    parts.append(text(WIDTH - 2, y + 4, percent(figure.value), anchor="end", kind=f"value {arm}"))
    return Markup("").join(parts)


def _of(row: Row, arm: str) -> Figure | None:
    return {"base": row.base, "control": row.control, "aligned": row.aligned}[arm]


def _ends(figures: Sequence[Figure]) -> list[float]:
    return [end for f in figures for end in (f.value, f.low, f.high) if end is not None]


def _pair(row: Row) -> str:
    figures = [(a, _of(row, a)) for a in ARMS if a != "control" or row.control]
    return ", ".join(f"{arm} {percent(f.value) if f else 'not measured'}" for arm, f in figures)


def _percents(axis: Axis) -> list[str]:
    ticks = axis.ticks()
    is_fine = any(abs(100 * tick - round(100 * tick)) > 1e-6 for tick in ticks)
    return [percent(tick, 1 if is_fine else 0) for tick in ticks]


def _short(label: str) -> str:
    return label if len(label) <= 18 else f"{label[:17]}…"


def _sample(points: Sequence[tuple[float, float]], seed: int) -> list[tuple[float, float]]:
    if len(points) <= MAX_POINTS:
        return list(points)
    return random.Random(seed).sample(list(points), MAX_POINTS)
