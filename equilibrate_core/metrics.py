"""Statistics every stage reports: bootstrap intervals, paired differences, ranking, calibration.

Intervals are 95 % percentile bootstrap intervals. Resampling draws whole items (prompts), each with
all of its values, so that several answers to one prompt do not pass for independent evidence.

Resampling knows only the outcomes that it has seen. What none showed may still have a share of its
own, so an interval over right and wrong items is never narrower than the exact bound on outcomes
unseen in all strata together, and strata that have no width of their own add theirs as independent
errors do, root of the sum of squares (`_allowed`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Scores = Mapping[str, Sequence[float]]
"""Values of every item (prompt, benchmark question) by its id; items without values are ignored."""

RESAMPLES = 2000
TAIL = 0.025
NORMAL_95 = 1.959964
CELLS_PER_CHUNK = 4_000_000  # bounds the memory of one chunk of resamples to about 32 MB


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval and the number of items behind it."""

    value: float
    low: float
    high: float
    num: int


@dataclass(frozen=True)
class Difference(Estimate):
    """Aligned minus base over the items both have, with a two-sided sign-flip permutation p."""

    p_value: float


def mean_estimate(scores: Scores, *, seed: int, resamples: int = RESAMPLES) -> Estimate | None:
    """Mean of all values with its interval over items; None when there is no value."""
    return stratified_estimate([scores], seed=seed, resamples=resamples)


def stratified_estimate(
    strata: Sequence[Scores], *, seed: int, resamples: int = RESAMPLES
) -> Estimate | None:
    """Unweighted mean of the strata's means (suites, benchmarks), resampled inside each stratum.

    None when there is no stratum or one of them has no value.
    """
    tables = [_sums_and_counts(scores) for scores in strata]
    if not tables or any(len(table) == 0 for table in tables):
        return None
    rng = np.random.default_rng(seed)
    draws = np.mean([_bootstrap_ratio(table, rng, resamples)[:, 0] for table in tables], axis=0)
    value = float(np.mean([table[:, 0].sum() / table[:, 1].sum() for table in tables]))
    low, high = _allowed(value, interval(draws), tables, floor=0.0)
    return Estimate(value, low, high, sum(len(table) for table in tables))


def paired_difference(
    base: Scores, aligned: Scores, *, seed: int, resamples: int = RESAMPLES
) -> Difference | None:
    """Mean of `aligned` minus mean of `base` over the items that have values in both."""
    return stratified_difference([(base, aligned)], seed=seed, resamples=resamples)


def stratified_difference(
    strata: Sequence[tuple[Scores, Scores]], *, seed: int, resamples: int = RESAMPLES
) -> Difference | None:
    """Difference of the strata's unweighted means, (base, aligned) resampled item by item together.

    None when there is no stratum or one of them has no common item.
    """
    tables = [_paired_table(base, aligned) for base, aligned in strata]
    if not tables or any(len(table) == 0 for table in tables):
        return None
    rng = np.random.default_rng(seed)
    ratios = [_bootstrap_ratio(table, rng, resamples) for table in tables]
    draws = np.mean([ratio[:, 1] - ratio[:, 0] for ratio in ratios], axis=0)
    value = float(np.mean([_ratio_gap(table) for table in tables]))
    low, high = _allowed(value, interval(draws), tables, floor=-1.0)
    num = sum(len(table) for table in tables)
    return Difference(value, low, high, num, _permutation_p(tables, rng, resamples))


def binary_f1(predicted: ArrayLike, targets: ArrayLike) -> float:
    """F1 of the positive class; 0 when it occurs neither in predictions nor in targets."""
    given, true = np.asarray(predicted, dtype=bool), np.asarray(targets, dtype=bool)
    denominator = int(given.sum()) + int(true.sum())
    return float(2 * (given & true).sum() / denominator) if denominator else 0.0


def auc(scores: ArrayLike, targets: ArrayLike) -> float | None:
    """Probability that a positive scores above a negative, ties half; None without both classes."""
    values, true = np.asarray(scores, dtype=np.float64), np.asarray(targets, dtype=bool)
    num_positive, num_negative = int(true.sum()), int((~true).sum())
    if not num_positive or not num_negative:
        return None
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last_rank = np.cumsum(counts)
    mean_rank = last_rank - (counts - 1) / 2
    positive_ranks = float(mean_rank[inverse][true].sum())
    return (positive_ranks - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative)


