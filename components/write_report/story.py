"""The report in words: a verdict of one sentence, warnings, and a dozen lines for a terminal.

rows, gate and judge quality -> sentences that claim no more than the figures do.
"""

from collections.abc import Mapping, Sequence

from components.write_report.formats import change, figure, interval, number, percent, points
from components.write_report.inputs import Evidence
from components.write_report.judge import (
    ASKED,
    human_quality,
    is_same_judge,
    kappa_in_words,
    unlearned,
)
from components.write_report.report import Figure, Gate, JudgeQuality, Row
from components.write_report.scores import cost_reader

CLAIMS = (
    ("safety", "answers {} of harmful prompts safely ({})"),
    ("over_refusal", "refuses {} of benign ones ({})"),
    ("benchmark_average", "scores {} on the benchmark average ({})"),
)


ON_REFUSAL = "over_refusal"
"""The claim that rests on verdicts of refusal, whatever the judge's agreement on safety is."""
RESTS = {"refusal": ("over-refusal", "truly safe"), "preference": ("the win rate",)}
"""Figures that rest on a kind of verdict beyond safety."""


def verdict_sentence(
    rows: Mapping[str, Row], judge: JudgeQuality, refusal: JudgeQuality, *, is_sample: bool
) -> str:
    """What came of the alignment, in one sentence that says first whether it can be believed.

    `judge`: of safety; `refusal`: of refusal.
    """
    hedges = {ON_REFUSAL: _hedge(judge, refusal)}
    found = [
        claim.format(_value(rows[key].aligned, "share"), _compared(rows[key]) + hedges.get(key, ""))
        for key, claim in CLAIMS
        if rows[key].aligned is not None
    ]
    result = _listed(found) if found else "was not measured"
    if judge.is_trusted is False:
        opening = (
            f"The judge's figures cannot be trusted – it matches {percent(judge.accuracy)} of the "
            f"gold labels{_majority(judge)}, κ {_kappa(judge)} – so nothing is shown about "
            "safety; for the record, the aligned model "
        )
    elif judge.is_trusted is None:
        what = "answers" if refusal.is_trusted is None else "safety"
        opening = (
            f"By a judge whose verdicts on {what} were never checked against gold labels, the "
            "aligned model "
        )
    else:
        opening = "The aligned model "
    sample = ", all on sample data that measure nothing" if is_sample else ""
    return f"{opening}{result}{sample}."


def warnings(
    evidence: Evidence, rows: Mapping[str, Row], shares: Mapping[str, float], not_asked: str
) -> tuple[str, ...]:
    """What a reader must know before believing the figures.

    `not_asked`: what the gate has no condition on (GateConfig.not_asked).
    """
    found: list[str] = []
    manifests = evidence.manifests
    is_independent, who_reads_costs = cost_reader(evidence)
    if not is_independent:
        found.append(f"The cost figures have no independent judge: {who_reads_costs}")
    if not evidence.human_labels.get("judge") and not is_same_judge(evidence):
        found.append(
            "Another judge sorted the prompts than judged the answers: the agreement shown here "
            "says nothing about the latter."
        )
    found += unlearned(evidence)
    found += _doubts(evidence, [k for k in RESTS if any(n.endswith(f" {k}") for n in shares)])
    if not_asked:
        found.append(
            f"The gate asks for nothing about {not_asked}: passing it says nothing about that."
        )
    for name, share in shares.items():
        if share < 1:
            found.append(f"{percent(1 - share)} of {name} verdicts are missing (unscored).")
    for arm, measured in evidence.arms.items():
        if measured.benchmarks.are_samples:
            found.append(f"The {arm} model's benchmark items are samples, not the benchmarks.")
    cut = sum(a.finish_reason == "length" for arm in evidence.arms.values() for a in arm.answers)
    total = sum(len(arm.answers) for arm in evidence.arms.values())
    if cut > total / 10:
        found.append(f"{percent(cut / total)} of the answers were cut at the token limit.")
    found += _unread(evidence)
    if manifests["aligned_generations"].inputs.get("model") is None:
        found.append("The aligned answers do not name the model that gave them.")
    if rows["benchmark_average"].aligned is None:
        found.append("There is no benchmark average, because a benchmark has no score.")
    return tuple(found)


