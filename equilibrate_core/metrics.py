"""Statistics every stage reports: bootstrap intervals, agreement, ranking, calibration.

Intervals are 95 % percentile bootstrap intervals. Resampling draws whole items (prompts), each with
all of its values, so that several answers to one prompt do not pass for independent evidence.
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


@dataclass(frozen=True)
class Agreement:
    """How well given labels agree with gold labels; rows of `matrix` are gold, columns given."""

    labels: tuple[str, ...]
    matrix: tuple[tuple[int, ...], ...]
    num: int
    accuracy: Estimate
    macro_f1: Estimate
    kappa: Estimate
    majority_accuracy: float
    """Accuracy of always answering the commonest gold label."""

    def scalars(self) -> dict[str, float]:
        """The figures as flat metrics: accuracy, accuracy_low, accuracy_high, …, num_gold."""
        named = {"accuracy": self.accuracy, "macro_f1": self.macro_f1, "kappa": self.kappa}
        flat = {"num_gold": float(self.num), "majority_accuracy": self.majority_accuracy}
        for name, estimate in named.items():
            flat[name] = estimate.value
            flat[f"{name}_low"], flat[f"{name}_high"] = estimate.low, estimate.high
        return flat


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
    slack = float(np.mean([_constant_slack(table) for table in tables]))
    low, high = _interval(draws, slack, floor=0.0)
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
    slack = float(np.mean([_constant_slack(table) for table in tables]))
    low, high = _interval(draws, slack, floor=-1.0)
    num = sum(len(table) for table in tables)
    return Difference(value, low, high, num, _permutation_p(tables, rng, resamples))


def agreement(
    labels: Sequence[str],
    gold: Sequence[str],
    *,
    classes: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Agreement:
    """Accuracy, macro-F1 and Cohen's kappa of `labels` against `gold`, item by item.

    `classes` fixes the order of the matrix; without it the labels seen, sorted. Items of one group
    (answers to one prompt) are drawn together; without `groups` each item by itself. Classes nobody
    used do not enter macro-F1. Raises ValueError on empty or unequal inputs.
    """
    sizes = [len(part) for part in (labels, gold, gold if groups is None else groups)]
    if not gold or len(set(sizes)) > 1:
        raise ValueError(f"need as many labels as gold labels and groups, not {sizes}")
    order = tuple(classes) if classes is not None else tuple(sorted({*labels, *gold}))
    matrix = confusion_matrix(labels, gold, order)
    num, beyond_chance = len(gold), 1 - float(_chance(matrix[None])[0])
    kinds, repeats = _drawn_together(labels, gold, groups, order)
    draws, slack = _bootstrap_matrices(kinds, repeats, np.random.default_rng(seed), resamples)
    # An error costs kappa what it costs accuracy, over 1 - chance.
    kappa_slack = slack / beyond_chance if beyond_chance > 1e-12 else 0.0
    widened = ((_accuracy, slack, 0.0), (_macro_f1, slack, 0.0), (_kappa, kappa_slack, -1.0))
    figures = [
        Estimate(float(function(matrix[None])[0]), *_interval(function(draws), own, floor), num)
        for function, own, floor in widened
    ]
    rows = tuple(tuple(int(cell) for cell in row) for row in matrix)
    majority = float(matrix.sum(axis=1).max() / num)
    return Agreement(order, rows, num, figures[0], figures[1], figures[2], majority)


def confusion_matrix(
    labels: Sequence[str], gold: Sequence[str], classes: Sequence[str]
) -> NDArray[np.int64]:
    """Counts of shape (gold classes, given classes). Raises ValueError on a label outside them."""
    index = {name: position for position, name in enumerate(classes)}
    unknown = sorted({*labels, *gold} - set(index))
    if unknown:
        raise ValueError(f"labels {unknown} are not among the classes {list(classes)}")
    matrix = np.zeros((len(index), len(index)), dtype=np.int64)
    for given, true in zip(labels, gold, strict=True):
        matrix[index[true], index[given]] += 1
    return matrix


def accuracy(labels: Sequence[str], gold: Sequence[str]) -> float:
    """Share of labels equal to gold."""
    return agreement(labels, gold, resamples=1).accuracy.value


def macro_f1(labels: Sequence[str], gold: Sequence[str]) -> float:
    """Unweighted mean of the classes' F1."""
    return agreement(labels, gold, resamples=1).macro_f1.value


def cohen_kappa(labels: Sequence[str], gold: Sequence[str]) -> float:
    """Agreement beyond chance; 0 when only one class occurs and nothing can be shown."""
    return agreement(labels, gold, resamples=1).kappa.value


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


