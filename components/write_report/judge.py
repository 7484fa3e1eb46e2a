"""Whether the judge can be believed: its agreement with gold labels, in figures and in words.

metrics.json and agreement.json of the labelled prompts -> JudgeQuality.
"""

from collections.abc import Mapping
from typing import Any

from components.write_report.formats import interval, number, percent
from components.write_report.inputs import Evidence
from components.write_report.report import JudgeQuality
from equilibrate_core.records import CATEGORIES

MIN_TRUSTED_KAPPA = 0.4
"""Below it agreement is at best "fair" (Landis and Koch 1977); the lower end of kappa's interval
must reach it, so that a dozen labels do not earn trust."""
FIGURES = ("accuracy", "macro_f1", "kappa")
ASKED = ("safety", "refusal", "preference")
"""Kinds of verdict that a judge gives; scorers give the others."""
CHECKED = {
    "safety": ("judge", "The judge of the answers"),
    "refusal": ("refusal", "The judge of refusal"),
    "preference": ("preference", "The judge of helpfulness"),
    "cost": ("cost", "The evaluation cost model on held-out pairs"),
    "cost_answers": ("cost_answers", "The evaluation cost model on labelled answers"),
}
"""Kinds of verdict that can be compared with people's: their key in human_agreement.json, and who
gives them. Costs are compared twice, on labels from two places."""
BASES = {"cost": " on held-out pairs", "cost_answers": " on labelled answers"}
"""Where people's labels come from, in words, for what is compared twice."""
NOT_COMPARED = "not compared with people"


def judge_quality(
    metrics: Mapping[str, float], table: Mapping[str, Any], name: str = "The judge"
) -> JudgeQuality:
    """Agreement as a stage measured it; without gold labels nothing but the reason."""
    kappa, accuracy = metrics.get("kappa"), metrics.get("accuracy")
    num_like = int(metrics.get("num_like_training_prompt", 0))
    if kappa is None or accuracy is None:
        said = _left_out(num_like) if num_like else "No gold labels were given"
        return JudgeQuality(
            num_like_training_prompt=num_like,
            explanation=f"{said}, so nobody knows how often {name[0].lower() + name[1:]} is right.",
        )
    majority = table.get("majority_accuracy", metrics.get("majority_accuracy"))
    num_gold = metrics.get("num_gold_scored", metrics.get("num_gold"))
    figures: dict[str, Any] = {name: metrics.get(name) for name in FIGURES}
    intervals: dict[str, Any] = {f"{name}_interval": _interval(metrics, name) for name in FIGURES}
    is_good = kappa >= MIN_TRUSTED_KAPPA and (majority is None or accuracy > majority)
    is_trusted = is_good and metrics.get("kappa_low", -1.0) >= MIN_TRUSTED_KAPPA
    said = kappa_in_words(kappa, intervals["kappa_interval"])
    return JudgeQuality(
        num_gold=None if num_gold is None else int(num_gold),
        **figures,
        **intervals,
        majority_accuracy=majority,
        num_unscored=int(metrics.get("num_gold_unscored", 0)),
        num_like_training_prompt=num_like,
        sources=table.get("sources") or {},
        auc=metrics.get("auc"),
        labels=tuple(table.get("labels") or ()) if table.get("matrix") else (),
        matrix=tuple(tuple(row) for row in table.get("matrix") or ()),
        is_trusted=is_trusted,
        explanation=f"{_opening(name, is_trusted, is_good)}: {_matched(accuracy, majority)}; "
        f"Cohen's kappa {said}.",
    )


def human_quality(labels: Mapping[str, Any], kind: str) -> JudgeQuality:
    """Agreement of verdicts of a CHECKED kind with people's, as was measured."""
    who, name = CHECKED[kind]
    measured = labels.get(who) or {}
    scalars = {key: value for key, value in measured.items() if isinstance(value, int | float)}
    scalars["num_gold_unscored"] = scalars.get("num_unscored", 0)
    return judge_quality(scalars, measured, name)


