"""The report as one self-contained HTML page: no script, no outside request, all text escaped.

report, figures and excerpts -> HTML text.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from components.write_report import formats
from components.write_report.examples import Example
from components.write_report.masks import Preview
from components.write_report.report import Report, Row
from components.write_report.study_figures import pairs_in_words
from components.write_report.tables import Table

FOLDER = Path(__file__).parent
MAX_TEXT_BYTES = 10_000
"""Of any one text on the page: above the largest example, so that it meets names and configs alone.
The whole stands in report.json."""


@dataclass(frozen=True)
class Excerpts:
    """What the page shows beyond the report's figures."""

    figures: dict[str, Markup | None]
    curves: list[Markup]
    scaling: list[Markup]
    data_tables: list[Table]
    previews: list[Preview]
    examples: list[Example]


def render_page(report: Report, excerpts: Excerpts) -> str:
    """The page. Everything but our own stylesheet and SVG is escaped by the template engine."""
    environment = _environment()
    filters = ("percent", "figure", "change", "number", "short", "words", "interval", "pvalue")
    environment.filters.update({name: getattr(formats, name) for name in filters})
    environment.filters["pretty"] = _pretty
    environment.filters["pairs_in_words"] = pairs_in_words
    has_control = any(row.control is not None for row in report.rows)
    template = environment.get_template("page.html.jinja")
    return template.render(
        report=report,
        excerpts=excerpts,
        style=_style(),
        has_control=has_control,
        columns=("Base", *(("Control",) if has_control else ()), "Aligned", "Change"),
        main_rows=[row for row in report.rows if not is_benchmark(row)],
        benchmark_rows=[row for row in report.rows if is_benchmark(row)],
        cost_note=next(row.note for row in report.rows if row.key == "mean_cost"),
        scorer_figures=list(dict.fromkeys(n for m in report.scorers.values() for n in m)),
    )


def render_mask_page(previews: Sequence[Preview], settings: str) -> str:
    """Mask previews as a page of their own; `settings` says how the masks were made."""
    template = _environment().get_template("mask_page.html.jinja")
    return template.render(previews=previews, settings=settings, style=_style())


def is_benchmark(row: Row) -> bool:
    """Whether a row belongs to the benchmark table; the average stands in the main one too."""
    return row.key.startswith("benchmark:")


def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_bounded,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _bounded(value: Any) -> Any:
    is_text = isinstance(value, str) and not isinstance(value, Markup)
    return formats.shortened(value, MAX_TEXT_BYTES) if is_text else value


def _style() -> Markup:
    return Markup((FOLDER / "page.css").read_text(encoding="utf-8"))


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
