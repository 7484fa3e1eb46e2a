import numpy as np
import pytest
from sklearn import metrics as sk

from equilibrate_core.agreement import (
    accuracy,
    agreement,
    cohen_kappa,
    confusion_matrix,
    macro_f1,
)
from equilibrate_core.metrics import mean_estimate

CLASSES = ["EHD", "IHD", "MHD", "NONE"]


def _labels(seed: int, size: int = 200) -> tuple[list[str], list[str]]:
    rng = np.random.default_rng(seed)
    gold = rng.choice(CLASSES, size=size, p=[0.5, 0.2, 0.1, 0.2])
    noise = rng.choice(CLASSES, size=size)
    return list(np.where(rng.random(size) < 0.6, gold, noise)), list(gold)


@pytest.mark.parametrize("seed", range(5))
def test_agreement_equals_scikit_learn(seed):
    labels, gold = _labels(seed)
    result = agreement(labels, gold, classes=CLASSES, seed=seed)
    assert result.accuracy.value == pytest.approx(sk.accuracy_score(gold, labels))
    assert result.macro_f1.value == pytest.approx(sk.f1_score(gold, labels, average="macro"))
    assert result.kappa.value == pytest.approx(sk.cohen_kappa_score(gold, labels))
    assert np.array_equal(result.matrix, sk.confusion_matrix(gold, labels, labels=CLASSES))
    for estimate in (result.accuracy, result.macro_f1, result.kappa):
        assert estimate.low < estimate.value < estimate.high
    assert accuracy(labels, gold) == result.accuracy.value
    assert macro_f1(labels, gold) == result.macro_f1.value
    assert cohen_kappa(labels, gold) == result.kappa.value


def test_kappa_interval_matches_resampling_items():
    labels, gold = _labels(9, size=120)
    result = agreement(labels, gold, seed=0, resamples=3000)
    rng = np.random.default_rng(0)
    rows = np.array([labels, gold])
    picks = (rows[:, rng.integers(0, 120, size=120)] for _ in range(1500))
    loop = [sk.cohen_kappa_score(pick[1], pick[0]) for pick in picks]
    assert result.kappa.low == pytest.approx(np.quantile(loop, 0.025), abs=0.02)
    assert result.kappa.high == pytest.approx(np.quantile(loop, 0.975), abs=0.02)


def test_twelve_of_twelve_right_is_not_certain_agreement():
    gold = ["Safe", "Unsafe"] * 6
    result = agreement(gold, gold)
    slack = 1 - 0.025 ** (1 / 12)  # Clopper-Pearson, as for any other constant share
    assert (result.accuracy.low, result.accuracy.high) == (pytest.approx(1 - slack), 1.0)
    assert result.macro_f1.low == pytest.approx(1 - slack)
    assert result.kappa.low == pytest.approx(1 - slack / 0.5)  # chance is one half
    assert result.kappa.high == 1.0