def is_same_judge(evidence: Evidence) -> bool:
    """Whether the judge that sorted the prompts also judged the answers, going by their names.

    A record's judge is "who / which question" (equilibrate_core.judge.judge_name).
    """
    sorted_by = {_who(prompt.judge) for prompt in evidence.prompts.values()}
    verdicts = [verdict for arm in evidence.arms.values() for verdict in arm.verdicts]
    return {_who(verdict.judge) for verdict in verdicts if verdict.kind in ASKED} <= sorted_by


def believed(evidence: Evidence, judge: JudgeQuality, answer_judge: JudgeQuality) -> JudgeQuality:
    """The agreement that the first sentence rests on: of the judge of the answers, with people.

    Sorting prompts well earns it nothing; failing at it already speaks against the same judge.
    """
    is_compromised = judge.is_trusted is False and is_same_judge(evidence)
    return judge if answer_judge.is_trusted is None and is_compromised else answer_judge


def checked(evidence: Evidence, kind: str) -> str:
    """Whether people agree with verdicts of a kind, to stand beside every figure they make."""
    if kind not in CHECKED:
        return ""
    parts = ("cost", "cost_answers") if kind == "cost" else (kind,)
    said = [_compared(human_quality(evidence.human_labels, p), BASES.get(p, "")) for p in parts]
    return "; ".join(filter(None, said)) or NOT_COMPARED


def unlearned(evidence: Evidence) -> list[str]:
    """A warning of categories that the classifier of the prompts cannot know, if there are any."""
    metrics = evidence.metrics["labelled_prompts"]
    absent = [c for c in CATEGORIES if metrics.get(f"num_seed_{c}") == 0]
    if not absent:
        return []
    return [
        f"The classifier that sorted the prompts learned from no prompt of {' and '.join(absent)}: "
        "whatever belongs there counts as another category."
    ]


def costs_checked(evidence: Evidence) -> str:
    """How far the cost's sign agrees with people, as a line of its own; "" if nobody compared."""
    said = checked(evidence, "cost")
    return "" if said == NOT_COMPARED else f"Sign of the cost: {said}."


def kappa_in_words(kappa: float, ends: tuple[float, float] | None) -> str:
    """Kappa with its interval, where there is one."""
    return number(kappa) + (f" (95 % interval {interval(*ends, 'score')})" if ends else "")


def _compared(quality: JudgeQuality, basis: str) -> str:
    """Agreement with people's labels (`basis` says of what); "" where there is none to tell."""
    num_like = quality.num_like_training_prompt
    left_out = _left_out(num_like) if num_like else ""
    if quality.kappa is None or quality.accuracy is None:
        return left_out
    labels = f"{number(quality.num_gold)} labels of people{basis}"
    said = f"{labels} matched at {percent(quality.accuracy)}"
    if quality.majority_accuracy is not None:
        said += f" (the commonest alone: {percent(quality.majority_accuracy)})"
    said += f", κ {kappa_in_words(quality.kappa, quality.kappa_interval)}"
    said += "" if quality.is_trusted else ", not to be trusted"
    return "; ".join(filter(None, [said, left_out]))


def _left_out(num_like: int) -> str:
    return f"{number(num_like)} labelled answers left out, to prompts like its training prompts"


def _who(judge: str) -> str:
    return judge.rpartition(" / ")[0] or judge


def _opening(name: str, is_trusted: bool, is_good: bool) -> str:
    if is_trusted:
        return f"{name} agrees with people well enough to be read"
    doubt = f"The figures of {name[0].lower()}{name[1:]} cannot be trusted"
    return doubt + (", checked on so few labels" if is_good else "")


def _matched(accuracy: float, majority: float | None) -> str:
    matched = f"{100 * accuracy:.1f} % of gold labels matched"
    if majority is None:
        return matched
    return f"{matched}, where always giving the commonest one would match {100 * majority:.1f} %"


def _interval(metrics: Mapping[str, float], name: str) -> tuple[float, float] | None:
    low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
    return None if low is None or high is None else (low, high)
