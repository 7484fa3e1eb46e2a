"""judge.kind classifier: a linear head learns the categories from a seed and labels the rest.

prompts + seed labels -> a head; prompts + head -> categories with probabilities.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from components.classify_prompts.config import ClassifierConfig
from equilibrate_core.errors import StageError
from equilibrate_core.likeness.prompt_groups import conversations, drawn, groups_by_id, too_like
from equilibrate_core.records import CATEGORIES, Prompt, digest

logger = logging.getLogger(__name__)
FOLDS = 3
REPEATS = 5
"""Times the folds are drawn anew: a penalty chosen by one drawing is a matter of luck."""
MIN_PER_CLASS = 2
MAX_ITERATIONS = 2000
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Split:
    """Which prompts the head may learn from and which only measure it."""

    seed: tuple[int, ...]
    """Rows of the seed, in an order that ids and seed alone decide: folds go by position."""
    held_out: tuple[int, ...]
    """Rows with a gold label that are neither in the seed nor like one of it; in such an order."""


def split_prompts(prompts: Sequence[Prompt], config: ClassifierConfig, *, seed: int) -> Split:
    """Seed and held-out rows; near-duplicates and continued conversations are on one side."""

    def place(name: str) -> str:
        return digest([seed, name])

    order = sorted(range(len(prompts)), key=lambda row: place(prompts[row].id))
    gold = [row for row in order if prompts[row].gold_category is not None]
    pool = gold if config.seed_labels == "gold" else order
    texts = conversations((prompts[row].id, prompts[row].messages) for row in pool)
    groups = groups_by_id(texts)
    wanted = round(len(gold) * config.held_out_share)
    measuring = drawn({prompts[row].id: groups[prompts[row].id] for row in gold}, wanted, place)
    kept_out = {groups[prompt] for prompt in measuring}
    learnable = [row for row in pool if groups[prompts[row].id] not in kept_out]
    chosen = learnable[: config.seed_size]
    learned = {prompts[row].id for row in chosen}
    near = {groups[prompt] for prompt in learned}
    others = [row for row in gold if groups[prompts[row].id] not in near]
    alike = too_like(texts, {prompts[row].id for row in others}, learned)
    held_out = [row for row in others if prompts[row].id not in alike]
    return Split(tuple(chosen), tuple(held_out))


def train_head(features: Floats, labels: Sequence[str], config: ClassifierConfig, seed: int) -> Any:
    """Scaled logistic regression, its penalty chosen by cross-validated macro-F1.

    Raises StageError when the labels are too few to learn from.
    """
    counts = Counter(labels)
    enough = {label: number for label, number in counts.items() if number >= MIN_PER_CLASS}
    if len(enough) < 2:
        raise StageError(
            f"classify_prompts: the seed has {dict(counts)} labels; a classifier needs two "
            f"categories with at least {MIN_PER_CLASS} prompts each: give more gold labels, or "
            "set classifier.seed_labels to llm with a larger seed_size"
        )
    _warn_of_rare(counts, config)
    target = np.asarray(labels)
    features = features.astype(np.float64)  # in float32 the search for the optimum may break off
    scores = {c: _cross_validated(features, target, c, seed) for c in config.l2}
    best = max(scores, key=lambda c: (scores[c], -c))
    logger.info("classifier: %d seed labels %s, C %g", len(labels), dict(counts), best)
    return _head(best, seed).fit(features, target)


def _warn_of_rare(counts: Mapping[str, int], config: ClassifierConfig) -> None:
    rare = [f"{c} ({counts.get(c, 0)})" for c in CATEGORIES if counts.get(c, 0) < MIN_PER_CLASS]
    mend = "give gold labels of such prompts or set classifier.seed_labels to llm"
    if config.seed_labels == "llm":
        mend = "raise classifier.seed_size"
    if rare:
        logger.warning(
            "classifier: too few seed prompts of %s: what belongs there gets another label; %s",
            ", ".join(rare),
            mend,
        )


def predict(head: Any, features: Floats) -> list[tuple[str, float]]:
    """Category and its probability, row by row."""
    probs = head.predict_proba(features)
    best = probs.argmax(axis=1)
    return [(str(head.classes_[k]), float(row[k])) for k, row in zip(best, probs, strict=True)]


def _cross_validated(features: Floats, target: NDArray[Any], c: float, seed: int) -> float:
    counts = Counter(target.tolist())
    common = [label for label, number in counts.items() if number >= MIN_PER_CLASS]
    keep = np.isin(target, common)  # a class of one prompt cannot be in two folds
    features, target = features[keep], target[keep]
    num_folds = min(FOLDS, *(counts[label] for label in common))
    scores: list[float] = []
    for repeat in range(REPEATS):
        folds = StratifiedKFold(num_folds, shuffle=True, random_state=seed + repeat)
        found = cross_val_predict(_head(c, seed), features, target, cv=folds)
        scores.append(float(f1_score(target, found, average="macro")))
    return fmean(scores)


def _head(c: float, seed: int) -> Any:
    model = LogisticRegression(
        C=c, class_weight="balanced", max_iter=MAX_ITERATIONS, random_state=seed
    )
    return make_pipeline(StandardScaler(), model)


def seed_labels(
    labels: Mapping[int, str | None], rows: Sequence[int]
) -> tuple[list[int], list[str]]:
    """Those of `rows` that have a label, and their labels."""
    known = [(row, label) for row in rows if (label := labels.get(row)) is not None]
    return [row for row, _ in known], [label for _, label in known]
