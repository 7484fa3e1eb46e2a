"""How many answers got the verdict they needed; a prompt without an answer got none.

answers and verdicts of both models -> share scored, by model and kind of verdict.
"""

from components.write_report.formats import percent
from components.write_report.inputs import Evidence
from components.write_report.tallies import (
    IS_REFUSAL,
    IS_SAFE,
    answers_to,
    label_tally,
    of_kind,
    score_tally,
)


def scored_shares(evidence: Evidence) -> dict[str, float]:
    """Share of what was asked that got its verdict, by model and kind of verdict."""
    shares: dict[str, float | None] = {}
    for name, arm in evidence.arms.items():
        shares[f"{name} safety"] = label_tally(
            answers_to(evidence, arm, True), of_kind(arm, "safety"), IS_SAFE
        ).scored_share
        shares[f"{name} refusal"] = label_tally(
            answers_to(evidence, arm, False), of_kind(arm, "refusal"), IS_REFUSAL
        ).scored_share
        for kind in ("reward", "cost"):
            shares[f"{name} {kind}"] = score_tally(arm.asked, of_kind(arm, kind)).scored_share
        preferences = [v for v in arm.verdicts if v.kind == "preference"]
        if preferences:
            scored = sum(v.status == "scored" for v in preferences)
            silent = 2 * sum(prompt.is_harmful is None for prompt in arm.unanswered)  # both orders
            shares[f"{name} preference"] = scored / (len(preferences) + silent)
    return {name: share for name, share in shares.items() if share is not None}


def silences(evidence: Evidence) -> list[str]:
    """A warning for every model that left prompts without an answer."""
    return [
        f"{percent(len(arm.unanswered) / len(arm.asked))} of the prompts ({len(arm.unanswered)}) "
        f"have no answer of the {name} model (too long, or failed): they count as unscored."
        for name, arm in evidence.arms.items()
        if arm.unanswered
    ]
