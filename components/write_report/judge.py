"""Whether the judge can be believed: its agreement with gold labels, in figures and in words.

metrics.json and agreement.json of the labelled prompts -> JudgeQuality.
"""

from collections.abc import Mapping
from typing import Any

from components.write_report.formats import number
from components.write_report.inputs import Evidence
from components.write_report.report import JudgeQuality

MIN_TRUSTED_KAPPA = 0.4
"""Below it agreement is at best "fair" (Landis and Koch 1977)."""
FIGURES = ("accuracy", "macro_f1", "kappa")


def judge_quality(
    metrics: Mapping[str, float], table: Mapping[str, Any], name: str = "The judge"
) -> JudgeQuality:
    """Agreement as a stage measured it; without gold labels nothing but the reason."""
    kappa, accuracy = metrics.get("kappa"), metrics.get("accuracy")
    if kappa is None or accuracy is None:
        return JudgeQuality(
            explanation="No gold labels were given, so nobody knows how often "
            f"{name[0].lower() + name[1:]} is right."
        )
    majority = table.get("majority_accuracy", metrics.get("majority_accuracy"))
    num_gold = metrics.get("num_gold_scored", metrics.get("num_gold"))
    figures: dict[str, Any] = {name: metrics.get(name) for name in FIGURES}
    intervals: dict[str, Any] = {f"{name}_interval": _interval(metrics, name) for name in FIGURES}
    is_trusted = kappa >= MIN_TRUSTED_KAPPA and (majority is None or accuracy > majority)
    return JudgeQuality(
        num_gold=None if num_gold is None else int(num_gold),
        **figures,
        **intervals,
        majority_accuracy=majority,
        num_unscored=int(metrics.get("num_unscored", 0)),
        auc=metrics.get("auc"),
        labels=tuple(table.get("labels") or ()) if table.get("matrix") else (),
        matrix=tuple(tuple(row) for row in table.get("matrix") or ()),
        is_trusted=is_trusted,
        explanation=_explain(name, kappa, accuracy, majority, is_trusted),
    )


def human_quality(labels: Mapping[str, Any], who: str, name: str) -> JudgeQuality:
    """Agreement of `who` ("judge" or "cost") with human labels of answers, as was measured."""
    measured = labels.get(who) or {}
    scalars = {key: value for key, value in measured.items() if isinstance(value, int | float)}
    return judge_quality(scalars, measured, name)


def is_same_judge(evidence: Evidence) -> bool:
    """Whether the model that sorted the prompts also judged the answers, as far as is recorded."""
    measured = evidence.manifests["labelled_prompts"].inputs.get("judge_model")
    used = {
        evidence.manifests[f"{arm}_verdicts"].inputs.get("judge_model") for arm in evidence.arms
    }
    return used <= {measured, None} or measured is None


def _explain(
    name: str, kappa: float, accuracy: float, majority: float | None, is_trusted: bool
) -> str:
    against = (
        f"{100 * accuracy:.1f} % of gold labels matched"
        if majority is None
        else f"{100 * accuracy:.1f} % of gold labels matched, where always giving the commonest "
        f"one would match {100 * majority:.1f} %"
    )
    figures = f"{against}; Cohen's kappa {number(kappa)}"
    if is_trusted:
        return f"{name} agrees with people well enough to be read: {figures}."
    return f"{name}'s figures cannot be trusted: {figures}."


def _interval(metrics: Mapping[str, float], name: str) -> tuple[float, float] | None:
    low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
    return None if low is None or high is None else (low, high)