def calibration_error(probs: ArrayLike, targets: ArrayLike, *, num_bins: int = 10) -> float:
    """Expected calibration error over equal-width bins (arXiv 1706.04599, eq. 3).

    Bins are (lower, upper], the first one closed. Raises ValueError on empty input.
    """
    given, true = np.asarray(probs, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    if not given.size:
        raise ValueError("calibration error of nothing")
    bins = np.clip(np.ceil(given * num_bins).astype(np.int64) - 1, 0, num_bins - 1)
    gaps = np.bincount(bins, weights=true - given, minlength=num_bins)
    return float(np.abs(gaps).sum() / given.size)


def _sums_and_counts(scores: Scores) -> Floats:
    rows = [(float(sum(values)), float(len(values))) for values in scores.values() if len(values)]
    return np.asarray(rows, dtype=np.float64).reshape(-1, 2)


def _paired_table(base: Scores, aligned: Scores) -> Floats:
    """One row per common item: base sum, base count, aligned sum, aligned count."""
    common = [item for item, values in base.items() if len(values) and len(aligned.get(item, ()))]
    rows = [
        (sum(base[item]), len(base[item]), sum(aligned[item]), len(aligned[item]))
        for item in common
    ]
    return np.asarray(rows, dtype=np.float64).reshape(-1, 4)


def _bootstrap_ratio(table: Floats, rng: np.random.Generator, resamples: int) -> Floats:
    """Resampled sums over resampled counts, shape (resamples, column pairs).

    Equal rows are drawn together as one cell of a multinomial, which keeps the law of the draw.
    """
    rows, repeats = np.unique(table, axis=0, return_counts=True)
    num_items = len(table)
    chunk = max(1, CELLS_PER_CHUNK // len(rows))
    parts: list[Floats] = []
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        weights = rng.multinomial(num_items, repeats / num_items, size=size)
        totals = weights @ rows
        parts.append(totals[:, 0::2] / totals[:, 1::2])
    return np.concatenate(parts)


def _ratio_gap(table: Floats) -> float:
    totals = table.sum(axis=0)
    return float(totals[2] / totals[3] - totals[0] / totals[1])


def _permutation_p(tables: Sequence[Floats], rng: np.random.Generator, resamples: int) -> float:
    """Share of random sign flips of the items' differences that reach the observed mean."""
    observed, flipped = 0.0, np.zeros(resamples)
    for table in tables:
        gaps = table[:, 2] / table[:, 3] - table[:, 0] / table[:, 1]
        observed += float(gaps.mean())
        sizes, repeats = np.unique(np.abs(gaps), return_counts=True)
        chunk = max(1, CELLS_PER_CHUNK // len(sizes))
        for start in range(0, resamples, chunk):
            part = flipped[start : start + chunk]
            signs = 2 * rng.binomial(repeats, 0.5, size=(len(part), len(sizes))) - repeats
            part += signs @ sizes / len(gaps)
    reached = int((np.abs(flipped) >= abs(observed) - 1e-12).sum())
    return (1 + reached) / (1 + resamples)


def interval(draws: Floats) -> tuple[float, float]:
    """Percentile interval of resampled figures."""
    low, high = (float(bound) for bound in np.quantile(draws, [TAIL, 1 - TAIL]))
    return low, high


def _allowed(
    value: float, ends: tuple[float, float], tables: Sequence[Floats], *, floor: float
) -> tuple[float, float]:
    """Bootstrap interval of the strata's mean, with what its draws cannot know.

    Constant strata have no part in the draws: their width, exact over all of them, is an error
    independent of the draws, and widths of independent errors add up in squares, each side by
    itself (Zou and Donner 2008, the "MOVER").
    """
    constant, least = _constant_width(tables, len(tables)), least_width(tables)
    if not least:
        return ends
    down, up = (
        max(least, float(np.hypot(max(width, 0.0), constant)))
        for width in (value - ends[0], ends[1] - value)
    )
    return max(value - down, floor), min(value + up, 1.0)


def least_width(tables: Sequence[Floats]) -> float:
    """Least width on either side of the interval of the strata's mean; 0 for unbounded scores.

    That of samples of these sizes without any exception. It depends on sizes alone, so nothing that
    fell is held for surer than what stayed the same.
    """
    counted = [len(table) for table in tables if _is_counted(table)]
    constant = _constant_width(tables, len(tables))
    return max(constant, unseen_share(counted, len(tables)))


def unseen_share(sizes: Sequence[int], num_strata: int) -> float:
    """Largest mean share, over `num_strata`, of outcomes that none of the sampled strata showed.

    The exact upper bound at 97.5 %: the greatest sum of shares q_i for which n_i items of each
    stratum i show none with a probability of TAIL or more, prod (1 - q_i)^n_i >= TAIL. The greatest
    has 1 - q_i = scale * n_i in the smallest strata, as many as that leaves below 1, and q_i = 0 in
    the others. One stratum: Clopper-Pearson's 1 - TAIL^(1/n); k equal ones: that of k * n items.
    """
    if not sizes:
        return 0.0
    ascending = np.sort(np.asarray(sizes, dtype=np.float64))
    sums = np.cumsum(ascending * np.log(ascending)) - np.log(TAIL)
    scales = np.exp(-sums / np.cumsum(ascending))
    num_used = int((scales * ascending < 1).sum())
    shares = 1 - scales[num_used - 1] * ascending[:num_used]
    return float(shares.sum()) / num_strata


def _constant_width(tables: Sequence[Floats], num_strata: int) -> float:
    """Half-width of the mean over strata that is due to those whose bounded values are all alike.

    The bootstrap of such values has no width, as if 20 of 20 were a certainty. The exact bound on
    exceptions in any of them takes its place, or, where that is larger, the normal width of credits
    in between, ½ for a tie, which are as undecided as coin flips of that mean. Unbounded scores
    have no such bound and keep the width they have.
    """
    constant = [table for table in tables if _is_bounded(table) and np.ptp(_figures(table)) == 0]
    flips = sum(_flip_variance(table) for table in constant)
    sizes = [len(table) for table in constant]
    return max(unseen_share(sizes, num_strata), NORMAL_95 * flips**0.5 / num_strata)


def _is_bounded(table: Floats) -> bool:
    sums, counts = table[:, 0::2], table[:, 1::2]
    return not np.any((sums < 0) | (sums > counts))


def _is_counted(table: Floats) -> bool:
    """Whether every value can be a right or a wrong: whole sums of at most as many as there are."""
    return _is_bounded(table) and not np.any(table[:, 0::2] % 1)


def _figures(table: Floats) -> Floats:
    """Mean of every item's values; of pairs, aligned minus base."""
    figures = table[:, 0::2] / table[:, 1::2]
    return figures[:, -1] - figures[:, 0] if figures.shape[1] == 2 else figures[:, 0]


def _flip_variance(table: Floats) -> float:
    """Variance of the mean of items that are coin flips of their own means."""
    figures = table[:, 0::2] / table[:, 1::2]
    return float((figures * (1 - figures)).sum(axis=1).mean()) / len(table)
