"""How well labels agree with gold labels: accuracy, macro-F1 and Cohen's kappa, with intervals.

Labels and gold labels, item by item -> figures and the confusion matrix they come from.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from equilibrate_core.metrics import RESAMPLES, Estimate, Floats, interval, least_width

NO_CHANCE_LEFT = 1e-12
"""What rounding leaves of 1 - chance where only one class occurs."""


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
    draws = _bootstrap_matrices(kinds, repeats, np.random.default_rng(seed), resamples)
    # An error costs kappa what it costs accuracy, over 1 - chance; with one class that is anything.
    least = least_width([_right_and_given(kinds, repeats)])
    kappa_least = least / max(beyond_chance, NO_CHANCE_LEFT)
    widened = ((_accuracy, least, 0.0), (_macro_f1, least, 0.0), (_kappa, kappa_least, -1.0))
    figures: list[Estimate] = []
    for function, width, floor in widened:
        value, (low, high) = float(function(matrix[None])[0]), interval(function(draws))
        low, high = max(min(low, value - width), floor), min(max(high, value + width), 1.0)
        figures.append(Estimate(value, low, high, num))
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
) -> NDArray[np.int64]:
    """Matrices of resampled items, shape (resamples, gold, given).

    Drawing with replacement is a multinomial draw over what can be drawn.
    """
    num = int(repeats.sum())
    weights = rng.multinomial(num, repeats / num, size=resamples)
    return np.asarray(np.tensordot(weights, kinds, axes=1), dtype=np.int64)


def _right_and_given(kinds: NDArray[np.int64], repeats: NDArray[np.int64]) -> Floats:
    """Right labels and all labels of every item or group, as metrics' tables have them."""
    right, given = np.trace(kinds, axis1=1, axis2=2), kinds.sum(axis=(1, 2))
    return np.repeat(np.stack([right, given], axis=1).astype(np.float64), repeats, axis=0)


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
    return np.divide(gap, 1 - chance, out=np.zeros(gap.shape), where=chance < 1 - NO_CHANCE_LEFT)


def _chance(matrices: NDArray[np.int64]) -> Floats:
    """Agreement that the two sides' label shares alone would give."""
    shares = matrices / matrices.sum(axis=(1, 2), keepdims=True)
    return np.asarray((shares.sum(axis=1) * shares.sum(axis=2)).sum(axis=1), dtype=np.float64)