def _interval(draws: Floats, slack: float = 0.0, floor: float = 0.0) -> tuple[float, float]:
    """Percentile interval; with `slack` it is widened inside [floor, 1]."""
    low, high = (float(bound) for bound in np.quantile(draws, [TAIL, 1 - TAIL]))
    return (max(low - slack, floor), min(high + slack, 1.0)) if slack else (low, high)


def _constant_slack(table: Floats) -> float:
    """What to widen an interval by where values between 0 and 1 are the same for every item.

    The bootstrap of such a sample has no width, as if 20 of 20 were a certainty. The exact
    (Clopper-Pearson) bound for "no exception in n trials" takes its place. Credits in between, ½
    for a tie, are as undecided as coin flips of that mean, so the normal width of those is the
    least for them. Unbounded scores have no such bound and keep the width they have.
    """
    sums, counts = table[:, 0::2], table[:, 1::2]
    figures = sums / counts
    gaps = figures[:, -1] - figures[:, 0] if figures.shape[1] == 2 else figures[:, 0]
    if np.any((sums < 0) | (sums > counts)) or np.ptp(gaps) > 0:
        return 0.0
    flips = float((figures * (1 - figures)).sum(axis=1).mean())  # their variance
    return max(1 - TAIL ** (1 / len(table)), NORMAL_95 * (flips / len(table)) ** 0.5)


def _drawn_together(
    labels: Sequence[str], gold: Sequence[str], groups: Sequence[str] | None, order: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Different matrices of single items or groups, shape (n, gold, given), and their numbers."""
    size, index = len(order), {name: position for position, name in enumerate(order)}
    pairs = zip(labels, gold, strict=True)
    cells = np.asarray([index[true] * size + index[given] for given, true in pairs])
    if groups is None:
        kinds, repeats = np.eye(size**2, dtype=np.int64), np.bincount(cells, minlength=size**2)
    else:
        names, places = np.unique(np.asarray(groups), return_inverse=True)
        counts = np.bincount(places * size**2 + cells, minlength=len(names) * size**2)
        kinds, repeats = np.unique(counts.reshape(-1, size**2), axis=0, return_counts=True)
    return kinds.reshape(-1, size, size), np.asarray(repeats, dtype=np.int64)


def _bootstrap_matrices(
    kinds: NDArray[np.int64], repeats: NDArray[np.int64], rng: np.random.Generator, resamples: int
) -> tuple[NDArray[np.int64], float]:
    """Matrices of resampled items, shape (resamples, gold, given), and the slack of accuracy.

    Drawing with replacement is a multinomial draw over what can be drawn.
    """
    num = int(repeats.sum())
    weights = rng.multinomial(num, repeats / num, size=resamples)
    right, given = np.trace(kinds, axis1=1, axis2=2), kinds.sum(axis=(1, 2))
    table = np.repeat(np.stack([right, given], axis=1).astype(np.float64), repeats, axis=0)
    draws = np.asarray(np.tensordot(weights, kinds, axes=1), dtype=np.int64)
    return draws, _constant_slack(table)


def _accuracy(matrices: NDArray[np.int64]) -> Floats:
    correct = np.trace(matrices, axis1=1, axis2=2)
    return np.asarray(correct / matrices.sum(axis=(1, 2)), dtype=np.float64)


def _macro_f1(matrices: NDArray[np.int64]) -> Floats:
    diagonal = np.diagonal(matrices, axis1=1, axis2=2)
    uses = matrices.sum(axis=1) + matrices.sum(axis=2)
    f1 = np.divide(2.0 * diagonal, uses, out=np.zeros(uses.shape), where=uses > 0)
    return np.asarray(f1.sum(axis=1) / (uses > 0).sum(axis=1), dtype=np.float64)


def _kappa(matrices: NDArray[np.int64]) -> Floats:
    shares = matrices / matrices.sum(axis=(1, 2), keepdims=True)
    observed = np.trace(shares, axis1=1, axis2=2)
    chance = _chance(matrices)
    gap = observed - chance
    return np.divide(gap, 1 - chance, out=np.zeros(gap.shape), where=chance < 1 - 1e-12)


def _chance(matrices: NDArray[np.int64]) -> Floats:
    """Agreement that the two sides' label shares alone would give."""
    shares = matrices / matrices.sum(axis=(1, 2), keepdims=True)
    return np.asarray((shares.sum(axis=1) * shares.sum(axis=2)).sum(axis=1), dtype=np.float64)