@pytest.mark.parametrize("size", [8, 12, 20, 50, 300])
@pytest.mark.parametrize("num_groups", [None, 4])
def test_a_judge_that_was_wrong_once_has_no_better_worst_case(
    size: int, num_groups: int | None
) -> None:
    gold = ["Safe", "Unsafe"] * (size // 2)
    groups = None if num_groups is None else [str(i % num_groups) for i in range(size)]
    right, once = (
        agreement([label, *gold[1:]], gold, groups=groups) for label in ("Safe", "Unsafe")
    )
    for name in ("accuracy", "macro_f1", "kappa"):
        assert getattr(once, name).low < getattr(right, name).low, name


def test_accuracy_has_the_interval_of_any_other_rate() -> None:
    for num_wrong in range(6):
        gold = ["Safe", "Unsafe"] * 10
        labels = ["neither"] * num_wrong + gold[num_wrong:]
        scores = {str(i): [float(i >= num_wrong)] for i in range(20)}
        rate = mean_estimate(scores, seed=0)
        assert rate is not None
        found = agreement(labels, gold).accuracy
        assert (found.low, found.high) == pytest.approx((rate.low, rate.high), abs=0.051)


def test_a_kappa_that_nothing_can_show_is_not_certain() -> None:
    alike = agreement(["Safe"] * 40, ["Safe"] * 40).kappa
    assert (alike.value, alike.low, alike.high) == (0.0, -1.0, 1.0)
    always = agreement(["Safe"] * 40, ["Safe"] * 30 + ["Unsafe"] * 10).kappa
    assert always.value == 0.0
    # Of what it never said, Unsafe, there may be up to 1 - 0.025^(1/40); chance is 3/4.
    assert always.high == pytest.approx((1 - 0.025 ** (1 / 40)) / 0.25)


def test_labels_of_one_group_are_no_independent_evidence():
    labels, gold = _labels(3, size=60)
    once = agreement(labels, gold, groups=[str(i) for i in range(60)], seed=0)
    groups = [str(i) for i in range(60)] * 10
    copied = agreement(labels * 10, gold * 10, groups=groups, seed=0)
    assert copied.num == 600
    for name in ("accuracy", "macro_f1", "kappa"):
        one, ten = getattr(once, name), getattr(copied, name)
        assert (ten.value, ten.low, ten.high) == pytest.approx((one.value, one.low, one.high))
    alone = agreement(labels * 10, gold * 10, seed=0)
    assert alone.kappa.high - alone.kappa.low < 0.5 * (copied.kappa.high - copied.kappa.low)


def test_interval_over_groups_matches_resampling_groups():
    labels, gold = _labels(9, size=120)
    result = agreement(labels, gold, groups=[str(i // 3) for i in range(120)], resamples=3000)
    rng = np.random.default_rng(0)
    rows = np.array([labels, gold]).reshape(2, 40, 3)
    picks = (rows[:, rng.integers(0, 40, size=40)].reshape(2, -1) for _ in range(1500))
    loop = [sk.cohen_kappa_score(pick[1], pick[0]) for pick in picks]
    assert result.kappa.low == pytest.approx(np.quantile(loop, 0.025), abs=0.02)
    assert result.kappa.high == pytest.approx(np.quantile(loop, 0.975), abs=0.02)


def test_rows_of_the_matrix_are_gold():
    matrix = confusion_matrix(["b", "b", "a"], ["a", "b", "a"], ["a", "b"])
    assert matrix.tolist() == [[1, 1], [0, 1]]


def test_a_judge_that_always_says_the_commonest_label_has_kappa_zero():
    result = agreement(["EHD"] * 10, ["EHD"] * 7 + ["NONE"] * 3)
    assert result.kappa.value == 0.0
    assert result.accuracy.value == result.majority_accuracy == 0.7


def test_one_class_throughout_has_a_finite_kappa():
    assert agreement(["EHD"] * 4, ["EHD"] * 4).kappa.value == 0.0


def test_unused_class_does_not_lower_macro_f1():
    result = agreement(["EHD", "NONE"], ["EHD", "NONE"], classes=CLASSES)
    assert result.macro_f1.value == 1.0


def test_scalars_are_flat_finite_and_carry_the_number_of_gold_labels():
    scalars = agreement(*_labels(0), seed=0).scalars()
    assert scalars["num_gold"] == 200
    assert {"accuracy_low", "macro_f1_high", "kappa", "majority_accuracy"} <= set(scalars)
    assert all(np.isfinite(value) for value in scalars.values())


def test_agreement_refuses_what_it_cannot_compare():
    with pytest.raises(ValueError, match="as many labels"):
        agreement(["a"], [])
    with pytest.raises(ValueError, match="as many labels"):
        agreement(["a"], ["a"], groups=["p", "q"])
    with pytest.raises(ValueError, match="not among the classes"):
        agreement(["OTHER"], ["EHD"], classes=CLASSES)
