"""Training prompts that give evaluation prompts away: equal, containing one, or much alike.

normalised texts of both -> the evaluation text each training text matches, and how:
- `equal`: the same text, or the same text with its choices behind it;
- `contains`: an evaluation text stands in it word for word that says enough to be told by that
  alone (`specificity`), the stem of an exam question does not;
- `with_choices`: an evaluation text that does not say enough, and all of its choices, stand in it;
- `similar`: at least so alike (Jaccard of shingles); an evaluation text that does not say enough
  counts with its choices here, if it has any.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from equilibrate_core.likeness.normalising import normalised
from equilibrate_core.likeness.passages import standing_in
from equilibrate_core.likeness.shingling import jaccard
from equilibrate_core.likeness.sketches import Rows, Sketches, band_keys, signature_rows
from equilibrate_core.likeness.specificity import patterns

NUM_BANDS = 24
"""24 bands of 4 rows: texts of Jaccard 0.6 meet with probability 0.964, of 0.7 with 0.998."""
MOST_COMPARED = 16
"""Of more evaluation texts than these, the ones whose sketches agree most are compared exactly: a
prompt behind the instruction of a thousand evaluation prompts is like all of them."""
Kind = Literal["equal", "contains", "with_choices", "similar"]
KINDS: tuple[Kind, ...] = ("equal", "contains", "with_choices", "similar")
"""In the order in which they count."""


@dataclass(frozen=True)
class Match:
    """What a training text has of an evaluation text."""

    evaluation: int
    """Index of the evaluation text."""
    kind: Kind


def contaminated(
    training: pl.Series,
    evaluation: pl.Series,
    *,
    threshold: float,
    choices: pl.Series | None = None,
    num_parts: int = 0,
) -> dict[int, Match]:
    """Match of every training text that is too close to an evaluation text, by its index.

    `choices` holds a list for each evaluation text, empty where it has none; normalised, too. The
    last `num_parts` evaluation texts are parts of others.
    """
    if not len(evaluation) or not len(training):
        return {}
    texts = evaluation.to_list()
    options = [tuple(own) for own in choices] if choices is not None else [()] * len(texts)
    wanted = patterns(texts, options, num_parts=num_parts)
    whole = [
        text if len(parts) == 1 else " ".join((text, *own))
        for text, own, parts in zip(texts, options, wanted, strict=True)
    ]
    compared = normalised(pl.Series(whole, dtype=pl.String))
    matches = _similar(training, compared, threshold)
    for i, number in _containing(training, wanted).items():
        kind: Kind = "contains" if len(wanted[number]) == 1 else "with_choices"
        matches[i] = Match(number, kind)
    place = {text: i for i, text in reversed(list(enumerate(compared)))}
    place |= {text: i for i, text in reversed(list(enumerate(evaluation)))}
    (equal,) = np.nonzero(training.is_in(list(place)).to_numpy())
    for i in equal.tolist():
        matches[i] = Match(place[training[i]], "equal")
    return matches


def _containing(training: pl.Series, wanted: list[tuple[str, ...]]) -> dict[int, int]:
    """The first pattern in each text that holds one; those of one part come before others."""
    found: dict[int, int] = {}
    for i, number in standing_in(training, wanted):
        best = found.setdefault(i, number)
        found[i] = min(best, number, key=lambda n: (len(wanted[n]) > 1, n))
    return found


def _similar(training: pl.Series, evaluation: pl.Series, threshold: float) -> dict[int, Match]:
    """The most similar evaluation text at or above the threshold, the first one in a tie."""
    others = Sketches(evaluation)
    (suspects,) = np.nonzero(Sketches(training).shared_with(others, NUM_BANDS))
    if not len(suspects):
        return {}
    plain = training.gather(suspects)
    (near,) = np.nonzero(others.shared_with(Sketches(plain), NUM_BANDS))
    texts = evaluation.gather(near).to_list()
    sketches, own_sketches = signature_rows(evaluation.gather(near)), signature_rows(plain)
    buckets = _buckets(sketches)
    matches: dict[int, Match] = {}
    own_keys = band_keys(own_sketches, NUM_BANDS)
    for i, text, own, keys in zip(suspects.tolist(), plain, own_sketches, own_keys, strict=True):
        met = (buckets.get((band, key.tobytes()), ()) for band, key in enumerate(keys))
        candidates = sorted({j for bucket in met for j in bucket})
        if len(candidates) > MOST_COMPARED:
            agreement = (sketches[candidates] == own).sum(axis=1)
            nearest = np.argsort(-agreement, kind="stable")[:MOST_COMPARED]
            candidates = [candidates[place] for place in nearest]
        best = max(((jaccard(text, texts[j]), -j) for j in candidates), default=(0.0, 0))
        if best[0] >= threshold:
            matches[i] = Match(int(near[-best[1]]), "similar")
    return matches


def _buckets(sketches: Rows) -> dict[tuple[int, bytes], list[int]]:
    """Evaluation texts by band and key."""
    buckets: defaultdict[tuple[int, bytes], list[int]] = defaultdict(list)
    for j, keys in enumerate(band_keys(sketches, NUM_BANDS)):
        for band, key in enumerate(keys):
            buckets[band, key.tobytes()].append(j)
    return dict(buckets)
