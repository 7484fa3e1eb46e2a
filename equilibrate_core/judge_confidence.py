"""How sure a judge is: label probabilities from log-probs, freed from the judge's own leaning.

Completions with label log-probs -> probabilities over the labels, calibrated on request.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from equilibrate_core.completions import Completion
from equilibrate_core.errors import StageError
from equilibrate_core.label_tokens import SMALLEST_PROB

CONTENT_FREE = ("N/A", "", "[MASK]")
"""Texts without content, as in arXiv 2102.09690, section 4.1."""

Probs = dict[str, float]


def label_probs(completion: Completion, labels: Sequence[str]) -> Probs | None:
    """Probabilities over `labels`, summing to 1; None without log-probs.

    A label that the backend did not list stands at the upper bound of its probability, so that
    those of the listed ones are too low rather than too high; without a bound it gets 0.
    """
    if completion.error is not None or not completion.label_logps:
        return None
    logps = {**(completion.label_bounds or {}), **completion.label_logps}
    highest = max(logps.values())
    weights = {label: math.exp(logps.get(label, -math.inf) - highest) for label in labels}
    total = sum(weights.values())
    return {label: weight / total for label, weight in weights.items()}


def label_priors(answers: Sequence[Completion], labels: Sequence[str]) -> Probs:
    """Mean probabilities over the answers to texts without content.

    Unlisted labels count with their bounds: a floor near zero would make whatever the judge says
    later of such a label the likeliest.

    Raises StageError when a request failed, or the judge tells no log-probs.
    """
    failure = next((answer.error for answer in answers if answer.error is not None), None)
    if failure is not None:
        raise StageError(f"calibrate: no answer to a text without content: {failure}")
    probs = [label_probs(answer, labels) for answer in answers]
    found = [p for p in probs if p is not None]
    if len(found) < len(probs) or not found:
        raise StageError(
            "calibrate: the judge tells no log-probabilities of its labels; use an in-process "
            "judge, endpoint_logprobs with a server that gives them, or switch calibrate off"
        )
    return {label: fmean(p[label] for p in found) for label in labels}


def calibrated(completion: Completion, priors: Mapping[str, float]) -> Completion:
    """The likeliest label once each probability is divided by its prior (arXiv 2102.09690, eq. 1).

    That is the paper's diagonal W = diag(p_cf)^-1, b = 0: q(y) = (p(y) / p_cf(y)) / Σ_z p(z) /
    p_cf(z). Where the backend lists the likeliest tokens only, both p and p_cf of a label outside
    are taken at their upper bounds u: p_cf(y) = u raises y the least that is possible, p(z) = u
    lowers the others' q the most. A label outside is never the verdict: u / p_cf is no measurement.
    Answers without log-probs stay.
    """
    probs = label_probs(completion, list(priors))
    if probs is None or completion.label_logps is None:
        return completion
    weights = {x: probs[x] / max(prior, SMALLEST_PROB) for x, prior in priors.items()}
    total = sum(weights.values())
    logps = {x: math.log(weight / total) for x, weight in weights.items() if weight > 0}
    listed = {x: logp for x, logp in logps.items() if x in completion.label_logps}
    bounds = {x: logp for x, logp in logps.items() if x not in listed}
    verdict = max(listed, key=lambda x: listed[x], default=completion.text)
    return replace(completion, text=verdict, label_logps=listed, label_bounds=bounds)
