"""How sure a judge is: label probabilities from log-probs, freed from the judge's own leaning.

Completions with label log-probs -> probabilities over the labels, calibrated on request.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from equilibrate_core.completions import Completion
from equilibrate_core.errors import StageError

CONTENT_FREE = ("N/A", "", "[MASK]")
"""Texts without content, as in arXiv 2102.09690, section 4.1."""

Probs = dict[str, float]


def label_probs(completion: Completion, labels: Sequence[str]) -> Probs | None:
    """Probabilities over `labels`, summing to 1; None without log-probs. Unlisted labels get 0."""
    logps = completion.label_logps
    if completion.error is not None or not logps:
        return None
    highest = max(logps.values())
    weights = {label: math.exp(logps.get(label, -math.inf) - highest) for label in labels}
    total = sum(weights.values())
    return {label: weight / total for label, weight in weights.items()}


def label_priors(answers: Sequence[Completion], labels: Sequence[str]) -> Probs:
    """Mean probabilities over the answers to texts without content.

    Raises StageError when the judge tells no log-probs.
    """
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

    That is the paper's diagonal W = diag(p_cf)^-1, b = 0. Answers without log-probs stay.
    """
    probs = label_probs(completion, list(priors))
    if probs is None:
        return completion
    weights = {label: probs[label] / max(prior, 1e-6) for label, prior in priors.items()}
    total = sum(weights.values())
    logps = {x: math.log(weight / total) for x, weight in weights.items() if weight > 0}
    return replace(completion, text=max(logps, key=lambda x: logps[x]), label_logps=logps)
