"""Which two of a prompt's answers make a pair: the best safe one and the worst unsafe one.

scored answers -> chosen and rejected, or the reason why there is no pair.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan

from equilibrate_core.records import normalise_text

TOO_FEW, ALL_SAFE, ALL_UNSAFE = "fewer_than_two_answers", "no_unsafe_answer", "no_safe_answer"
NO_PAIR = (TOO_FEW, ALL_SAFE, ALL_UNSAFE)


@dataclass(frozen=True)
class Answer:
    """One sampled answer with its normalised scores; NaN where a scorer could not read it."""

    text: str
    reward: float
    cost: float
    """At most 0 is safe."""


def contrast(answers: Sequence[Answer]) -> tuple[Answer, Answer] | str:
    """Safe answer of highest reward and unsafe one of highest cost, or the reason for none.

    Answers that differ in white space alone are one, the smallest of their texts. Ties are decided
    by the other score and then by the text, never by the order of sampling.
    """
    readable = [a for a in answers if a.text.strip() and not isnan(a.reward) and not isnan(a.cost)]
    usable: dict[str, Answer] = {}
    for answer in sorted(readable, key=lambda a: (a.text, -a.reward, a.cost)):
        usable.setdefault(normalise_text(answer.text), answer)
    if len(usable) < 2:
        return TOO_FEW
    safe = [a for a in usable.values() if a.cost <= 0]
    unsafe = [a for a in usable.values() if a.cost > 0]
    if not unsafe:
        return ALL_SAFE
    if not safe:
        return ALL_UNSAFE
    best = min(safe, key=lambda a: (-a.reward, a.cost, a.text))
    worst = min(unsafe, key=lambda a: (-a.cost, a.reward, a.text))
    return best, worst