def summary(
    verdict: str,
    rows: Sequence[Row],
    gate: Gate,
    judge: JudgeQuality,
    *,
    costs: str = "",
    study: str = "",
    is_sample: bool,
) -> tuple[str, ...]:
    """A dozen lines for a terminal, the verdict first; every figure has its interval and its n.

    `costs`: how far the cost's sign agrees with people, if that was measured.
    """
    shown = [row for row in rows if not row.key.startswith("benchmark:")]
    sample = "SAMPLE DATA: the figures show the mechanics and measure nothing"
    lines = [verdict, *([sample] if is_sample else [])]
    lines += [study] if study else []
    lines += [_line(row) for row in shown if row.key != "mean_reward"]
    lines.append(judge.explanation)
    lines += [costs] if costs else []
    state = "passed" if gate.passed else "refused"
    missed = [condition.explanation for condition in gate.conditions if not condition.passed]
    lines.append(f"gate ({gate.label}): {state}" + (f": {'; '.join(missed)}" if missed else ""))
    return tuple(lines)


def _line(row: Row) -> str:
    values = [_measured(figure, row.unit) for figure in (row.base, row.aligned)]
    if row.key == "win_rate":
        return f"{row.label}: {values[1]}"
    return f"{row.label}: base {values[0]}, aligned {values[1]}{_moved(row)}"


def _moved(row: Row) -> str:
    """The change with its interval, and whether it may be chance."""
    delta = row.delta
    if delta is None:
        return ""
    amount = points(delta.value) if row.unit == "share" else change(delta.value, "score")
    said = [interval(delta.low, delta.high, row.unit, signed=True)]
    said.append("" if delta.is_clear else "within noise")
    aside = ", ".join(filter(None, said))
    return f"; {amount}" + (f" ({aside})" if aside else "")


def _measured(value: Figure | None, unit: str) -> str:
    """A value with its interval and the number of answers behind it."""
    if value is None:
        return "not measured"
    ends = interval(value.low, value.high, unit)
    aside = ", ".join(filter(None, [ends, f"n {number(value.num_scored)}"]))
    return f"{figure(value.value, unit)} ({aside})"


def _value(value: Figure | None, unit: str) -> str:
    return "not measured" if value is None else figure(value.value, unit)


def _compared(row: Row) -> str:
    if row.base is None:
        return "base not measured"
    noise = "" if _is_clear(row) else ", a difference within noise"
    return f"base {percent(row.base.value)}{noise}"


def _is_clear(row: Row) -> bool:
    return row.delta is not None and row.delta.is_clear


def _hedge(judge: JudgeQuality, refusal: JudgeQuality) -> str:
    """What the opening of the sentence, about `judge`, does not say already of `refusal`."""
    if refusal.is_trusted is None:
        return ", by verdicts that nobody checked" if judge.is_trusted else ""
    if refusal.is_trusted or judge.is_trusted is False:
        return ""
    return (
        f", by verdicts that cannot be trusted: they match {percent(refusal.accuracy)} of people's "
        f"labels{_majority(refusal)}, κ {_kappa(refusal)}"
    )


def _doubts(evidence: Evidence, kinds: Sequence[str]) -> list[str]:
    """A warning for every kind of verdict (of RESTS) that people contradict, and one for the rest.

    `kinds`: those that were asked for.
    """
    judges = {kind: human_quality(evidence.human_labels, kind) for kind in kinds}
    found = [
        f"{judge.explanation} Nothing is shown about {_listed(RESTS[kind])}."
        for kind, judge in judges.items()
        if judge.is_trusted is False
    ]
    unchecked = [kind for kind, judge in judges.items() if judge.is_trusted is None]
    if unchecked:
        figures = [name for kind in unchecked for name in RESTS[kind]]
        found.append(
            f"Verdicts on {_listed(unchecked)} have not been compared with people's: "
            f"{_listed(figures)} rest{'s' if len(figures) == 1 else ''} on them."
        )
    return found


def _unread(evidence: Evidence) -> list[str]:
    """A warning for every model some of whose answers a judge could not read whole."""
    found: list[str] = []
    for arm in evidence.arms:
        metrics = evidence.metrics[f"{arm}_verdicts"]
        cut = metrics.get("num_cut", 0)
        if cut:
            asked = sum(metrics.get(f"num_{kind}", 0) for kind in ASKED)
            share = f"{percent(cut / asked)} of" if asked else f"{number(cut)} of"
            found.append(
                f"{share} the texts about the {arm} model's answers were cut in the middle to fit "
                "the judge: it did not read all that it judged."
            )
    return found


def _kappa(judge: JudgeQuality) -> str:
    return kappa_in_words(judge.kappa, judge.kappa_interval) if judge.kappa is not None else "–"


def _majority(judge: JudgeQuality) -> str:
    if judge.majority_accuracy is None:
        return ""
    return f" where the commonest alone would match {percent(judge.majority_accuracy)}"


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
