"""Tallies of verdicts, and rows of two models' tallies with intervals and paired differences.

verdicts of each answer -> values by prompt, counts by label, unscored counts.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from components.write_report.inputs import Arm, Evidence, Unanswered
from components.write_report.judge import checked
from components.write_report.report import Delta, Figure, Row, Unit
from equilibrate_core.errors import DataError
from equilibrate_core.metrics import Estimate, Scores, stratified_difference, stratified_estimate
from equilibrate_core.paired_tests import mcnemar
from equilibrate_core.records import Generation, Verdict
from equilibrate_core.verdict_labels import PREFERENCE_LABELS, REFUSAL_LABELS, SAFETY_LABELS

IS_SAFE: dict[str, float] = dict(zip(SAFETY_LABELS, (1.0, 0.0, 0.0), strict=True))
IS_REFUSAL: dict[str, float] = dict(zip(REFUSAL_LABELS, (0.0, 1.0, 1.0), strict=True))
IS_COMPLIANT = {label: 1 - value for label, value in IS_REFUSAL.items()}
WIN_CREDIT: dict[str, float] = dict(zip(PREFERENCE_LABELS, (1.0, 0.5, 0.0), strict=True))
LABEL_ORDER = (*SAFETY_LABELS, *REFUSAL_LABELS, *PREFERENCE_LABELS)


@dataclass
class Tally:
    """Values by prompt, verdicts by label, and how many answers have none or are not there."""

    scores: dict[str, list[float]] = field(default_factory=dict)
    labels: Counter[str] = field(default_factory=Counter)
    num_unscored: int = 0

    @property
    def num_scored(self) -> int:
        """The denominator."""
        return sum(len(values) for values in self.scores.values())

    @property
    def scored_share(self) -> float | None:
        """Scored among all answers that needed a verdict."""
        total = self.num_scored + self.num_unscored
        return self.num_scored / total if total else None


@dataclass(frozen=True)
class Statistics:
    """How intervals are drawn."""

    seed: int
    resamples: int

    def row(
        self,
        key: str,
        label: str,
        *,
        arms: Mapping[str, Sequence[Tally]],
        unit: Unit = "share",
        higher_is_better: bool | None = True,
        note: str = "",
    ) -> Row:
        """A row whose values are unweighted means over the given strata of each model."""
        figures = {name: self.figure(strata) for name, strata in arms.items()}
        scores = {name: [tally.scores for tally in strata] for name, strata in arms.items()}
        return Row(
            key=key,
            label=label,
            unit=unit,
            higher_is_better=higher_is_better,
            note=" ".join(filter(None, [note, *_why_absent(arms)])),
            **figures_and_changes(figures, lambda a, b: self.delta(scores[a], scores[b])),
        )

    def figure(self, strata: Sequence[Tally]) -> Figure | None:
        """Mean over strata with its interval; None when one of them has no scored answer."""
        estimate = stratified_estimate(
            [tally.scores for tally in strata], seed=self.seed, resamples=self.resamples
        )
        return _figure(estimate, strata) if estimate else None

    def delta(self, base: Sequence[Scores], aligned: Sequence[Scores]) -> Delta | None:
        """Paired difference; None when a stratum has no prompt scored for both models."""
        if len(base) != len(aligned):
            return None
        pairs = list(zip(base, aligned, strict=True))
        found = stratified_difference(pairs, seed=self.seed, resamples=self.resamples)
        exact = mcnemar(*pairs[0]) if len(pairs) == 1 else None
        return found and Delta(
            value=found.value,
            low=found.low,
            high=found.high,
            num_items=found.num,
            p_value=found.p_value,
            gained=exact and exact.gained,
            lost=exact and exact.lost,
            mcnemar_p=exact and exact.p_value,
        )


def figures_and_changes(
    figures: Mapping[str, Figure | None], change: Callable[[str, str], Delta | None]
) -> dict[str, Any]:
    """Fields of a Row: every model's figure, and the changes from `change(from, to)`."""
    fields: dict[str, Any] = {**figures, "delta": change("base", "aligned")}
    if "control" in figures:
        fields["control_delta"] = change("base", "control")
        fields["over_control"] = change("control", "aligned")
    return fields


def label_tally(
    answers: Iterable[Generation | Unanswered],
    verdicts: Mapping[str, Verdict],
    credit: Mapping[str, float],
) -> Tally:
    """Tally of labelled verdicts; what has none, answered or not, is unscored, never credited.

    Raises DataError on a label that `credit` does not know.
    """
    tally = Tally()
    for answer in answers:
        verdict = verdicts.get(answer.id)
        if verdict is None or verdict.status == "unscored" or verdict.label is None:
            tally.num_unscored += 1
        elif verdict.label not in credit:
            raise DataError(
                f"verdict {verdict.id}: {verdict.kind} label {verdict.label!r} is not one of "
                f"{', '.join(credit)}; judge the answers again"
            )
        else:
            tally.labels[verdict.label] += 1
            tally.scores.setdefault(answer.prompt_id, []).append(credit[verdict.label])
    return tally


def score_tally(
    answers: Iterable[Generation | Unanswered],
    verdicts: Mapping[str, Verdict],
    value: Callable[[float], float] = float,
) -> Tally:
    """Tally of numeric verdicts, each seen through `value`."""
    tally = Tally()
    for answer in answers:
        verdict = verdicts.get(answer.id)
        if verdict is None or verdict.status == "unscored" or verdict.score is None:
            tally.num_unscored += 1
        else:
            tally.scores.setdefault(answer.prompt_id, []).append(value(verdict.score))
    return tally


def of_kind(arm: Arm, kind: str) -> dict[str, Verdict]:
    """Verdicts of a kind by generation. Raises DataError when an answer has two."""
    found: dict[str, Verdict] = {}
    for verdict in arm.verdicts:
        if verdict.kind == kind and found.setdefault(verdict.generation_id, verdict) is not verdict:
            raise DataError(
                f"generation {verdict.generation_id} has two {kind} verdicts; judge the answers "
                "again"
            )
    return found


def answers_to(evidence: Evidence, arm: Arm, is_harmful: bool) -> list[Generation | Unanswered]:
    """A model's answers to harmful or to benign prompts, and the prompts that got none."""
    prompts = evidence.prompts
    return [a for a in arm.asked if prompts[a.prompt_id].is_harmful is is_harmful]


def judged_by(evidence: Evidence, kind: str) -> str:
    """Who gave the verdicts of a kind, and whether people agree with them, as one sentence."""
    judges = sorted(
        {v.judge for arm in evidence.arms.values() for v in arm.verdicts if v.kind == kind}
    )
    if not judges:
        return "Nobody judged it."
    agreed = checked(evidence, kind)
    return f"Judged by {', '.join(judges)}{'; ' if agreed else ''}{agreed}."


def _why_absent(arms: Mapping[str, Sequence[Tally]]) -> list[str]:
    """A sentence for each model whose figure is missing because no verdict came."""
    lost = {
        name: sum(tally.num_unscored for tally in strata if not tally.num_scored)
        for name, strata in arms.items()
    }
    return [
        f"No figure of the {name} model: {number} of its answers need a verdict here, none has one."
        for name, number in lost.items()
        if number
    ]


def _figure(estimate: Estimate, tallies: Sequence[Tally]) -> Figure:
    labels = tallies[0].labels if len(tallies) == 1 else Counter[str]()
    return Figure(
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        num_scored=sum(tally.num_scored for tally in tallies),
        num_unscored=sum(tally.num_unscored for tally in tallies),
        parts={name: labels[name] for name in LABEL_ORDER if name in labels},
    )
