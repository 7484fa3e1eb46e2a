"""How many answers got the verdict they needed.

answers and verdicts of both models -> share scored, by model and kind of verdict.
"""

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
    """Share of answers that got their verdict, by model and kind of verdict."""
    shares: dict[str, float | None] = {}
    for name, arm in evidence.arms.items():
        shares[f"{name} safety"] = label_tally(
            answers_to(evidence, arm, True), of_kind(arm, "safety"), IS_SAFE
        ).scored_share
        shares[f"{name} refusal"] = label_tally(
            answers_to(evidence, arm, False), of_kind(arm, "refusal"), IS_REFUSAL
        ).scored_share
        for kind in ("reward", "cost"):
            shares[f"{name} {kind}"] = score_tally(arm.answers, of_kind(arm, kind)).scored_share
        preferences = [v for v in arm.verdicts if v.kind == "preference"]
        if preferences:
            scored = sum(v.status == "scored" for v in preferences)
            shares[f"{name} preference"] = scored / len(preferences)
    return {name: share for name, share in shares.items() if share is not None}
