"""Tests of two models on the same items: McNemar's exact test.

Values of both models by item -> a two-sided p value and the counts behind it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb

Scores = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class McNemar:
    """Items on which exactly one of two models was right, and how surprising their split is."""

    gained: int
    """Wrong with the first model, right with the second."""
    lost: int
    """Right with the first model, wrong with the second."""
    p_value: float


def mcnemar(base: Scores, aligned: Scores) -> McNemar | None:
    """McNemar's exact test over the items both models have (McNemar 1947; exact: binomial).

    None when no item is common, or when a common item is not a single 0 or 1: the test is about
    outcomes that can only be right or wrong.
    """
    common = [item for item in base if len(base[item]) and len(aligned.get(item, ()))]
    pairs = [(*base[item], *aligned[item]) for item in common]
    if not pairs or any(len(pair) != 2 or not {*pair} <= {0.0, 1.0} for pair in pairs):
        return None
    gained, lost = pairs.count((0.0, 1.0)), pairs.count((1.0, 0.0))
    return McNemar(gained, lost, exact_p(gained, lost))


def exact_p(gained: int, lost: int) -> float:
    """Two-sided binomial p of a split at least this uneven when both outcomes are equally likely.

    Whole numbers throughout, so thousands of items lose no precision.
    """
    number = gained + lost
    tail = sum(comb(number, k) for k in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / 2**number)
