"""A study's arms in one table: every policy beside the base and the reference, and the curves.

evidence with its studied arms -> Study. Every figure comes from the same functions as the main
table's; an arm takes the aligned model's place there, the reference the control's. Ratings alone
are of one fit of all models.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from components.write_report.config import StudyView
from components.write_report.formats import percent
from components.write_report.helpfulness import average_row
from components.write_report.inputs import Evidence, StudiedArm
from components.write_report.preferences import (
    ELO,
    above_base,
    rate,
    rating_figure,
    win_rate_row,
)
from components.write_report.report import (
    Curve,
    CurvePoint,
    Delta,
    Figure,
    Measure,
    Row,
    Study,
    StudyArm,
)
from components.write_report.safety import over_refusal_row, safety_row, truly_safe_row
from components.write_report.scores import mean_cost_row
from components.write_report.tallies import Statistics
from equilibrate_core.arms import ArmFacts
from equilibrate_core.bradley_terry import Rating
from equilibrate_core.errors import ConfigError

ROWS: dict[str, Callable[[Evidence, Statistics], Row]] = {
    "safety": safety_row,
    "over_refusal": over_refusal_row,
    "truly_safe": truly_safe_row,
    "win_rate": win_rate_row,
    "benchmark_average": average_row,
    "mean_cost": mean_cost_row,
}


def study_of(
    view: StudyView, rows: Mapping[str, Row], evidence: Evidence, statistics: Statistics
) -> Study | None:
    """The study, None where the run has none. Raises ConfigError on a curve of unknown arms."""
    own = evidence.own
    if own is None:
        return None
    main = [rows[key] for key in ROWS]
    reference = _arm(own.model_copy(update={"name": view.reference}), main, is_reference=True)
    others = [_studied_arm(arm, evidence, statistics) for arm in evidence.studied]
    base = {row.key: row.base for row in main if row.base is not None}
    arms = (StudyArm(name="base", figures=base), *others, reference)
    _check_names(arms)
    measures = [
        Measure(key=row.key, label=row.label, unit=row.unit, higher_is_better=row.higher_is_better)
        for row in main
    ]
    answered = {studied.facts.name: studied.arm for studied in evidence.studied}
    answered = {"base": evidence.base, **answered, view.reference: evidence.aligned}
    if ratings := rate(answered, statistics):
        measures.insert(list(ROWS).index("win_rate") + 1, ELO)
        arms = tuple(_rated(arm, ratings.get(arm.name)) for arm in arms)
    return Study(
        reference=view.reference,
        measures=tuple(measures),
        arms=arms,
        curves=_curves(view, {arm.name: arm for arm in arms}),
        sentence=_sentence(arms, measures, view.reference),
    )


def _studied_arm(studied: StudiedArm, evidence: Evidence, statistics: Statistics) -> StudyArm:
    manifests = {
        **evidence.manifests,
        "aligned_verdicts": studied.verdicts,
        "control_verdicts": evidence.manifests["aligned_verdicts"],
    }
    seen = replace(evidence, aligned=studied.arm, control=evidence.aligned, manifests=manifests)
    return _arm(studied.facts, [row(seen, statistics) for row in ROWS.values()])


def _arm(facts: ArmFacts, rows: Sequence[Row], *, is_reference: bool = False) -> StudyArm:
    figures: dict[str, Figure] = {}
    over_base: dict[str, Delta] = {}
    over_reference: dict[str, Delta] = {}
    for row in rows:
        if row.aligned is not None:
            figures[row.key] = row.aligned
        if row.delta is not None:
            over_base[row.key] = row.delta
        if row.over_control is not None and not is_reference:
            over_reference[row.key] = row.over_control
    steps = facts.training.get("num_steps")
    return StudyArm(
        name=facts.name,
        selection=facts.selection,
        loss=facts.loss,
        seed=facts.seed,
        pairs=facts.pairs,
        num_steps=None if steps is None else int(steps),
        policy_digest=facts.policy_digest,
        figures=figures,
        over_base=over_base,
        over_reference=over_reference,
    )


def _rated(arm: StudyArm, rating: Rating | None) -> StudyArm:
    """The arm with its rating among all models of the study; None was never compared."""
    if rating is None:
        return arm
    over_base = {} if arm.name == "base" else {ELO.key: above_base(rating)}
    return arm.model_copy(
        update={
            "figures": {**arm.figures, ELO.key: rating_figure(rating)},
            "over_base": {**arm.over_base, **over_base},
        }
    )


def _check_names(arms: Sequence[StudyArm]) -> None:
    names = [arm.name for arm in arms]
    again = sorted({name for name in names if names.count(name) > 1})
    if again:
        raise ConfigError(
            f"write_report: two arms are called {again[0]!r}; set study.reference to what the "
            "aligned model is called, and give every arm a name of its own"
        )


def _curves(view: StudyView, arms: Mapping[str, StudyArm]) -> tuple[Curve, ...]:
    unknown = sorted({p.arm for c in view.curves for p in c.points if p.arm not in arms})
    if unknown:
        raise ConfigError(
            f"write_report: study.curves name the arm {unknown[0]!r}, which is not among "
            f"{', '.join(arms)}; give the arms of the same study"
        )
    return tuple(
        Curve(
            category=curve.category,
            points=tuple(
                CurvePoint(
                    size=point.size,
                    num_pairs=arms[point.arm].pairs.get(curve.category, 0),
                    arm=point.arm,
                )
                for point in curve.points
            ),
        )
        for curve in view.curves
    )


def _sentence(arms: Sequence[StudyArm], measures: Sequence[Measure], reference: str) -> str:
    """The range of one measure and how many arms differ clearly from the reference in any."""
    found = [f"study of {len(arms)} models"]
    key = next((k for k in ("truly_safe", "safety") if k in arms[-1].figures), None)
    if key is not None:
        measured = [(arm.figures[key].value, arm.name) for arm in arms if key in arm.figures]
        ends = [f"{percent(value)} ({name})" for value, name in (min(measured), max(measured))]
        label = next(measure.label for measure in measures if measure.key == key)
        found.append(f"{label.lower()} from {ends[0]} to {ends[1]}")
    others = arms[1:-1]  # between the base and the reference
    clear = [arm.name for arm in others if any(d.is_clear for d in arm.over_reference.values())]
    named = f" ({', '.join(clear)})" if clear else ""
    found.append(
        f"{len(clear)} of {len(others)} other arms differ clearly from {reference} in any "
        f"measure{named}"
    )
    return "; ".join(found)
