"""What the page draws and tabulates beyond the report's own figures.

report, evidence and side files -> SVG figures and tables.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from components.write_report import figures
from components.write_report.inputs import Arm, Evidence, read_json, read_json_lines
from components.write_report.page import is_benchmark
from components.write_report.report import Report, Row
from components.write_report.tables import Table, counts_table, nested_tables
from components.write_report.tallies import of_kind
from equilibrate_core.artifacts import Manifest
from equilibrate_core.records import Pair
from equilibrate_core.tables import iter_dataset

CURVES = ("loss", "accuracy", "margin", "grad_norm", "learning_rate", "tokens_per_s")
MAX_CURVES = 4


def draw_figures(report: Report, evidence: Evidence, seed: int) -> dict[str, Markup | None]:
    """Every figure by name; None where there is nothing to draw."""
    rows = {row.key: row for row in report.rows}
    scored = [row for row in report.rows if is_benchmark(row) and (row.base or row.aligned)]
    average = [row for row in report.rows if row.key == "benchmark_average"]
    clouds = {name: _reward_cost(arm) for name, arm in evidence.arms.items()}
    return {
        "tradeoff": figures.tradeoff(rows),
        "reward_cost": figures.reward_cost(clouds, seed),
        "states": figures.safety_states(report.safety_states),
        "categories": _intervals("categories", "Safe by category", report.by_category, 80),
        "benchmarks": _intervals("accuracies", "Benchmarks", scored, 118),
        "changes": figures.changes("changes", "Change by benchmark", [*scored, *average]),
    }


def draw_curves(log: Path) -> list[Markup]:
    """Loss and accuracy first, then what else was logged, up to four figures."""
    records = read_json_lines(log)
    curves: list[Markup] = []
    for name in CURVES:
        steps = [(float(r["step"]), float(r[name])) for r in records if r.get(name) is not None]
        drawn = figures.curve(name, steps)
        if drawn is not None:
            curves.append(drawn)
    return curves[:MAX_CURVES]


def read_data_tables(train_pairs: Path, manifests: Mapping[str, Manifest]) -> list[Table]:
    """Rows along the way, then the data card of the training pairs, whatever it holds."""
    card = read_json(train_pairs / "data_card.json") or _count_pairs(train_pairs)
    counts = counts_table(manifests)
    return [*([counts] if counts else []), *nested_tables(card)]


def _count_pairs(train_pairs: Path) -> dict[str, object]:
    table: dict[str, dict[str, int]] = {}
    number = 0
    for pair in iter_dataset(train_pairs, Pair):
        number += 1
        row = table.setdefault(pair.category or "unlabelled", {})
        row[pair.source] = row.get(pair.source, 0) + 1
    return {"pairs": number, "category_by_source": table}


def _intervals(name: str, title: str, rows: Sequence[Row], width: int) -> Markup | None:
    return figures.intervals(name, title, rows, label_width=width) if rows else None


def _reward_cost(arm: Arm) -> list[tuple[float, float]]:
    rewards, costs = of_kind(arm, "reward"), of_kind(arm, "cost")
    points: list[tuple[float, float]] = []
    for answer in arm.answers:
        reward, cost = rewards.get(answer.id), costs.get(answer.id)
        if reward and cost and reward.score is not None and cost.score is not None:
            points.append((reward.score, cost.score))
    return points
