"""The few SVG primitives the report's figures are drawn with: axes, marks, a frame.

Colours come from the page's stylesheet through classes, so that dark mode and print need no
second drawing. Text is escaped here; nothing else may write labels into an SVG.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

Point = tuple[float, float]
WIDTH = 440
"""Units of the view box: one column of the page, so that 12-unit text is readable on a phone."""


@dataclass(frozen=True)
class Axis:
    """A linear map from values to drawing units."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Drawing coordinate of a value."""
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, number: int = 5) -> list[float]:
        """About `number` round values inside the axis."""
        raw = (self.high - self.low) / max(number, 1)
        power = 10 ** math.floor(math.log10(raw))
        step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw)
        first = math.ceil(self.low / step - 1e-9)
        count = math.floor(self.high / step + 1e-9) - first + 1
        return [round((first + i) * step, 10) for i in range(count)]


def axis_over(values: Iterable[float], start: float, end: float, *, pad: float = 0.06) -> Axis:
    """Axis that covers the values with a margin; one unit wide around a single value."""
    known = list(values)
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    if high - low < 1e-12:
        low, high = low - 0.5, high + 0.5
    margin = pad * (high - low)
    return Axis(low - margin, high + margin, start, end)


def svg(name: str, height: float, title: str, description: str, parts: Iterable[Markup]) -> Markup:
    """A figure with an accessible name and description; `name` is unique on the page."""
    return Markup(
        '<svg class="chart" viewBox="0 0 {w} {h}" role="img" aria-labelledby="{n}-t {n}-d">'
        '<title id="{n}-t">{t}</title><desc id="{n}-d">{d}</desc>{body}</svg>'
    ).format(w=WIDTH, h=_n(height), n=name, t=title, d=description, body=Markup("").join(parts))


def text(x: float, y: float, content: str, *, anchor: str = "start", kind: str = "tick") -> Markup:
    """A label; anchor is start, middle or end."""
    return Markup('<text x="{}" y="{}" text-anchor="{}" class="{}">{}</text>').format(
        _n(x), _n(y), anchor, kind, content
    )


def line(start: Point, end: Point, kind: str) -> Markup:
    """A straight line."""
    return Markup('<line x1="{}" y1="{}" x2="{}" y2="{}" class="{}"/>').format(
        _n(start[0]), _n(start[1]), _n(end[0]), _n(end[1]), kind
    )


def path(points: Sequence[Point], kind: str) -> Markup:
    """An open polyline."""
    moves = " ".join(f"{_n(x)},{_n(y)}" for x, y in points)
    return Markup('<polyline points="{}" class="{}"/>').format(moves, kind)


def dot(x: float, y: float, kind: str, *, radius: float = 5, title: str = "") -> Markup:
    """A circle that names itself when pointed at."""
    tip = Markup("<title>{}</title>").format(title) if title else Markup("")
    return Markup('<circle cx="{}" cy="{}" r="{}" class="{}">{}</circle>').format(
        _n(x), _n(y), _n(radius), kind, tip
    )


def diamond(x: float, y: float, kind: str, *, radius: float = 6, title: str = "") -> Markup:
    """A diamond: the aligned model's mark, told from the base's without colour."""
    corners = [(x, y - radius), (x + radius, y), (x, y + radius), (x - radius, y)]
    moves = " ".join(f"{_n(a)},{_n(b)}" for a, b in corners)
    tip = Markup("<title>{}</title>").format(title) if title else Markup("")
    return Markup('<polygon points="{}" class="{}">{}</polygon>').format(moves, kind, tip)


def bar(start: Point, size: Point, kind: str, *, title: str = "") -> Markup:
    """A rectangle from its upper left corner."""
    tip = Markup("<title>{}</title>").format(title) if title else Markup("")
    return Markup('<rect x="{}" y="{}" width="{}" height="{}" class="{}">{}</rect>').format(
        _n(start[0]), _n(start[1]), _n(max(size[0], 0)), _n(max(size[1], 0)), kind, tip
    )


def mark(arm: str, x: float, y: float, *, title: str = "", radius: float = 5) -> Markup:
    """A model's mark: a circle for the base, a square for the control, a diamond for the aligned.

    Told apart by shape as well as by colour.
    """
    if arm == "aligned":
        return diamond(x, y, "aligned", radius=radius * 1.2, title=title)
    if arm == "control":
        side = 1.7 * radius
        return bar((x - side / 2, y - side / 2), (side, side), "control", title=title)
    return dot(x, y, "base", radius=radius, title=title)


LEGEND_WIDTHS = {"base": 54, "control": 70, "aligned": 66}


def legend(y: float, *, x: float = 0, arms: Sequence[str] = ("base", "aligned")) -> Markup:
    """The models' marks with their names."""
    parts: list[Markup] = []
    for arm in arms:
        parts += [mark(arm, x + 6, y - 4), text(x + 17, y, arm, kind="key")]
        x += LEGEND_WIDTHS[arm]
    return Markup("").join(parts)


def horizontal_axis(axis: Axis, y: float, top: float, labels: Sequence[str]) -> Markup:
    """Ticks below and grid lines above; one label per tick."""
    parts = [line((axis.start, y), (axis.end, y), "axis")]
    for value, label in zip(axis.ticks(), labels, strict=True):
        x = axis.at(value)
        parts += [line((x, top), (x, y), "grid"), text(x, y + 15, label, anchor="middle")]
    return Markup("").join(parts)


def vertical_axis(axis: Axis, x: float, right: float, labels: Sequence[str]) -> Markup:
    """Ticks on the left and grid lines to the right; one label per tick."""
    parts = [line((x, axis.start), (x, axis.end), "axis")]
    for value, label in zip(axis.ticks(), labels, strict=True):
        y = axis.at(value)
        parts += [line((x, y), (right, y), "grid"), text(x - 6, y + 4, label, anchor="end")]
    return Markup("").join(parts)


def _n(value: float) -> str:
    return str(escape(f"{value:.1f}".removesuffix(".0")))
