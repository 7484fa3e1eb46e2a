"""Training prompts that give evaluation prompts away: equal, containing one, or much alike.

normalised texts of both -> the evaluation text each training text matches, and how.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from components.assemble_dataset.shingling import jaccard
from components.assemble_dataset.sketches import Sketches, band_keys, signature_rows

NUM_BANDS = 24
"""24 bands of 4 rows: texts of Jaccard 0.6 meet with probability 0.964, of 0.7 with 0.998."""
MIN_CONTAINED_BYTES = 24
"""Shorter evaluation prompts ("hi", "why not?") occur in others without giving anything away."""
HEAD_CHARS = 24
"""Texts are searched for by their beginnings: an automaton of 48,000 whole benchmark questions
takes 7 s and 0.6 GB, one of their beginnings half a second."""
Kind = Literal["equal", "contains", "similar"]


@dataclass(frozen=True)
class Match:
    """What a training text has of an evaluation text."""

    evaluation: int
    """Index of the evaluation text."""
    kind: Kind


def contaminated(
    training: pl.Series, evaluation: pl.Series, *, threshold: float
) -> dict[int, Match]:
    """Match of every training text that is too close to an evaluation text, by its index."""
    if not len(evaluation) or not len(training):
        return {}
    matches = _similar(training, evaluation, threshold)
    place = {text: i for i, text in reversed(list(enumerate(evaluation)))}
    for i, text in _containing(training, evaluation).items():
        matches[i] = Match(place[text], "contains")
    (equal,) = np.nonzero(training.is_in(evaluation.implode()).to_numpy())
    for i in equal.tolist():
        matches[i] = Match(place[training[i]], "equal")
    return matches


def _containing(training: pl.Series, evaluation: pl.Series) -> dict[int, str]:
    """The first evaluation text that occurs word for word in each text that contains one."""
    patterns = evaluation.filter(evaluation.str.len_bytes() >= MIN_CONTAINED_BYTES).unique().sort()
    if not len(patterns):
        return {}
    by_head: defaultdict[str, list[str]] = defaultdict(list)
    for pattern in patterns:
        by_head[pattern[:HEAD_CHARS]].append(pattern)
    heads = pl.Series(list(by_head), dtype=pl.String).implode()
    frame = training.alias("text").to_frame().with_row_index("i")
    suspects = frame.filter(pl.col("text").str.contains_any(heads)).with_columns(
        pl.col("text").str.extract_many(heads, overlapping=True).list.unique().alias("heads")
    )
    found: dict[int, str] = {}
    for i, text, begun in suspects.iter_rows():
        whole = [pattern for head in begun for pattern in by_head[head] if pattern in text]
        if whole:
            found[i] = min(whole)
    return found


def _similar(training: pl.Series, evaluation: pl.Series, threshold: float) -> dict[int, Match]:
    """The most similar evaluation text at or above the threshold, the first one in a tie."""
    flags = Sketches(training).shared_with(Sketches(evaluation), NUM_BANDS)
    (suspects,) = np.nonzero(flags)
    plain = training.gather(suspects)
    buckets = _buckets(evaluation)
    texts = evaluation.to_list()
    keys = band_keys(signature_rows(plain), NUM_BANDS)
    matches: dict[int, Match] = {}
    for i, text, own in zip(suspects.tolist(), plain, keys, strict=True):
        candidates = {j for band, key in enumerate(own) for j in buckets[band, key.tobytes()]}
        best = max(((jaccard(text, texts[j]), -j) for j in candidates), default=(0.0, 0))
        if best[0] >= threshold:
            matches[i] = Match(-best[1], "similar")
    return matches


def _buckets(evaluation: pl.Series) -> defaultdict[tuple[int, bytes], list[int]]:
    buckets: defaultdict[tuple[int, bytes], list[int]] = defaultdict(list)
    for i, own in enumerate(band_keys(signature_rows(evaluation), NUM_BANDS)):
        for band, key in enumerate(own):
            buckets[band, key.tobytes()].append(i)
    return buckets
